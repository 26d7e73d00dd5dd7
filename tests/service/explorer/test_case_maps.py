"""Maps of a case: by hand on four voxels, as pictures and volumes that lie as they should, kept and made once."""

import gzip
import io
import math
import threading
from dataclasses import replace
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from segcal.errors import BadData, SegcalError, UnknownName
from segcal.measure.case import N_BINS, score_case
from segcal.measure.grid import FINE
from segcal.service.explorer import case_maps
from segcal.service.explorer.case_maps import (
    FULL,
    CaseMaps,
    MapStore,
    Waiting,
    error_kinds,
    map_key,
    predict_maps,
)
from segcal.service.explorer.case_slices import (
    ENTROPY,
    ERROR,
    OUTLINES,
    PROBABILITY,
    Look,
    picture_size,
    ramp,
    render_slice,
)
from segcal.service.explorer.case_volumes import affine_of, factors, outline, volume_bytes, volume_names
from segcal.tasks import TaskSpec
from segcal.volume import Case, Prediction
from tests.analysis.conftest import by_torch, make_case, make_config, make_member

SPACING = (5.0, 1.0, 2.0)  # mm along z, y, x


class Fixed:
    """A member whose probabilities are given: p of the only structure, voxel by voxel."""

    config = SimpleNamespace(head="softmax")

    def __init__(self, p):
        first = np.asarray(p, np.float32)
        self.prediction = Prediction(np.stack([1 - first, first]))

    def sampling(self, case_id):
        return None

    def net(self, device):
        return self


@pytest.fixture
def given(monkeypatch):
    """Networks are asked for nothing: what Fixed members hold is taken."""
    monkeypatch.setattr(case_maps, "slabs_of", lambda *_: [(0, None)])
    monkeypatch.setattr(case_maps, "predict_together", lambda nets, *_: (net.prediction for net in nets))


@pytest.fixture(scope="module")
def gland() -> TaskSpec:
    """One structure."""
    return TaskSpec(
        name="gland", layout="nnunet", channels=("t2",), labels={1: "gland"}, spacing_mm=(None, None, None),
        crop=(16, 16), batch=4,
    )  # fmt: skip


def four_voxels():
    """Truth 1 1 / 0 0."""
    truth = np.array([[[1, 1], [0, 0]]], np.uint8)
    return Case("four", np.zeros((1, 1, 2, 2), np.float32), truth, (1.0, 1.0, 1.0))


def make_maps(shape=(3, 4, 5), structures=1, seed=0):
    rng = np.random.default_rng(seed)
    probability = rng.integers(0, FULL // structures, (structures, *shape)).astype(np.uint16)
    labels = rng.integers(0, structures + 1, shape).astype(np.uint8)
    entropy = rng.integers(0, FULL, shape).astype(np.uint16)
    bins, segments = np.zeros((2, N_BINS, 3)), np.zeros((structures, FINE))
    return CaseMaps(probability, labels, entropy, {"nll@whole": 0.5, "dice@a": math.nan}, bins, segments)


def make_flat(shape=(3, 4, 5)):
    """An image of zeros with one bright voxel: first row, first column, last slice; the truth is just that voxel."""
    image, truth = np.zeros((1, *shape), np.float32), np.zeros(shape, np.uint8)
    image[0, -1, 0, 0], truth[-1, 0, 0] = 1.0, 1
    return Case("flat", image, truth, SPACING)


def test_maps_and_scores_of_four_voxels(given, gland):
    members = [Fixed([[[0.9, 0.75], [0.2, 0.1]]]), Fixed([[[0.74, 0.25], [0.34, 0.16]]])]
    case, said = four_voxels(), []
    mean, first, second = predict_maps(members, case, gland, alone=True, say=lambda *done: said.append(done))
    assert mean.probability[0] / FULL == pytest.approx(np.array([[[0.82, 0.5], [0.27, 0.13]]]), abs=1e-5)
    assert mean.labels.tolist() == [[[1, 0], [0, 0]]]  # 0.5 and 0.5: the lowest class
    assert error_kinds(mean.labels, case.truth).tolist() == [[[0, 1], [0, 0]]]
    h = [-p * math.log(p) - (1 - p) * math.log(1 - p) for p in (0.82, 0.5, 0.27, 0.13)]
    assert mean.most_entropy == pytest.approx(math.log(2))
    assert (mean.entropy / FULL * math.log(2)).ravel() == pytest.approx(h, abs=1e-5)
    scores = mean.scores
    assert scores["dice@gland"] == pytest.approx(2 / 3)
    assert scores["entropy@gland"] == pytest.approx(h[0], abs=1e-6)
    assert scores["nll@whole"] == pytest.approx(-math.log(0.82 * 0.5 * 0.73 * 0.87) / 4, abs=1e-6)
    assert scores["brier@whole"] == pytest.approx(2 * (0.18**2 + 0.25 + 0.27**2 + 0.13**2) / 4, abs=1e-6)
    assert scores["ece@whole"] == pytest.approx((0.5 + 0.27 + (0.18 + 0.13)) / 4, abs=1e-6)
    assert mean.reliability[1, :, 0].tolist() == [0, 0, 0, 0, 1, 0, 0, 1, 2, 0]  # 0.5, 0.73; 0.82 and 0.87
    assert mean.segments.sum() == 1
    assert mean.segments[0, int(0.82 * FINE) :].sum() == 1
    assert first.labels.tolist() == [[[1, 1], [0, 0]]]
    assert first.scores["dice@gland"] == 1
    assert second.labels.tolist() == [[[1, 0], [0, 0]]]
    assert said == [(1, 1)]


def test_error_kinds_say_what_is_wrong():
    labels, truth = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 0, 1, 1])
    assert error_kinds(labels, truth).tolist() == [0, 1, 2, 0, 3]


@pytest.mark.parametrize("label", ["ce", "dice_mc"])
def test_networks_predict_as_torch_does_and_score_as_the_report(label, tiny_task):
    """Slabs of 8 slices meet without a seam; the members alone are what they are in the ensemble."""
    members = [make_member(make_config(label, seed)) for seed in (0, 1)]
    case = make_case(shape=(10, 16, 16))
    mean, *alone = predict_maps(members, case, tiny_task, alone=True)
    (again,) = predict_maps(members[:1], case, tiny_task)
    assert np.array_equal(again.probability, alone[0].probability)
    assert again.scores == pytest.approx(alone[0].scores, nan_ok=True)
    if label == "ce":
        p = (by_torch(members[0], case)[0] + by_torch(members[1], case)[0]) / 2
        assert np.abs(mean.probability / FULL - p[1:]).max() < 2e-5
        assert np.abs(mean.entropy / FULL * math.log(4) + (p * np.log(p)).sum(axis=0)).max() < 1e-4
        expected = score_case(Prediction(p.astype(np.float32)), case, tiny_task)
        assert mean.scores == pytest.approx(expected, abs=1e-5, nan_ok=True)


def test_a_key_follows_from_the_members_whatever_their_order():
    assert map_key(["a", "b"], "test") == map_key(["b", "a"], "test")
    assert len({map_key(["a", "b"], "test"), map_key(["a"], "test"), map_key(["a", "b"], "ood")}) == 3


# Pictures


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_slices_have_the_shape_of_the_patient():
    """15 x 4 x 10 mm: the longest side has 512 pixels, and a millimetre is as long in every plane."""
    assert [picture_size((3, 4, 5), SPACING, axis) for axis in "zyx"] == [(137, 341), (512, 341), (512, 137)]
    for axis in "zyx":
        content = render_slice(make_flat(), None, Look(truth=False), axis, 0)
        assert pixels(content).shape == (*picture_size((3, 4, 5), SPACING, axis), 3)


@pytest.mark.parametrize(("axis", "index"), [("z", 2), ("y", 0), ("x", 0)])
def test_the_voxel_to_the_upper_left_is_there(axis, index):
    """The patient's right, front and head: left and above in every plane."""
    found = pixels(render_slice(make_flat(), None, Look(truth=False), axis, index))[..., 0]
    assert found[0, 0] == 255
    assert found[-1, -1] == found[0, -1] == found[-1, 0] == 0


def test_a_layer_is_mixed_by_its_opacity_above_its_threshold():
    case, maps = make_flat(), make_maps()
    maps.probability[0, 0] = 0
    maps.probability[0, 0, 0, :2] = FULL, FULL // 2
    look = Look(truth=False, opacity=0.5, threshold=0.5)
    found = pixels(render_slice(case, maps, look, "z", 0))
    assert found[0, 0].tolist() == [round(v / 2) for v in ramp(PROBABILITY)[255].tolist()]  # over black
    assert found[0, 100].tolist() == [0, 0, 0]  # the second voxel: 0.49999 does not exceed 0.5
    half = pixels(render_slice(case, maps, Look(truth=False, opacity=1, threshold=0.4), "z", 0))
    assert half[0, 100].tolist() == ramp(PROBABILITY)[127].tolist()


def test_entropy_is_masked_in_nats_and_errors_have_their_colours():
    case, maps = make_flat(), make_maps()
    maps.entropy[0] = 0
    maps.entropy[0, 0, 0] = round(0.6 / math.log(2) * FULL)
    shown = pixels(render_slice(case, maps, Look(layer="entropy", truth=False, opacity=1, threshold=0.59), "z", 0))
    assert shown[0, 0].tolist() == ramp(ENTROPY)[maps.entropy[0, 0, 0] >> 8].tolist()
    clear = pixels(render_slice(case, maps, Look(layer="entropy", truth=False, opacity=1, threshold=0.61), "z", 0))
    assert not clear.any()
    maps.labels[2] = 0
    wrong = pixels(render_slice(case, maps, Look(layer="error", truth=False, opacity=1), "z", 2))
    assert wrong[0, 0].tolist() == ramp((ERROR[0],), 1)[0].tolist()  # the one true voxel is missed
    assert not wrong[-1].any()


def test_the_truth_is_a_rim_of_its_colour():
    found = pixels(render_slice(make_flat(), None, Look(), "z", 2))
    height, width = 137 // 4, 341 // 5  # of the one voxel
    colour = ramp((OUTLINES[0],), 1)[0].tolist()
    assert found[0, 5].tolist() == found[5, 0].tolist() == found[height - 1, 5].tolist() == colour
    assert found[height // 2, width // 2].tolist() != colour
    assert found[height + 4, 5].tolist() != colour


def test_a_slice_beyond_the_volume_is_refused():
    with pytest.raises(ValueError, match=r"0\.\.2, got 3"):
        render_slice(make_flat(), None, Look(), "z", 3)


# Volumes


def opened(content):
    return nib.Nifti1Image.from_bytes(gzip.decompress(content))


def test_volumes_are_nifti_in_their_place():
    case, maps = make_flat(), make_maps()
    image = opened(volume_bytes("image-0", case, None, 1))
    assert image.header.get_zooms() == (2.0, 1.0, 5.0)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    assert np.asarray(image.dataobj)[0, 0, 2] == pytest.approx(1.0)
    p = opened(volume_bytes("p-1", case, maps, 1))
    assert np.asarray(p.dataobj).transpose(2, 1, 0) == pytest.approx(maps.probability[0] / FULL, abs=1e-7)
    entropy = opened(volume_bytes("entropy", case, maps, 1))
    expected = maps.entropy / FULL * math.log(2)
    assert np.asarray(entropy.dataobj).transpose(2, 1, 0) == pytest.approx(expected, abs=1e-6)
    assert volume_bytes("p-1", case, maps, 1) == volume_bytes("p-1", case, maps, 1)
    for name in volume_names(case, maps, 1):
        assert opened(volume_bytes(name, case, maps, 1)).header.get_zooms()[0] <= 2.0


def test_a_fine_grid_lies_where_the_coarse_one_does():
    """The middle of every third fine voxel is the middle of a prepared one, and has its value."""
    case = make_flat()
    assert factors(case.truth.shape) == (3, 3, 3)
    coarse, fine = opened(volume_bytes("image-0", case, None, 1)), opened(volume_bytes("fine-0", case, None, 1))
    assert fine.shape == (15, 12, 9)
    middle = nib.affines.apply_affine(fine.affine, (1 + 3 * 4, 1 + 3 * 2, 1 + 3 * 1))
    assert middle == pytest.approx(nib.affines.apply_affine(coarse.affine, (4, 2, 1)))
    assert np.asarray(fine.dataobj)[1::3, 1::3, 1::3] == pytest.approx(np.asarray(coarse.dataobj))
    assert affine_of((1.0, 1.0, 1.0))[:3, 3].tolist() == [0, 0, 0]


def test_outlines_are_rims_and_large_volumes_are_not_divided():
    truth = np.zeros((3, 4, 4), np.uint8)
    truth[1, 1:3, 1:3] = 1
    truth[1, 1, 1] = 2
    rim = outline(truth, 1, (3, 3, 3))
    assert rim.shape == (9, 12, 12)
    assert set(np.unique(rim)) == {0, 1}
    assert rim[4, 7, 7] == 0
    assert rim[4, 8, 8] == 1
    assert rim[3, 7, 7] == 1
    assert outline(truth, None, (3, 3, 3))[4, 3, 4] == 2
    flat = outline(np.ones((3, 5, 5), np.uint8), None, (1, 1, 1))
    assert flat[0].tolist() == flat[1].tolist()
    assert flat[1, 2, 2] == 0
    assert factors((80, 224, 224)) == (1, 1, 1)
    assert factors((20, 224, 224)) == (3, 1, 1)


def test_an_unknown_volume_is_named():
    with pytest.raises(UnknownName, match="did you mean 'entropy'"):
        volume_bytes("entropie", make_flat(), make_maps(), 1)
    with pytest.raises(UnknownName, match="known: fine-0, image-0, outline, outline-1, truth"):
        volume_bytes("p-1", make_flat(), None, 1)


# Keeping


@pytest.fixture
def kept(tmp_path):
    found = MapStore(tmp_path / "views")
    yield found
    found.close()


def made(store, name, make):
    """The maps, waited for."""
    answer = store.ask(name, make)
    if isinstance(answer, Waiting):
        store.wait(name, 10)
        answer = store.ask(name, make)
    assert isinstance(answer, CaseMaps)
    return answer


def same(a, b):
    names = ("probability", "labels", "entropy", "reliability", "segments")
    assert a.scores == pytest.approx(b.scores, nan_ok=True, abs=0)
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def test_what_two_ask_for_at_once_is_made_once(kept):
    go, calls = threading.Event(), []

    def make(say):
        calls.append(1)
        say(3, 8)
        go.wait(10)
        return {"d/c/a": make_maps(), "d/c/b": make_maps(seed=1)}

    answers = []
    threads = [threading.Thread(target=lambda: answers.append(kept.ask("d/c/a", make))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 5
    assert all(answer is answers[0] for answer in answers)
    assert isinstance(answers[0], Waiting)
    go.set()
    kept.wait("d/c/a", 10)
    assert (answers[0].done, answers[0].total) == (3, 8)
    assert same(made(kept, "d/c/a", make), make_maps())
    assert same(made(kept, "d/c/b", make), make_maps(seed=1))
    assert len(calls) == 1


def test_another_store_finds_the_file_and_makes_a_torn_one_again(kept):
    made(kept, "d/c/a", lambda say: {"d/c/a": make_maps()})
    path = kept.folder / "d" / "c" / "a.npz"
    assert same(MapStore(kept.folder).find("d/c/a"), make_maps())
    path.write_bytes(path.read_bytes()[:-300])
    fresh = MapStore(kept.folder)
    assert fresh.find("d/c/a") is None
    assert same(made(fresh, "d/c/a", lambda say: {"d/c/a": make_maps(seed=2)}), make_maps(seed=2))
    assert same(MapStore(kept.folder).find("d/c/a"), make_maps(seed=2))
    fresh.close()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF  # a flipped byte
    path.write_bytes(content)
    assert MapStore(kept.folder).find("d/c/a") is None
    assert [p.name for p in path.parent.iterdir()] == []


def test_files_stay_below_their_bound_and_the_oldest_go(tmp_path):
    size = len(case_maps._bytes(make_maps()))
    store = MapStore(tmp_path, most_bytes=3.5 * size, in_memory=1)
    for n in range(6):
        made(store, f"d/c/{n}", lambda say, n=n: {f"d/c/{n}": make_maps(seed=n)})
        assert store.find("d/c/0") is not None  # looked at again and again: it stays
    left = sorted(path.stem for path in tmp_path.rglob("*.npz"))
    assert left == ["0", "4", "5"]
    assert sum(p.stat().st_size for p in tmp_path.rglob("*.npz")) <= 3.5 * size
    store.close()


def test_a_failure_is_told_and_later_tried_again(kept, monkeypatch):
    def lost(say):
        raise BadData("segcal-tiny-ce version 2: the checkpoint's files must be there")

    kept.ask("d/c/a", lost)
    kept.wait("d/c/a", 10)
    with pytest.raises(BadData, match="segcal-tiny-ce version 2"):
        kept.ask("d/c/a", lost)
    monkeypatch.setattr(case_maps, "SHOWN_AGAIN", 0.0)
    assert same(made(kept, "d/c/a", lambda say: {"d/c/a": make_maps()}), make_maps())


def test_a_defect_is_told_without_its_inside(kept):
    kept.ask("d/c/a", lambda say: {}["secret"])
    kept.wait("d/c/a", 10)
    with pytest.raises(SegcalError, match="could not be predicted: KeyError; the log says why"):
        kept.ask("d/c/a", lambda say: {})


def test_a_queue_has_an_end(tmp_path):
    go, store = threading.Event(), MapStore(tmp_path, queue=2)

    def make(say):
        go.wait(10)
        return {}

    first, second = store.ask("d/c/a", make), store.ask("d/c/b", make)
    assert (first.ahead, second.ahead) == (0, 1)
    with pytest.raises(SegcalError, match="at most 2 cases may wait"):
        store.ask("d/c/c", make)
    go.set()
    store.wait("d/c/b", 10)
    assert second.ahead == 0
    store.close()


def test_a_name_stays_below_the_folder(kept):
    with pytest.raises(ValueError, match="must stay below"):
        kept.find("../../x")


def test_a_full_disk_costs_the_file_only(kept, monkeypatch):
    monkeypatch.setattr(case_maps, "_bytes", lambda maps: (_ for _ in ()).throw(OSError("No space left on device")))
    assert same(made(kept, "d/c/a", lambda say: {"d/c/a": make_maps()}), make_maps())
    assert not list(kept.folder.rglob("*.npz"))


def test_a_network_over_volumes_predicts_the_whole_at_once(tiny_task):
    task = replace(tiny_task, crop=(16, 16, 16))
    members = [make_member(make_config("ce", seed, dims=3)) for seed in (0, 1)]
    case = make_case(shape=(16, 16, 16))
    mean, first, _ = predict_maps(members, case, task, alone=True)
    p = (by_torch(members[0], case)[0] + by_torch(members[1], case)[0]) / 2
    assert np.abs(mean.probability / FULL - p[1:]).max() < 2e-5
    assert np.abs(first.probability / FULL - by_torch(members[0], case)[0][1:]).max() < 2e-5


def test_a_store_that_closes_ends_what_is_under_way(tmp_path):
    store, begun, ended = MapStore(tmp_path), threading.Event(), []

    def make(say):
        begun.set()
        for slab in range(10_000):
            say(slab, 10_000)
            threading.Event().wait(0.002)
        ended.append("all of it")
        return {}

    store.ask("d/c/a", make)
    begun.wait(10)
    store.close()
    store.wait("d/c/a", 10)
    assert not ended
    assert not list(tmp_path.rglob("*.npz"))

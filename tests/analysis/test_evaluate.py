"""Scores of subsets against score_case of the stored mean, computed by plain torch; and what the cache saves."""

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from segcal.analysis import evaluate as module
from segcal.analysis.ensembles import Subset, all_subsets, recipes
from segcal.analysis.evaluate import Job, evaluate, score_job
from segcal.analysis.score_cache import ScoreCache
from segcal.analysis.variants import VARIANTS
from segcal.errors import UsageError
from segcal.measure.case import CaseTally, columns, score_case
from segcal.volume import Prediction
from tests.analysis.conftest import by_torch, make_case, make_config, make_member, make_ref, quiet

PLENTY = 8.0  # GB


@pytest.fixture(scope="module")
def task(tiny_task):
    return replace(tiny_task, ensemble_sizes=(1, 2, 3), curve_draws=3)


def study(task, **seeds):
    """Pool and subsets of labels with so many seeds each."""
    members = [make_member(make_config(label, seed)) for label, count in seeds.items() for seed in range(count)]
    pool = {}
    for member in members:
        pool.setdefault(member.config.recipe, []).append(member)
    chosen = recipes([make_ref(member.config) for member in members])
    return pool, all_subsets(chosen, {recipe: found[0].config for recipe, found in pool.items()}, task, 0)


def score(cases, task, pool, subsets, folder, memory_gb=PLENTY, say=quiet):
    return evaluate(cases, task, pool, subsets, ScoreCache(folder, task, "cpu"), memory_gb, say)


@pytest.fixture
def counted(monkeypatch):
    """How many subsets each job computed."""
    jobs = []

    def counting(job, members):
        jobs.append(len(job.subsets))
        return score_job(job, members)

    monkeypatch.setattr(module, "score_job", counting)
    return jobs


def assert_same(stored, expected, names):
    for name, value in zip(names, stored.metrics, strict=True):
        coarse = name.startswith(("ece", "clipped"))  # a voxel's last bit may put it into the next bin
        np.testing.assert_allclose(value, expected[name], rtol=2e-5, atol=2e-3 if coarse else 2e-6, err_msg=name)


def test_scores_equal_those_of_the_stored_mean_prediction(task, tmp_path):
    case = make_case(shape=(11, 16, 16))  # two slabs, the second not full
    pool, subsets = study(task, ce=4, dice=4)
    found = score([case], task, pool, subsets, tmp_path)
    assert torch.is_inference_mode_enabled() is False
    names = columns(task)
    checked = Counter()
    for subset in subsets:
        members = [pool[subset.recipe][m] for m in subset.members]
        config = members[0].config
        probs = [by_torch(member, case) for member in members]
        read = [p.astype(np.float32) for p, _ in probs]
        if subset.variant:
            read = [VARIANTS[subset.variant].read(p[None], config)[0] for p in read]
        mean = np.mean(read, axis=0, dtype=np.float64).astype(np.float32)
        exact = probs[0][1].astype(np.float32) if len(members) == 1 and not subset.variant else None
        expected = score_case(Prediction(mean, exact), case, task)
        if not subset.full:
            expected |= {name: np.nan for name in names if name.startswith("hd95")}
        if subset.decomposed:
            for region, where in {"whole": np.ones(case.truth.shape, bool), "box": box_of(case, task)}.items():
                q = np.array([p.astype(np.float64) for p in read])
                m = q.mean(axis=0)
                expected[f"variance@{region}"] = ((q - m) ** 2).mean(axis=0).sum(axis=0)[where].mean()
                expected[f"entropy@{region}"] = entropy(m)[where].mean()
                expected[f"member_entropy@{region}"] = entropy(q.swapaxes(0, 1)).mean(axis=0)[where].mean()
        assert_same(found.cases["c1"][found.keys[subset]], expected, names)
        checked[len(members), bool(subset.variant), subset.decomposed] += 1
    assert checked == {
        (1, False, False): 8, (1, True, False): 8, (2, False, True): 2, (2, False, False): 4,
        (3, False, False): 6, (3, True, False): 2,
    }  # fmt: skip


def box_of(case, task):
    z, y, x = np.nonzero(case.truth)
    margin, inside = int(task.box_margin_mm), np.zeros(case.truth.shape, bool)
    inside[
        max(0, z.min() - task.box_margin_slices) : z.max() + 1 + task.box_margin_slices,
        max(0, y.min() - margin) : y.max() + 1 + margin,
        max(0, x.min() - margin) : x.max() + 1 + margin,
    ] = True
    return inside


def entropy(p):
    return -(p * np.log(p)).sum(axis=0)


def test_bins_are_those_of_the_mean_prediction(task, tmp_path):
    case = make_case(shape=(4, 16, 16))
    pool, subsets = study(task, dice=3)
    found = score([case], task, pool, subsets, tmp_path)
    (three,) = [s for s in subsets if len(s.members) == 3 and not s.variant]
    mean = np.mean([by_torch(m, case)[0] for m in pool[three.recipe]], axis=0)
    stored = found.cases["c1"][found.keys[three]]
    confidence, winner = mean.max(axis=0), mean.argmax(axis=0)
    count, _ = np.histogram(confidence, bins=10, range=(0, 1))
    assert np.abs(stored.top[1, :, 0] - count).sum() <= 2
    assert stored.top[1, :, 1].sum() == pytest.approx(confidence.sum(), rel=1e-6)
    assert stored.top[1, :, 2].sum() == (winner == case.truth).sum()
    assert stored.top[0, :, 0].sum() == box_of(case, task).sum()
    assert stored.classwise[1, :, :, 0].sum(axis=1).tolist() == [case.truth.size] * 4
    assert [s.sum() for s in stored.segments] == [(winner == label).sum() for label in (1, 2, 3)]


def test_monte_carlo_members_are_scored_by_their_mean_over_samples(task, tmp_path):
    case = make_case()
    pool, subsets = study(task, dice_mc=2)
    found = score([case], task, pool, subsets, tmp_path)
    (members,) = pool.values()
    for subset, member in zip(subsets, members, strict=True):
        net = member.net(torch.device("cpu"))
        total = 0
        for z in range(4):
            name = f"{member.sha256} {case.case_id} {z}"
            seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1
            image = torch.from_numpy(case.image[:, z : z + 1].swapaxes(0, 1).copy())
            with torch.no_grad(), net.sampling(torch.Generator().manual_seed(seed)):
                logits = net(image.expand(3, -1, -1, -1)).double().numpy()
            odds = np.concatenate([np.ones_like(logits[:, :1]), np.exp(logits)], axis=1)
            p = (odds / odds.sum(axis=1, keepdims=True)).mean(axis=0)
            total -= np.log(np.take_along_axis(p, case.truth[z][None].astype(int), 0)).sum()
        stored = dict(zip(columns(task), found.cases["c1"][found.keys[subset]].metrics, strict=True))
        assert stored["nll@whole"] == pytest.approx(total / case.truth.size, rel=1e-5)


def test_what_is_known_is_not_computed_again(task, tmp_path, counted):
    cases = [make_case("c1"), make_case("c22")]
    pool, subsets = study(task, ce=2, dice=2)
    said = []
    first = score(cases, task, pool, subsets, tmp_path, say=said.append)
    assert said[0] == "scores: 0 of 4 (case, recipe) pairs are known, 4 to compute"
    assert counted == [6] * 4  # two single models and their pair, in two readings
    counted.clear()
    again = score(cases, task, pool, subsets, tmp_path, say=said.append)
    assert counted == []
    assert said[-1] == "scores: 4 of 4 (case, recipe) pairs are known, 0 to compute"
    for case_id, known in first.cases.items():
        for key, stored in known.items():
            np.testing.assert_array_equal(again.cases[case_id][key].metrics, stored.metrics)


def test_a_new_member_brings_its_own_subsets_only(task, tmp_path, counted):
    pool, subsets = study(task, ce_mc=2)
    score([make_case()], task, pool, subsets, tmp_path)
    pool, subsets = study(task, ce_mc=3)
    score([make_case()], task, pool, subsets, tmp_path)
    assert counted == [2, 1]
    larger = replace(task, ensemble_sizes=(1, 2), curve_draws=9)
    pool, subsets = study(larger, dice=3)
    score([make_case()], larger, pool, subsets, tmp_path)
    pool, subsets = study(larger, dice=4)
    counted.clear()
    score([make_case()], larger, pool, subsets, tmp_path)
    assert counted == [2 + 3]  # the single model in two readings, and three pairs with it


def test_a_members_place_in_the_pool_does_not_matter(task, tmp_path, counted):
    pool, subsets = study(task, dice=3)
    before = score([make_case()], task, pool, subsets, tmp_path)
    (recipe,) = pool
    turned = {recipe: pool[recipe][::-1]}
    counted.clear()
    (three,) = [s for s in subsets if len(s.members) == 3 and not s.variant]
    after = score([make_case()], task, turned, [three], tmp_path)
    assert counted == []
    assert after.keys[three] == before.keys[three]


@pytest.mark.parametrize("changed", [{"box_margin_mm": 1.0}, {"box_margin_slices": 0}])
def test_another_box_is_another_score(task, tmp_path, counted, changed):
    pool, subsets = study(task, ce=1)
    other = replace(task, **changed)
    case = make_case(shape=(8, 16, 16))
    first = score([case], task, pool, subsets, tmp_path)
    second = score([case], other, pool, subsets, tmp_path)
    assert counted == [2, 2]
    at = columns(task).index("voxels@box")
    sizes = [e.cases["c1"][e.keys[subsets[0]]].metrics[at] for e in (first, second)]
    assert sizes == [box_of(case, task).sum(), box_of(case, other).sum()]
    assert sizes[0] > sizes[1]


def test_another_head_or_number_of_samples_is_another_score(task, tmp_path, counted):
    member = make_member(make_config("ce_mc"))
    for changed in ({"head": "raw_sum"}, {"mc_samples": 4}, {"mc_samples": 0}):
        other = replace(member, config=replace(member.config, **changed))
        assert other.sha256 == member.sha256
        for one in (member, other):
            score([make_case()], task, {"r": [one]}, [Subset("r", "x", 0, (0,))], tmp_path)
    assert counted == [1] * 4


def test_an_interrupted_evaluation_keeps_what_is_done(task, tmp_path, monkeypatch):
    cases = [make_case("c1"), make_case("c22")]
    pool, subsets = study(task, ce=1, dice=1)
    done = []

    def breaking(job, members):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append((job.case.case_id, job.subsets[0].recipe))
        return score_job(job, members)

    with monkeypatch.context() as patch:
        patch.setattr(module, "score_job", breaking)
        with pytest.raises(KeyboardInterrupt):
            score(cases, task, pool, subsets, tmp_path)
    assert torch.is_inference_mode_enabled() is False
    resumed = []

    def watching(job, members):
        resumed.append((job.case.case_id, job.subsets[0].recipe))
        return score_job(job, members)

    monkeypatch.setattr(module, "score_job", watching)
    found = score(cases, task, pool, subsets, tmp_path)
    assert not set(done) & set(resumed)
    assert len(done) + len(resumed) == 4
    assert all(set(found.keys.values()) == set(known) for known in found.cases.values())


@pytest.mark.parametrize("content", [b"", b"garbage", None])
def test_a_damaged_cache_is_computed_again(task, tmp_path, counted, content):
    pool, subsets = study(task, dice=1)
    whole = score([make_case()], task, pool, subsets, tmp_path)
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    again = score([make_case()], task, pool, subsets, tmp_path)
    assert counted == [2, 2]
    for key, stored in whole.cases["c1"].items():
        np.testing.assert_array_equal(again.cases["c1"][key].metrics, stored.metrics)


def test_too_little_memory_is_told_with_what_is_needed(task, tmp_path):
    pool, subsets = study(task, ce=2)
    with pytest.raises(UsageError, match=r"at least 1\.1 GB .* task tiny, got 1; raise --memory-gb"):
        score([make_case()], task, pool, subsets, tmp_path, memory_gb=1)
    assert not list(tmp_path.rglob("*.npz"))
    score([make_case()], task, pool, subsets, tmp_path, memory_gb=1.1)


def test_a_case_without_structures_has_a_whole_and_no_box(task, tmp_path):
    case = make_case()
    empty = replace(case, truth=np.zeros_like(case.truth))
    pool, subsets = study(task, dice=2)
    found = score([empty], task, pool, subsets, tmp_path)
    for subset, key in found.keys.items():
        values = dict(zip(columns(task), found.cases["c1"][key].metrics, strict=True))
        assert np.isnan([v for name, v in values.items() if name.endswith("@box")]).all()
        assert np.isfinite([values["nll@whole"], values["ece@whole"]]).all() or subset.variant
        for structure in task.structures:
            assert np.isnan(values[f"hd95@{structure}"])
            assert values[f"dice@{structure}"] == 0 or np.isnan(values[f"entropy@{structure}"])


@pytest.fixture
def volumes(task):
    """A task of volumes, a case, and three networks over volumes."""
    spec = replace(task, crop=(16, 16, 16))
    members = [make_member(make_config("dice", seed, dims=3)) for seed in range(3)]
    return spec, make_case(shape=(10, 16, 16)), members


def test_networks_over_volumes_equal_plain_torch(volumes, tmp_path):
    task, case, members = volumes
    subsets = [Subset("r", "dice", 0, (0,)), Subset("r", "dice", 0, (0, 1, 2), decomposed=True)]
    found = score([case], task, {"r": members}, subsets, tmp_path)
    probs = [by_torch(member, case) for member in members]
    exact = Prediction(probs[0][0].astype(np.float32), probs[0][1].astype(np.float32))
    one = score_case(exact, case, task)
    assert_same(found.cases["c1"][found.keys[subsets[0]]], one, columns(task))
    mean = np.mean([p for p, _ in probs], axis=0).astype(np.float32)
    three = dict(zip(columns(task), found.cases["c1"][found.keys[subsets[1]]].metrics, strict=True))
    for name, value in score_case(Prediction(mean), case, task).items():
        if name.startswith(("nll@", "brier", "dice", "hd95@")):
            assert three[name] == pytest.approx(value, rel=2e-5), name


def test_bands_of_slices_give_the_scores_of_the_whole_volume(volumes, monkeypatch):
    task, case, members = volumes
    subsets = (
        Subset("r", "dice", 0, (0,)), Subset("r", "dice", 0, (0, 1, 2), decomposed=True),
        Subset("r", "dice", 0, (0, 2), full=False), Subset("r", "dice", 0, (0, 1, 2), "raw_sum"),
    )  # fmt: skip
    slabs = []
    add = CaseTally.add
    monkeypatch.setattr(CaseTally, "add", lambda self, slab: (slabs.append(slab.probs.shape[2]), add(self, slab)))
    job = Job(case, task, "r", subsets, (b"",) * 4, 3, 1.0)
    whole = score_job(job, members)
    assert slabs == [10, 10]  # of the plain reading and of the other
    slabs.clear()
    banded = score_job(replace(job, gigabytes=3.5e-4), members)
    assert slabs == [4, 4, 4, 4, 2, 2]
    for name, values in whole.metrics.items():
        np.testing.assert_allclose(banded.metrics[name], values, rtol=1e-9, err_msg=name)
    for part in ("top", "classwise", "segments"):
        np.testing.assert_allclose(getattr(banded, part), getattr(whole, part), rtol=1e-9)


@pytest.mark.long
def test_scores_on_ray_are_those_without(task, tmp_path, monkeypatch):
    cases = [make_case("c1"), make_case("c22")]
    pool, subsets = study(task, ce=2, dice_mc=1)
    here = score(cases, task, pool, subsets, tmp_path / "here")
    said = []
    monkeypatch.setattr("segcal.analysis.workers.WORTH_IT", 0)
    monkeypatch.setattr("segcal.analysis.workers.cores", lambda: 2)
    there = score(cases, task, pool, subsets, tmp_path / "there", memory_gb=2.2, say=said.append)
    assert "starting Ray" in said
    assert there.keys == here.keys
    for case_id, known in here.cases.items():
        for key, stored in known.items():
            np.testing.assert_array_equal(there.cases[case_id][key].metrics, stored.metrics)
            np.testing.assert_array_equal(there.cases[case_id][key].top, stored.top)

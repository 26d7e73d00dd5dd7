"""Which case, which slice, whose map, and what stands beside it."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from segcal.analysis import pictures
from segcal.analysis.build_report import build_report
from segcal.analysis.ensembles import methods
from segcal.analysis.pictures import Gallery, plates
from segcal.analysis.request import Request
from segcal.analysis.roles import Roles
from segcal.analysis.score_cache import ScoreCache
from segcal.data.prepare import prepare
from segcal.measure.grid import FINE
from tests.analysis.conftest import by_torch, make_material, quiet


def gallery_of(material, scores, folder):
    task, pool = material.task, material.pool
    configs = {recipe: members[0].config for recipe, members in pool.items()}
    rows = tuple(methods(material.chosen, configs, task))
    roles = Roles(rows, configs, {recipe: len(members) for recipe, members in pool.items()})
    found = {"test": material.cohort.cases("test"), "ood": material.ood.cases("ood") if material.ood else []}
    cases = {case.case_id: (case, split) for split, of in found.items() for case in of}
    typical = {recipe.recipe: recipe.typical for recipe in material.chosen}
    caches = {split: ScoreCache(folder / split, task, "cpu") for split in found}
    return Gallery(scores, roles, task, pool, typical, cases, caches)


@pytest.fixture
def gallery(study, material, tmp_path):
    return gallery_of(material, study[1], tmp_path)


@pytest.fixture
def views(study):
    """Views of the report by plate."""
    return {plate.key: plate.views for plate in study[0].plates}


def dice_of(scores, case_id):
    """Mean Dice over the methods of the tables, whatever their number of draws, and over structures."""
    f = scores.frame
    shown = f[(f.variant == "") & f.full & (f.case_id == case_id)]
    names = [c for c in f.columns if c.startswith("dice@")]
    methods = [group[names].mean().mean() for _, group in shown.groupby(["recipe", "size"], observed=True)]
    return float(np.nanmean(methods))


def test_the_slice_is_the_one_with_most_of_the_structures(gallery):
    for case_id, (case, _) in gallery.cases.items():
        view = gallery.view(case_id, [], "why")
        sizes = [int((case.truth[z] > 0).sum()) for z in range(4)]
        assert sizes[view.slice_index] == max(sizes)
        np.testing.assert_array_equal(view.image, case.image[-1, view.slice_index])
        np.testing.assert_array_equal(view.truth, case.truth[view.slice_index])
        assert (view.case_id, view.caption, view.spacing_mm) == (case_id, "why", (1.0, 1.0))
        assert view.domain == ("target" if "CBICA" in case_id else "source")


def test_an_ensembles_map_is_the_mean_of_its_lowest_seeds(gallery):
    case_id = "Brats17_TCIA_T05_1"
    case, _ = gallery.cases[case_id]
    for name in ("EN CE", "EN DSC"):
        method = gallery.roles.method(name)
        for size in (4, 2):
            view = gallery.view(case_id, [replace(method, size=size)], "", detail=False)
            members = gallery.pool[method.recipe][:size]
            expected = 1 - np.mean([by_torch(m, case)[0][0, view.slice_index] for m in members], axis=0)
            np.testing.assert_allclose(view.maps[0].probability, expected, atol=1e-6)


def test_a_single_models_map_is_that_of_the_typical_member(gallery, material):
    case_id = "Brats17_TCIA_T05_1"
    case, _ = gallery.cases[case_id]
    method = gallery.roles.method("DSC")
    view = gallery.view(case_id, [method], "")
    # validation Dice by seed: 0.1, 0.4, 0.2, 0.5; the lower of the middle two is that of seed 2
    member = gallery.pool[method.recipe][2]
    np.testing.assert_allclose(view.maps[0].probability, 1 - by_torch(member, case)[0][0, view.slice_index], atol=1e-6)


@pytest.mark.parametrize(("name", "draws"), [("CE", 4), ("MCDO DSC", 2), ("EN DSC", 1)])
@pytest.mark.parametrize(("case_id", "split"), [("Brats17_TCIA_T06_1", "test"), ("Brats17_CBICA_T01_1", "ood")])
def test_beside_a_map_stand_the_scores_of_the_whole_volume(gallery, name, draws, case_id, split):
    case, method = gallery.cases[case_id][0], gallery.roles.method(name)
    (shown,) = gallery.view(case_id, [method], "").maps
    f = gallery.scores.frame
    mine = f[(f.recipe == method.recipe) & (f["size"] == method.size) & (f.variant == "") & (f.case_id == case_id)]
    assert (len(mine), set(mine.split)) == (draws, {split})
    expected = {"ECE %": 100 * mine["ece@whole"].mean(), "NLL": mine["nll@whole"].mean()}
    expected["Brier"] = mine["brier@whole"].mean()
    assert dict(shown.scores) == pytest.approx(expected)
    assert shown.reliability.count.sum() == case.truth.size * draws
    assert shown.title == shown.reliability.title == method.title


def test_the_histogram_counts_every_predicted_voxel_by_its_probability(gallery):
    case_id, method = "Brats17_TCIA_T04_1", gallery.roles.method("EN DSC")
    case, _ = gallery.cases[case_id]
    probs = np.mean([by_torch(m, case)[0] for m in gallery.pool[method.recipe]], axis=0)
    winner, confidence = probs.argmax(axis=0), probs.max(axis=0)
    expected = np.histogram(confidence[winner > 0], bins=FINE, range=(0, 1))[0]
    found = gallery.view(case_id, [method], "").maps[0].histogram
    assert found.sum() == (winner > 0).sum()
    assert np.abs(found - expected).sum() <= 2  # a voxel on an edge


def test_what_was_drawn_is_not_predicted_again(gallery, monkeypatch):
    calls = Counter()

    def counting(member, *rest):
        calls[member.name] += 1
        return predictions(member, *rest)

    predictions = pictures.predictions
    monkeypatch.setattr(pictures, "predictions", counting)
    ensemble = gallery.roles.method("EN CE")
    first = gallery.view("Brats17_TCIA_T04_1", [ensemble], "")
    gallery.view("Brats17_TCIA_T04_1", [replace(ensemble, size=3), replace(ensemble, size=1)], "")
    assert sorted(calls.values()) == [1] * 4  # ensembles share their members
    fresh = Gallery(gallery.scores, gallery.roles, gallery.task, gallery.pool, gallery.typical, gallery.cases,
                    gallery.caches)  # fmt: skip
    again = fresh.view("Brats17_TCIA_T04_1", [ensemble], "")
    assert sorted(calls.values()) == [1] * 4
    np.testing.assert_array_equal(again.maps[0].probability, first.maps[0].probability)


def test_pictures_of_two_cohorts_are_kept_apart(gallery, tmp_path):
    ensemble = gallery.roles.method("EN CE")
    for case_id in ("Brats17_TCIA_T04_1", "Brats17_CBICA_T01_1"):
        gallery.view(case_id, [ensemble], "", detail=False)
    kept = sorted(path.relative_to(tmp_path).parts[:2] for path in tmp_path.rglob("*.map"))
    assert kept == [("ood", "Brats17_CBICA_T01_1"), ("test", "Brats17_TCIA_T04_1")]


def test_best_median_and_worst_case_are_shown_with_every_method(views, study):
    report, scores = study
    dice = {case_id: dice_of(scores, case_id) for case_id in scores.cases}
    order = sorted(dice, key=dice.get, reverse=True)
    shown = [(view.case_id, view.caption) for view in views["methods"]]
    assert shown == [
        (case_id, f"{rank}, mean Dice {dice[case_id]:.2f}")
        for case_id, rank in zip(order, ("best", "median", "worst"), strict=True)
    ]
    for view in views["methods"]:
        assert [m.title for m in view.maps] == [title for title, _ in report.tables[0].rows]


def test_cases_by_confidence_go_from_sure_to_unsure(views, study):
    _, scores = study
    f = scores.frame
    mine = f[(f.label == "dice") & (f["size"] == 4) & (f.variant == "") & (f.split == "test")]
    names = [c for c in f.columns if c.startswith("entropy@") and not c.endswith(("@box", "@whole"))]
    entropy = {
        case: float(np.nanmean(row[names].to_numpy(float))) for case, row in mine.set_index("case_id").iterrows()
    }
    assert [v.case_id for v in views["confidence"]] == sorted(entropy, key=entropy.get)
    assert views["confidence"][0].caption.startswith(f"H(S) {min(entropy.values()):.3f}, Dice ")


def test_ensembles_grow_as_far_as_the_pool_goes(views):
    for key, label in (("members_ce", "ce"), ("members_dice", "dice")):
        assert {tuple(m.title for m in view.maps) for view in views[key]} == {
            (f"{label}, ensemble of 2", f"{label}, ensemble of 4")
        }
        assert len(views[key]) == 2
        assert all(m.histogram is None and m.reliability is None and m.scores == () for v in views[key] for m in v.maps)


def test_domains_stand_side_by_side(views, study):
    _, scores = study
    far = {case_id: dice_of(scores, case_id) for case_id in scores.frame.case_id[scores.frame.split == "ood"].unique()}
    near, target = views["figure_1"]
    assert (near.domain, target.domain) == ("source", "target")
    assert target.case_id == min(far, key=far.get)
    assert target.caption == f"out of distribution, mean Dice {min(far.values()):.2f}"
    assert [m.title for m in target.maps] == ["dice", "dice, ensemble of 4"]
    assert [view.case_id for view in views["figure_3"]] == [max(far, key=far.get), min(far, key=far.get)]
    assert [view.caption.split(",")[0] for view in views["figure_3"]] == ["case I", "case II"]


def test_without_target_cases_there_is_no_figure_of_domains(material):
    report, _ = build_report(Request("x", n_resamples=20), replace(material, ood=None), quiet)
    assert {plate.key for plate in report.plates} == {"methods", "confidence", "members_dice", "members_ce"}
    assert report.ood_cases == ()


def test_a_single_case_is_the_only_one(material):
    manifest = material.cohort.manifest
    kept = [
        entry for entry in manifest["cases"] if entry["case_id"] not in ("Brats17_TCIA_T05_1", "Brats17_TCIA_T06_1")
    ]
    one = replace(material.cohort, manifest=manifest | {"cases": kept})
    report, _ = build_report(Request("x", n_resamples=20), replace(material, cohort=one, ood=None), quiet)
    found = {plate.key: plate.views for plate in report.plates}
    assert [view.caption.split(",")[0] for view in found["methods"]] == ["only"]
    assert {len(views) for views in found.values()} == {1}


def test_a_case_without_structures_is_shown_by_its_first_slice(gallery):
    case, split = gallery.cases["Brats17_TCIA_T04_1"]
    gallery.cases["Brats17_TCIA_T04_1"] = replace(case, truth=np.zeros_like(case.truth)), split
    assert gallery.view("Brats17_TCIA_T04_1", [], "").slice_index == 0


def test_maps_of_networks_over_volumes_are_cut_out_of_them(blobs, tiny_task, tmp_path):
    task = replace(tiny_task, crop=(16, 32, 32), ensemble_sizes=(1, 2))
    material = make_material(prepare(blobs, task), task, {"dice": 2}, dims=3)
    report, scores = build_report(Request("x", n_resamples=20), material, quiet)
    assert [t.key for t in report.tables[:4]] == ["box", "whole", "hd95", "volumes"]
    gallery = gallery_of(material, scores, tmp_path)
    case_id = scores.cases[0]
    case, _ = gallery.cases[case_id]
    view = gallery.view(case_id, [gallery.roles.method("EN DSC")], "")
    (members,) = material.pool.values()
    mean = np.mean([by_torch(m, case)[0] for m in members], axis=0)
    np.testing.assert_allclose(view.maps[0].probability, 1 - mean[0, view.slice_index], atol=1e-6)
    assert view.maps[0].histogram.sum() == (mean.argmax(axis=0) > 0).sum()
    assert not torch.is_inference_mode_enabled()
    assert plates(gallery)

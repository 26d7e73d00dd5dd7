"""A search without Ray: its file, what a candidate scores, which one wins, and what is drawn after an interruption."""

import math
from pathlib import Path

import pytest
import yaml

from segcal.errors import UsageError
from segcal.journal.reading import trial_storage
from segcal.journal.record import read_record
from segcal.journal.storage import Storage
from segcal.records import EpochRecord
from segcal.search.candidate import CandidateTraining, Searching
from segcal.search.space import load_search
from segcal.search.study import Candidate, open_study
from segcal.search.winner import best_first, candidates_csv, score_of, winner_yaml
from segcal.sweep.plan import load_plan, trials
from segcal.sweep.run_trial import run_trial
from segcal.sweep.stopping import Pruned, Stopped

SPACE = {"lr": {"low": 1e-4, "high": 0.1, "log": True}, "smooth": {"choices": [0.1, 1.0]}}


@pytest.fixture
def write(tmp_path, tiny_files):
    def written(**search) -> Path:
        content = {
            "task": str(tiny_files[0]),
            "experiment": "tiny-search",
            "seeds": 2,
            "training": {"kernels": [4, 4, 8, 8], "epochs": 6, "patience": 6},
            "recipes": {"dice": {"loss": "soft_dice"}},
            "search": {"trials": 4, "grace": 2, "space": SPACE, **search},
        }
        (tmp_path / "search.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "search.yaml"

    return written


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"space": {"lrr": {"low": 1, "high": 2}}}, "no setting named 'lrr'; did you mean 'lr'?"),
        ({"space": {"lr": {"low": 2, "high": 1}}}, "search.space.lr: low must be below high, got low 2 and high 1"),
        ({"space": {"lr": {"low": 0, "high": 1, "log": True}}}, "low must be above 0 with log, got 0"),
        ({"space": {"lr": {"low": 1}}}, 'must have low and high, or choices, got {"low": 1.0}'),
        ({"space": {"smooth": {"choices": [1.0]}}}, "choices must be two different values at least, got [1.0]"),
        ({"space": {"smooth": {"choices": [1.0, 2.0], "low": 1}}}, "must be either low and high or choices, got both"),
        ({"space": {"batch": {"low": 1.5, "high": 4}}}, "batch is a whole number: so must low and high be"),
        ({"space": {"head": {"low": 1, "high": 4}}}, "head is no number: it must have choices"),
        ({"space": {"epochs": {"low": 1, "high": 4}}}, "epochs must be the same for all candidates"),
        ({"space": {"seed": {"low": 1, "high": 4}}}, "no setting named 'seed'"),
        (
            {"space": {"lr_factor": {"low": 0.5, "high": 1}}},
            "got at lr_factor 1.0: recipe candidate: lr_factor must lie",
        ),
        ({"space": {"smooth": {"choices": [1.0, 2.0]}}}, "number of different candidates, 2, got 4"),
        ({"grace": 6}, "search.grace must be below epochs, 6, got 6; or set pruner: none"),
        ({"pruner": "hyperband"}, "search: pruner: "),
        ({"trails": 3}, "no key named 'trails'; did you mean 'trials'?"),
        (
            {"space": {f: {"choices": list(range(1, 10))} for f in ("batch", "lr", "smooth", "patience")}},
            "4096 corners",
        ),
    ],
)
def test_faults_are_told_in_a_line(write, given, said):
    with pytest.raises(UsageError) as caught:
        load_search(write(**given))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_each_file_has_its_verb(write, tiny_files):
    with pytest.raises(UsageError, match="a file with `search` is for `segcal search`"):
        load_plan(write())
    with pytest.raises(UsageError, match="must have the key `search`, got none"):
        load_search(tiny_files[1])
    with pytest.raises(UsageError, match="must start from one recipe, got 2"):
        load_search(write(), settings=["recipes.ce.loss=cross_entropy"])


def test_settings_reach_the_search(write):
    plan = load_search(write(), settings=["search.trials=9", "seeds=3", "lr_patience=7"])
    assert (plan.search.trials, plan.seeds) == (9, (0, 1, 2))
    (config, *_) = plan.candidate("a", {"lr": 0.01}, "d", [1] * 4)
    assert (config.lr, config.lr_patience, config.label, config.weights) == (0.01, 7, "a", "structures")


def epochs(*dices):
    for epoch, dice in enumerate(dices, 1):
        yield EpochRecord(epoch, 0.5, dice, (dice,), 0.01, 0.1)


def all_rounds(*seeds):
    training, rounds = CandidateTraining(dict(enumerate(seeds))), []
    while not rounds or not rounds[-1].finished:
        rounds.append(training.round())
    return rounds


def test_a_score_is_the_mean_over_seeds_of_their_best_so_far():
    rounds = all_rounds(epochs(0.25, 0.5, 0.125), epochs(0.75))  # the second stops early and keeps its best
    assert [(r.epoch, r.score) for r in rounds] == [(1, 0.5), (2, 0.625), (3, 0.625), (3, 0.625)]
    assert rounds[-1].best == {0: 0.5, 1: 0.75}


def test_a_lucky_seed_does_not_win():
    lucky, steady = ({0: 0.9, 1: 0.1, 2: 0.2}, {0: 0.5, 1: 0.5, 2: 0.5})
    candidates = [
        Candidate(0, {}, "finished", 0.4, lucky, 9),
        Candidate(1, {}, "finished", 0.5, steady, 9),
        Candidate(2, {}, "pruned", 0.8, lucky, 3),  # far, but not to the end
        Candidate(3, {}, "diverged", 0.0, lucky, 3),
    ]
    assert [candidate.number for candidate in best_first(candidates)] == [1, 0, 2, 3]
    assert score_of(candidates[1]).error == 0
    assert score_of(candidates[0]).error == pytest.approx(math.sqrt(0.19 / 3))  # variance (.25 + .09 + .04) / 2 = 0.19


def test_what_fails_one_seed_ends_the_others():
    def diverges():
        yield from epochs(0.5)
        raise FloatingPointError("the training loss must stay finite, got nan in epoch 2")

    seen = []

    def other():
        try:
            yield from epochs(0.1, 0.2, 0.3)
        except (Pruned, Stopped) as reason:
            seen.append(type(reason))
            raise

    def full():
        yield from epochs(0.5)
        raise OSError("no space left")

    for fails, error in ((diverges, FloatingPointError), (full, OSError)):
        training = CandidateTraining({0: fails(), 1: other()})
        training.round()
        with pytest.raises(error):
            training.round()
    assert seen == [Pruned, Stopped]  # of a recipe that is no good; of one that may be, another day


@pytest.fixture
def searching(write, cohort, tmp_path):
    plan = load_search(write(pruner="none"))
    return Searching(plan, cohort.digest, tuple(cohort.class_voxels), Storage(str(tmp_path / "s")), "t", cohort.folder)


def keys(searching, drawn):
    return [given.config.key for given in searching.assignments("a", drawn)]


def test_seeds_trained_in_turns_are_those_trained_alone(searching, tmp_path):
    from dataclasses import replace

    training = CandidateTraining.of(searching, "a", {"lr": 0.01, "dropout": 0.5})
    while not training.round().finished:
        pass
    alone = replace(searching, storage=Storage(str(tmp_path / "alone")))
    for given in alone.assignments("a", {"lr": 0.01, "dropout": 0.5}):
        run_trial(given)
        both = [read_record(trial_storage(s.storage, given.config.key)) for s in (searching, alone)]
        assert both[0].weights_sha256 == both[1].weights_sha256 != ""
        assert both[0].state == "finished"


def test_a_pruned_candidate_may_be_gone_on_with_and_a_finished_seed_is_not_begun_again(searching):
    drawn = {"lr": 0.01}
    training = CandidateTraining.of(searching, "a", drawn)
    first = [training.round() for _ in range(2)]
    training.end(Pruned())
    records = [read_record(trial_storage(searching.storage, key)) for key in keys(searching, drawn)]
    assert [(record.state, record.epochs) for record in records] == [("pruned", 2)] * 2
    run_trial(searching.assignments("a", drawn)[0])  # an ordinary sweep takes one of its seeds
    training = CandidateTraining.of(searching, "a", drawn)
    again = [training.round()]
    while not again[-1].finished:
        again.append(training.round())
    assert [r.best for r in again[:2]] == [r.best for r in first]
    records = [read_record(trial_storage(searching.storage, key)) for key in keys(searching, drawn)]
    assert [(record.state, record.epochs, record.attempts) for record in records] == [("finished", 6, 2)] * 2


def drive(search, name, storage, most=100, score=lambda drawn: drawn["lr"]):
    """Ask and end candidates one after another, `most` of them."""
    drawn = []
    with open_study(search, name, storage) as study:
        while len(drawn) < most and (candidate := study.ask()):
            drawn.append(dict(candidate.drawn))
            value = score(candidate.drawn)
            study.report(candidate.number, 1, value)
            study.end(Candidate(candidate.number, candidate.drawn, "finished", value, {0: value}, 1))
    return drawn


def test_the_same_seed_draws_the_same_candidates_interrupted_or_not(write, tmp_path):
    search = load_search(write(trials=8, startup=3)).search
    whole = drive(search, "s", Storage(str(tmp_path / "a")))
    assert len(whole) == 8
    parts = [drive(search, "s", Storage(str(tmp_path / "b")), most) for most in (2, 3, 100)]
    assert [candidate for part in parts for candidate in part] == whole
    other = load_search(write(trials=8, startup=3, seed=1)).search
    assert drive(other, "s", Storage(str(tmp_path / "c"))) != whole


def test_one_that_was_cut_short_comes_first(write, tmp_path):
    search, storage = load_search(write()).search, Storage(str(tmp_path / "a"))
    with open_study(search, "s", storage) as study:
        cut = study.ask()
        study.report(cut.number, 1, 0.25)
    drawn = drive(search, "s", storage)
    assert drawn[0] == cut.drawn
    assert len(drawn) == search.trials
    assert drive(search, "s", storage) == []


def test_a_study_behind_a_uri_is_put_back_after_each_change(write):
    search, storage = load_search(write()).search, Storage("memory://search-study")
    assert len(drive(search, "s", storage, 3)) == 3
    assert len(drive(search, "s", storage)) == 1


def test_a_small_space_is_drawn_without_repetition(write, tmp_path):
    search = load_search(write(space={"smooth": {"choices": [1, 2, 3, 4]}}, trials=4, startup=1)).search
    drawn = drive(search, "s", Storage(str(tmp_path / "a")), score=lambda drawn: drawn["smooth"])
    assert sorted(candidate["smooth"] for candidate in drawn) == [1, 2, 3, 4]


@pytest.mark.parametrize("pruner", ["asha", "median", "none"])
def test_a_hopeless_candidate_is_pruned(write, tmp_path, pruner):
    search = load_search(write(trials=3, startup=1, pruner=pruner, grace=2, reduction=2)).search
    with open_study(search, "s", Storage(str(tmp_path / "a"))) as study:
        good = study.ask()
        assert [study.report(good.number, epoch, 0.5) for epoch in (1, 2, 3, 4)] == [False] * 4
        study.end(Candidate(good.number, good.drawn, "finished", 0.5, {0: 0.5}, 4))
        bad = study.ask()
        assert [study.report(bad.number, epoch, 0.25) for epoch in (1, 2)] == [False, pruner != "none"]
        study.end(Candidate(bad.number, bad.drawn, "pruned", 0.25, {0: 0.25}, 2))
        better = study.ask()
        assert [study.report(better.number, epoch, 0.75) for epoch in (1, 2, 3)] == [False] * 3
        study.end(Candidate(better.number, better.drawn, "diverged", 0.0, {0: 0.75}, 3, "nan"))
        assert [(c.state, c.score) for c in study.candidates()] == [
            ("finished", 0.5), ("pruned", 0.25), ("diverged", 0.0),
        ]  # fmt: skip


def test_the_winners_file_is_a_sweep_of_the_same_trials(write, cohort, tmp_path, monkeypatch):
    plan = load_search(write(), settings=["task_fields.batch=2"])
    drawn = {"lr": 0.00123, "smooth": 0.1}
    winner = Candidate(3, drawn, "finished", 0.5, {0: 0.25, 1: 0.75}, 6)
    configs = plan.candidate("winner", drawn, cohort.digest, cohort.class_voxels)
    text = winner_yaml(plan, winner, configs[0], 4, "blobs", "segcal search search.yaml")
    assert "loss_options" not in text  # a loss of segcal has none
    assert "# Mean validation Dice over 2 seeds: 0.5000 ± 0.2500 (standard error over seeds)" in text
    assert "The best of 4 candidates of the search 'tiny-search'" in text
    assert "optimistic" in text
    (tmp_path / "winner.yaml").write_text(text)
    monkeypatch.chdir("/")  # wherever it is called from
    sweep = load_plan(tmp_path / "winner.yaml")
    assert trials(sweep, cohort.digest, cohort.class_voxels) == configs
    more = load_plan(tmp_path / "winner.yaml", settings=["seeds=5"])
    assert [config.seed for config in trials(more, cohort.digest, cohort.class_voxels)] == [0, 1, 2, 3, 4]


def test_the_table_has_a_row_a_candidate(write):
    plan = load_search(write())
    rows = candidates_csv(
        plan,
        [
            Candidate(0, {"lr": 0.1, "smooth": 1.0}, "pruned", 0.25, {0: 0.25, 1: 0.25}, 2),
            Candidate(1, {"lr": 0.2, "smooth": 0.1}, "finished", 0.5, {0: 0.5, 1: 0.5}, 6),
            Candidate(2, {"lr": 0.3, "smooth": 0.1}, "diverged", 0.0, None, 0, "nan, at once"),
        ],
    ).splitlines()
    assert rows == [
        "candidate,state,score,standard_error,lr,smooth,seed_0,seed_1,epochs,error",
        "candidate-001,finished,0.5,0.0,0.2,0.1,0.5,0.5,6,",
        "candidate-000,pruned,0.25,0.0,0.1,1.0,0.25,0.25,2,",
        'candidate-002,diverged,0.0,,0.3,0.1,,,0,"nan, at once"',
    ]

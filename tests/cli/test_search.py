"""`segcal search` as a user meets it before anything is trained: one-line errors, and which file it takes."""

import pytest

from segcal.cli import main


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*argv):
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        return code, captured.err

    return call


def test_a_sweep_file_is_refused(run, tiny_files):
    code, err = run("search", tiny_files[1])
    assert code == 2
    said = "a file for `segcal search` must have the key `search`, got none: use `segcal sweep`"
    assert err == f"segcal: {tiny_files[1]}: {said}\n"


def test_a_search_file_is_refused_by_sweep_and_plan(run):
    from segcal.sweep.plan import sweep_file

    file = sweep_file("brain", "search")
    for verb in ("sweep", "plan"):
        code, err = run(verb, file)
        assert (code, err) == (
            2,
            f"segcal: {file}: a file with `search` is for `segcal search`, got it for a sweep\n",
        )


def test_a_wrong_setting_is_answered_at_once(run):
    code, err = run("search", "--set", "search.space.lr.low=1")
    assert (code, err.count("\n")) == (2, 1)
    assert "search.space.lr: low must be below high, got low 1 and high 0.03" in err
    code, err = run("search", "--set", "search.space.dropuot={low: 0, high: 0.5}")
    assert (code, err.count("\n")) == (2, 1)
    assert "no setting named 'dropuot'; did you mean 'dropout'?" in err


def test_a_task_without_a_search_file(run):
    code, err = run("search", "--task", "heart")
    assert code == 2
    assert err == (
        "segcal: no search file sweeps/heart-search.yaml here or in the package; name one: segcal search FILE\n"
    )


def test_real_images_for_the_papers_scale(run):
    code, err = run("search", "--scale", "paper")
    assert code == 2
    assert "scale 'paper' needs real images, got the embedded data" in err


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_the_built_in_search_is_valid(scale):
    from segcal.search.space import load_search

    plan = load_search(task="brain", scale=scale)
    assert plan.plan.experiment == "brain-search"
    assert plan.search.grace * plan.search.reduction <= plan.base["epochs"]

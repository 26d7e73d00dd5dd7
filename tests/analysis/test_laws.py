import pandas as pd

from segcal.analysis.laws import check_laws

GOOD = {"nll": 0.5, "brier": 0.3, "ece": 0.1, "accuracy": 0.8, "confidence": 0.75, "p_true": 0.7, "clipped": 0.0}


def scores(size=1, draw=0, seeds=(0,), entropy=0.4, **changed):
    rows = [
        {"region": "box", "structure": "", "metric": metric, "value": value}
        for metric, value in {**GOOD, **changed}.items()
    ]
    rows.append({"region": "", "structure": "edema", "metric": "entropy", "value": entropy})
    common = {"recipe": "r", "label": "ce", "size": size, "draw": draw, "seeds": seeds, "case_id": "c", "site": ""}
    return [{**common, **row} for row in rows]


def broken(rows):
    return {check.law: check.broken for check in check_laws(pd.DataFrame(rows)) if check.broken}


def test_good_rows_break_nothing_and_are_counted():
    checks = check_laws(pd.DataFrame(scores()))
    assert [check.broken for check in checks] == [0] * 6
    assert [check.checked for check in checks] == [1, 1, 1, 1, 1, 0]  # no ensemble here


def test_each_law_is_seen_to_break():
    assert broken(scores(ece=0.01)) == {"|mean confidence - accuracy| <= ECE": 1}
    assert broken(scores(ece=0.35)) == {"ECE <= 1 - mean p(true class)": 1}
    assert broken(scores(p_true=0.5)) == {"1 - mean p(true class) <= 1 - exp(-NLL)": 1}
    assert broken(scores(brier=0.41)) == {"Brier <= 0.8146 NLL": 1}
    assert broken(scores(entropy=0.7)) == {"0 <= H(S) <= ln 2": 1}
    assert broken(scores(entropy=-0.1)) == {"0 <= H(S) <= ln 2": 1}


def test_an_ensemble_worse_than_its_members_is_found():
    singles = scores(seeds=(0,), nll=0.5) + scores(draw=1, seeds=(1,), nll=0.6)
    assert broken(singles + scores(2, seeds=(0, 1), nll=0.549)) == {}
    (check,) = (c for c in check_laws(pd.DataFrame(singles + scores(2, seeds=(0, 1), nll=0.56))) if c.broken)
    assert check.law == "NLL of an ensemble <= mean NLL of its members"
    assert "0.01" in check.worst

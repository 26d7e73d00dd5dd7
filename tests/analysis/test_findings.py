import numpy as np
import pytest

from segcal.analysis.compare import box_columns, compare
from segcal.analysis.findings import findings
from segcal.records import Method
from tests.analysis.conftest import make_rows, make_scores

CE, EN_CE = Method("ce", "ce", 1, "cross_entropy"), Method("ce", "ce", 5, "cross_entropy")
DICE, MC = Method("dice", "dice", 1, "soft_dice"), Method("mc", "dice_mc", 1, "soft_dice", 3)
EN_DICE = Method("dice", "dice", 5, "soft_dice")
STEPS = np.linspace(-0.1, 0.1, 8)


@pytest.fixture
def sentences(gland):
    def of(numbers):
        rows = [make_rows(m, {"nll@box": nll + STEPS, "dice@gland": dice}) for m, (nll, dice) in numbers.items()]
        methods = list(numbers)
        comparison = compare(make_scores(gland, *rows), methods, box_columns(gland), 0, 100)
        return findings(comparison, methods), comparison

    return of


def test_ensembles_are_set_beside_their_single_models(sentences):
    (found,), comparison = sentences({CE: (0.5, 0.7), EN_CE: (0.4, 0.75)})
    nll = comparison.columns[0]
    assert comparison.p(CE, EN_CE, nll) == pytest.approx(0.015625)
    assert found == (
        "ce: an ensemble of 5 changes the NLL in the box from 0.500 to 0.400 (-20%, not significant, p=0.016) "
        "and the mean Dice by +0.050."
    )


def test_every_comparison_of_interest_has_a_sentence(sentences):
    found, _ = sentences({CE: (0.5, 0.7), EN_CE: (0.4, 0.75), DICE: (1, 0.8), MC: (0.8, 0.8), EN_DICE: (0.6, 0.82)})
    assert [sentence.split(":")[0] for sentence in found] == [
        "ce", "dice", "dice_mc, MC dropout against dice, ensemble of 5", "Single models, dice against ce",
    ]  # fmt: skip
    assert "NLL in the box 1.000 against 0.500" in found[3]
    assert "mean Dice 0.800 against 0.700" in found[3]
    assert "NLL in the box 0.800 against 0.600" in found[2]


def test_what_is_not_significant_is_called_so(sentences, gland):
    rows = [
        make_rows(CE, {"nll@box": 0.5 + STEPS, "dice@gland": 0.5}),
        make_rows(DICE, {"nll@box": 0.5 - STEPS, "dice@gland": 0.5}),
    ]
    comparison = compare(make_scores(gland, *rows), [CE, DICE], box_columns(gland), 0, 100)
    (found,) = findings(comparison, [CE, DICE])
    assert "(not significant, p=" in found
    one = [make_rows(m, {"nll@box": [n], "dice@gland": [0.5]}) for m, n in ((CE, 0.5), (DICE, 0.6))]
    comparison = compare(make_scores(gland, *one), [CE, DICE], box_columns(gland), 0, 100)
    (found,) = findings(comparison, [CE, DICE])
    assert "too few patients for a test" in found


def test_one_method_has_nothing_to_be_told(sentences):
    assert sentences({CE: (0.5, 0.7)})[0] == ()

import os

import pytest

from segcal.environment import environment


def test_variables_hold_within_the_block_whatever_ends_it(monkeypatch):
    monkeypatch.setenv("SEGCAL_A", "before")
    monkeypatch.delenv("SEGCAL_B", raising=False)
    with environment({"SEGCAL_A": "1", "SEGCAL_B": "2"}):
        assert (os.environ["SEGCAL_A"], os.environ["SEGCAL_B"]) == ("1", "2")
    with pytest.raises(ZeroDivisionError), environment({"SEGCAL_A": "1", "SEGCAL_B": "2"}):
        1 / 0  # noqa: B018
    assert os.environ["SEGCAL_A"] == "before"
    assert "SEGCAL_B" not in os.environ

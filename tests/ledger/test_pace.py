import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.ledger.pace import wait_s, writes_of


def test_writes_by_hand():
    """After 5, 10, 20, 40, 80 seconds, then every minute; and at the end."""
    assert [wait_s(age) for age in (0, 5, 10, 20, 40, 80, 1000)] == [5, 5, 10, 20, 40, 60, 60]
    found = {seconds: writes_of(seconds) for seconds in (0, 4, 6, 11, 41, 81, 139, 141, 201, 3600)}
    assert found == {0: 1, 4: 1, 6: 2, 11: 3, 41: 5, 81: 6, 139: 6, 141: 7, 201: 8, 3600: 64}


@given(st.floats(0, 20_000))
def test_writes_are_those_of_the_waits(seconds):
    age, count = wait_s(0), 1
    while age < seconds:
        count, age = count + 1, age + wait_s(age)
    assert writes_of(seconds) == count


@pytest.mark.parametrize("hours", [1, 10])
def test_a_long_trial_writes_once_a_minute(hours):
    assert writes_of(3600 * hours) == pytest.approx(60 * hours, abs=5)

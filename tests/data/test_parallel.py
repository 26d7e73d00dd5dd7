import threading

import pytest

from segcal.data.parallel import cores, in_parallel


def test_results_come_in_order_whatever_takes_long():
    waits = [0.03, 0.0, 0.02, 0.0, 0.01] * 3
    event = threading.Event()
    assert list(in_parallel(lambda i: (event.wait(waits[i]), i)[1], range(15))) == list(range(15))
    assert list(in_parallel(str, [])) == []


def test_only_a_few_are_computed_ahead():
    begun = []
    results = in_parallel(begun.append, range(1000))
    next(results)
    assert len(begun) <= 3 * cores() + 2
    results.close()
    assert len(begun) <= 3 * cores() + 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_after_an_error_nothing_new_begins(error):
    begun = []

    def one(index):
        begun.append(index)
        if index == 3:
            raise error("here")
        return index

    with pytest.raises(error):
        list(in_parallel(one, range(1000)))
    assert len(begun) <= 3 + 3 * cores() + 2

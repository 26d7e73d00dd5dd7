import math
import struct
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segcal.journal.spool import Line, line_of, parse
from segcal.records import EpochRecord

FLOATS = st.floats(width=64, allow_nan=True, allow_infinity=True, allow_subnormal=True)


def records(fewest=0, most=6):
    """Epochs 1, 2, ... with any numbers at all."""

    def of(epochs):
        numbers = st.tuples(FLOATS, FLOATS, st.lists(FLOATS, max_size=4), FLOATS, FLOATS, st.text())
        return st.lists(numbers, min_size=epochs, max_size=epochs)

    def built(rows):
        return [
            EpochRecord(epoch, loss, dice, tuple(by), lr, seconds, step=step)
            for epoch, (loss, dice, by, lr, seconds, step) in enumerate(rows, 1)
        ]

    return st.integers(fewest, most).flatmap(of).map(built)


def bits(value):
    return "nan" if math.isnan(value) else struct.pack("d", value)


def facts(line):
    numbers = (line.train_loss, line.val_dice, *line.val_dice_by_structure, line.lr, line.seconds)
    return line.epoch, line.time_ms, line.step, tuple(map(bits, numbers))


@given(records(), st.integers(0, 2**53))
@example([EpochRecord(1, -0.0, math.inf, (math.nan, 5e-324), -math.inf, 0.1, step="plain:\n\ud800 é")], 0)
def test_any_numbers_come_back_bit_for_bit(given_records, time_ms):
    lines = [line_of(record, time_ms + record.epoch) for record in given_records]
    data = b"".join(line.encoded() for line in lines)
    assert data.count(b"\n") == len(lines)
    found = parse(data)
    assert list(map(facts, found)) == list(map(facts, lines))
    for line, record in zip(found, given_records, strict=True):
        assert facts(line_of(line.record, line.time_ms)) == facts(line_of(record, line.time_ms))
        assert line.record.weights is None
        assert line.record.state is None


@given(records(1, 4), st.data())
def test_a_file_that_is_cut_anywhere_gives_the_epochs_that_are_whole(given_records, data):
    lines = [line_of(record, 1) for record in given_records]
    ends, content = [], b""
    for line in lines:
        content += line.encoded()
        ends.append(len(content))
    cut = data.draw(st.integers(0, len(content)))
    assert list(map(facts, parse(content[:cut]))) == list(map(facts, lines[: sum(end <= cut for end in ends)]))


LINES = [Line(epoch, 5, 0.5, 0.25, (0.25, math.nan), 0.005, 1.5, "plain") for epoch in range(1, 6)]


def test_a_line_is_one_a_person_can_read():
    assert LINES[0].encoded() == (
        b'{"epoch": 1, "time_ms": 5, "train_loss": 0.5, "val_dice": 0.25, "val_dice_by_structure": [0.25, null], '
        b'"lr": 0.005, "seconds": 1.5, "step": "plain"}\n'
    )


@pytest.mark.parametrize(
    "damaged", [b"", b"null", b"5", b"{}", b"\xff", b'{"epoch": 3}', LINES[3].encoded()[:-1], LINES[1].encoded()[:-1]]
)
def test_epochs_end_where_one_is_damaged_or_missing(damaged):
    encoded = [line.encoded() for line in LINES]
    assert parse(b"".join([*encoded[:2], damaged + b"\n", *encoded[3:]]))[1:] == parse(b"".join(encoded[:2]))[1:]
    assert len(parse(b"".join([*encoded[:2], damaged + b"\n", *encoded[3:]]))) == 2


def test_nothing_gives_nothing():
    assert parse(b"") == parse(b"\n") == []


def test_of_an_epoch_that_is_there_twice_the_first_counts():
    encoded = [line.encoded() for line in LINES]
    other = [replace(line, train_loss=9.0).encoded() for line in LINES]
    assert parse(b"".join([*encoded[:3], *other[1:3], *encoded[3:], other[0]])) == parse(b"".join(encoded))
    assert [line.train_loss for line in parse(b"".join([*other[:2], *encoded]))] == [9.0, 9.0, 0.5, 0.5, 0.5]
    assert len(parse(b"".join([*encoded[:2], other[3], *encoded[2:]]))) == 2  # one from the future is damage


@pytest.mark.parametrize("epoch", [b"null", b'"3"', b"[3]", b"NaN", b"2.5", b"0"])
def test_an_epoch_that_is_no_number_is_damage(epoch):
    encoded = [line.encoded() for line in LINES]
    encoded[2] = encoded[2].replace(b'"epoch": 3', b'"epoch": ' + epoch)
    assert parse(b"".join([*encoded[:3], LINES[2].encoded()])) == parse(b"".join(encoded[:2]))

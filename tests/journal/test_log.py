import logging
import re
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.journal import log as module
from segcal.journal.log import HEAD, TAIL, TrialLog

TEXTS = st.lists(st.text("abc\n", max_size=60), max_size=40)


@given(TEXTS, st.integers(0, 20), st.integers(1, 30))
def test_it_keeps_the_beginning_and_the_end_and_says_how_much_is_left_out(texts, head, tail):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HEAD", head)
        patch.setattr(module, "TAIL", tail)
        log = TrialLog()
        for text in texts:
            assert log.write(text) == len(text)
    whole, kept = "".join(texts), log.text
    match = re.search(r"\n\.\.\. (\d+) characters left out \.\.\.\n", kept)
    if len(whole) <= head + tail:
        assert kept == whole
    elif match is None:
        assert kept == whole
        assert len(whole) <= head + 2 * tail
    else:
        first, last = kept[: match.start()], kept[match.end() :]
        assert first == whole[:head]
        assert whole.endswith(last)
        assert tail <= len(last) < 2 * tail
        assert len(whole) == len(first) + int(match[1]) + len(last)


def test_a_gigantic_line_is_bounded_too():
    log = TrialLog()
    for _ in range(3):
        log.write("x" * 10 * TAIL)
    assert len(log.text) < HEAD + 2 * TAIL + 100
    assert TrialLog(log.text).text.startswith("x" * HEAD)


def test_what_an_earlier_attempt_said_comes_first():
    log = TrialLog("before\n")
    log.say("now")
    assert re.fullmatch(r"before\n\d{4}-\d\d-\d\d \d\d:\d\d:\d\d now\n", log.text)


def test_what_is_printed_logged_and_warned_of_is_kept_and_all_is_as_before():
    log, root = TrialLog(), logging.getLogger()
    before = sys.stdout, sys.stderr, list(root.handlers), warnings.showwarning

    @log.listening()
    def fail():
        print("printed")
        print("to stderr", file=sys.stderr)
        logging.getLogger("some.library").warning("logged %d", 3)
        warnings.warn("warned of", UserWarning, stacklevel=1)
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert (sys.stdout, sys.stderr, root.handlers, warnings.showwarning) == before
    print("after")
    text = log.text
    for line in ("printed\n", "to stderr\n", "logged 3\n"):
        assert line in text
    assert re.search(r"UserWarning: warned of \(.*test_log\.py:\d+\)\n", text)
    assert "after" not in text


def test_only_what_is_said_in_a_step_is_kept():
    log = TrialLog()

    def steps():
        for step in range(2):
            print(f"step {step}")
            yield step

    before = sys.stdout
    for step in log.during(steps()):
        assert sys.stdout is before
        print(f"between {step}")
    assert log.text == "step 0\nstep 1\n"
    assert sys.stdout is before

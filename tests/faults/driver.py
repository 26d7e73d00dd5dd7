"""`segcal sweep` that also notes, in a file that is only appended to, what is really trained: run as a script."""

import functools
import os
import sys
import time


def poison(smooth):
    """An exception in the training itself, or memory that it does not get."""
    from segcal.sweep import run_trial as module

    whole = module.fit

    def fit(*arguments, **options):
        for record in whole(*arguments, **options):
            if record.epoch == 3 and smooth == 1001:
                raise ValueError("made up by a test")
            if record.epoch == 3 and smooth == 1003:
                bytearray(1 << 60)
            yield record

    module.fit = fit
    return lambda: setattr(module, "fit", whole)


def counted(assignment, report, events=os.environ["SEGCAL_TEST_EVENTS"], pace_s=float(os.environ["SEGCAL_TEST_PACE"])):
    from segcal.sweep.run_trial import train

    def note(*words):
        with open(events, "a") as file:
            file.write(" ".join(map(str, words)) + "\n")

    key, smooth = assignment.config.key, assignment.config.smooth  # made-up faults are told by the smoothing
    note("start", key, os.getpid())
    heal = poison(smooth)
    try:
        for record in train(assignment):
            if record.state is not None:  # trained now, not on record from before
                note("epoch", key, record.epoch)
                time.sleep(pace_s)  # so that kills fall into epochs, not between trials
            if smooth == 1002 and record.epoch >= 3:
                os.kill(os.getpid(), 9)
            report(record)
    finally:
        heal()
    note("end", key, os.getpid())


if __name__ == "__main__":
    from segcal.cli import main
    from segcal.sweep import parent, run_sweep, schedule

    parent.GRACE_S = run_sweep.GRACE_S = float(os.environ.get("SEGCAL_TEST_GRACE", parent.GRACE_S))
    schedule.run_all = functools.partial(schedule.run_all, run=counted)
    sys.exit(main(sys.argv[1:]))

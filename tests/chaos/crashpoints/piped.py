"""The same jobs as `job`, for gm-work --pipe on behalf of gm-python."""

import os
import time

from libgm.python import Drop, Quarantine


def handle(work):
    number, kind = work.data.decode().split()

    def note(what):
        with open(os.environ["CRASH_LOG"], "a", encoding="ascii") as log:
            log.write(f"{what} {number}\n")
    note("begun")
    if kind == "bad" or (kind == "flaky" and work.attempts < 2):
        raise ValueError(kind)
    if kind == "reject":
        raise Quarantine(kind)
    if kind == "slow":
        time.sleep(0.2)
    if kind == "drop":
        note("dropped")
        raise Drop(kind)
    if kind == "plug":
        with open(os.environ["CRASH_PLUG"], "wb"):
            pass
    note("done")

"""gm-status --every: the snapshot again and again, with what was done meanwhile."""

from __future__ import annotations

import os
import time

from libgm.errors import Error
from libgm.quarantine import tallies
from libgm.shell.messages import warn
from libgm.shell.table import Listing, shown
from libgm.tools.status import FUNCTION, NUMBERS, TROUBLE, Snapshot
from libgm.units import age, iso

CLEAR = b"\x1b[H\x1b[2J"   # of a terminal: the cursor to the top, the screen empty
RATES = [("done/s", lambda record: rounded(record["done_rate"])), ("failed/s", lambda record: rounded(record["failed_rate"])),
         ("today", lambda record: "" if record["done_today"] is None else f"{record['done_today']}+{record['failed_today']}"),
         ("empty in", lambda record: "" if record["empty_in"] is None else age(record["empty_in"]))]


def rounded(rate: float | None) -> object:
    return "" if rate is None else f"{rate:.3g}"


class Watch:
    """One look after the other at the same servers and file. Each record is a snapshot's, and besides time, done, failed (runs
    since the last look), done_rate, failed_rate (of these, per second) and empty_in (seconds until nothing waits, at the rate
    of what is done; null where nothing is done)."""

    def __init__(self, snapshot: Snapshot):
        self.snapshot = snapshot
        self.before: tuple[float, dict] | None = None

    def look(self) -> list[dict]:
        """The records of now."""
        records, now = self.snapshot.functions(), time.time()
        store = self.snapshot.store
        totals = tallies.totals(store) if store is not None and store.version >= 3 else {}
        then, counted = self.before or (now, totals)
        self.before = now, totals
        seconds = now - then
        for record in records:
            name = record["function"].encode() if "function" in record else shown(record, "function").encode()
            done, failed = (a - b for a, b in zip(totals.get(name, (0, 0)), counted.get(name, (0, 0))))
            record.update(time=iso(now), done=done, failed=failed, done_rate=round(done / seconds, 3) if seconds else None,
                          failed_rate=round(failed / seconds, 3) if seconds else None,
                          empty_in=round(record["waiting"] * seconds / done) if done and record["waiting"] is not None else None)
        return records


def watch(snapshot: Snapshot, every: float, args: dict) -> None:
    """Print a round every so many seconds, until interrupted: on a terminal in place. args: --json, --table of Listing.

    A server that is down is reported once, and when it is back.
    """
    watched = Watch(snapshot)
    trouble: set[str] = set()
    due = time.monotonic()
    while True:
        records = watched.look()
        listing = Listing(args, [FUNCTION, *NUMBERS, *RATES, TROUBLE],
                          "functions on " + ", ".join(map(str, snapshot.servers)), stands_out=lambda record: record["trouble"])
        if listing.table and os.isatty(1):
            listing.output.write(CLEAR)
        for record in sorted(records, key=lambda record: not record["trouble"]) if listing.table else records:
            listing.add(record)
        listing.close()
        trouble = tell(snapshot.problems, trouble)
        due += every
        time.sleep(max(0.0, due - time.monotonic()))


def tell(problems: list[Error], before: set[str]) -> set[str]:
    """Report problems that are new, and their end."""
    now = {str(problem) for problem in problems}
    for text in sorted(now - before):
        warn(text)
    if before and not now:
        warn("all is back")
    return now

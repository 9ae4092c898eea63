"""gm-status --every: the snapshot again and again, with what was done meanwhile."""

from __future__ import annotations

import os
import time

from libgm.errors import Unavailable
from libgm.quarantine import tallies
from libgm.quarantine.file import Store
from libgm.shell import places
from libgm.shell.messages import tell_news, warn
from libgm.shell.table import Listing, shown
from libgm.tools.status import FUNCTION, NUMBERS, TROUBLE, TROUBLE_LINES, Snapshot, busy
from libgm.units import age, counted, iso

WINDOW = 15.0   # seconds that a rate is taken over, at least: gm-work writes its counts every 5 seconds
SPARE = ("today", "held", "running", "delayed")   # columns that a narrow terminal does not show
CLEAR = b"\x1b[H\x1b[2J"   # of a terminal: the cursor to the top, the screen empty
RATES = [("done/s", lambda record: rounded(record["done_rate"])), ("failed/s", lambda record: rounded(record["failed_rate"])),
         ("today", lambda record: "" if record["done_today"] is None else f"{record['done_today']}+{record['failed_today']}"),
         ("empty in", lambda record: "" if record["empty_in"] is None else age(record["empty_in"]))]


def rounded(rate: float | None) -> object:
    """A rate as a cell: three digits of it, still a number."""
    if rate is None:
        return ""
    value = float(f"{rate:.3g}")
    return int(value) if value.is_integer() else value


class Watch:
    """One look after the other at the same servers and file. Each record is a snapshot's, and besides time, done, failed (runs
    since the last look), done_rate, failed_rate (per second, over WINDOW or since the last look) and empty_in (seconds until
    nothing waits, at the rate of what is done; null where nothing is done)."""

    def __init__(self, snapshot: Snapshot):
        self.snapshot = snapshot
        self.looks: list[tuple[float, dict]] = []   # when, and the totals then; the first is that which rates are taken from

    def look(self) -> list[dict]:
        """The records of now."""
        records, now = self.snapshot.functions(), time.time()
        store = self.snapshot.store
        totals = tallies.totals(store) if store is not None and store.version >= 3 else {}
        while len(self.looks) > 1 and self.looks[1][0] <= now - WINDOW:
            self.looks.pop(0)
        then, first = self.looks[0] if self.looks else (now, totals)
        last = self.looks[-1][1] if self.looks else totals
        self.looks.append((now, totals))
        seconds = now - then
        for record in records:
            name = record["function"].encode() if "function" in record else shown(record, "function").encode()
            done, failed = between(totals, last, name)
            in_window, failed_in_window = between(totals, first, name)
            record.update(time=iso(now), done=done, failed=failed,
                          done_rate=round(in_window / seconds, 3) if seconds else None,
                          failed_rate=round(failed_in_window / seconds, 3) if seconds else None,
                          empty_in=round(record["waiting"] * seconds / in_window)
                          if in_window and record["waiting"] is not None else None)
        return records

    def find_file(self, args: dict) -> None:
        """Open the quarantine file if it was not there so far."""
        path = places.quarantine(args)
        if self.snapshot.store is None and os.path.exists(path):
            try:
                self.snapshot.store = Store(path, readonly=True)
                self.looks.clear()   # what the file counted before is not of this moment
            except Unavailable:   # reported at the start
                pass


def between(totals: dict, before: dict, function: bytes) -> tuple[int, int]:
    """(done, failed) of a function between two totals."""
    done, failed = totals.get(function, (0, 0))
    done_before, failed_before = before.get(function, (0, 0))
    return done - done_before, failed - failed_before


def watch(snapshot: Snapshot, every: float, table: bool, args: dict) -> None:
    """Print a round every so many seconds, until interrupted: on a terminal in place. table: as Listing takes it.
    args: tell where the quarantine file is.

    A server that is down is reported once, and when it is back; in place, it is reported with every round.
    """
    watched = Watch(snapshot)
    trouble: list[str] = []
    due = time.monotonic()
    while True:
        records = watched.look()
        in_place = table and os.isatty(1)
        listing = Listing(table, [FUNCTION, *NUMBERS, *RATES, TROUBLE],
                          "functions on " + ", ".join(map(str, snapshot.servers)), stands_out=lambda record: record["trouble"],
                          lines=TROUBLE_LINES, spare=SPARE, height=room(snapshot) if in_place else None)
        if in_place:
            listing.output.write(CLEAR)
        for record in sorted(records, key=urgency) if table else records:
            listing.add(record)
        listing.close()
        trouble = tell_news(snapshot.problems, [] if in_place else trouble, "all servers answer again")
        if listing.hidden:
            warn(f"{counted(listing.hidden, 'more function')}: make the terminal larger, or use --busy or -f")
        due += every
        time.sleep(max(0.0, due - time.monotonic()))
        watched.find_file(args)


def urgency(record: dict) -> tuple[bool, bool]:
    """Functions in trouble come first, then those that have jobs."""
    return not record["trouble"], not busy(record)


def room(snapshot: Snapshot) -> int:
    """The lines of a table that the terminal has room for, above the messages."""
    import shutil
    return max(4, shutil.get_terminal_size((80, 24)).lines - 2 - len(snapshot.problems))

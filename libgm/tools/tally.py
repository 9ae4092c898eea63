"""gm-tally: counts, rates and quantiles of events, in memory that does not grow with them. The sketches are DDSketch's.

A quantile is within 1 % of the value at its rank: a sketch's buckets reach half a per cent to either side of their middle.
"""

from __future__ import annotations

import bisect
import time

from ddsketch.ddsketch import BaseDDSketch
from ddsketch.mapping import LogarithmicMapping
from ddsketch.store import CollapsingLowestDenseStore

from libgm.shell.lines import Input, Output, records, safe
from libgm.shell.messages import warn
from libgm.tools.events import text
from libgm.units import epoch, iso

ACCURACY = 0.005
BINS = 2048          # of a sketch: values of nine decades; smaller ones share the lowest bin
MOST = 1000          # functions and sketches at a time, so that names that never repeat do not fill the memory
QUANTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
LARGEST = 1e300      # numbers beyond it are no measurement
BARS = 12            # of a histogram, at most
WIDTH = 40           # characters of its longest bar
TICK = 0.5           # seconds between two looks whether a window is over while no event comes


class Sketch(BaseDDSketch):
    """The distribution of a number; add(value) takes one in."""

    def __init__(self):
        self.stores = [CollapsingLowestDenseStore(BINS) for _ in range(2)]
        super().__init__(mapping=LogarithmicMapping(ACCURACY), store=self.stores[0], negative_store=self.stores[1],
                         zero_count=0.0)

    def record(self) -> dict:
        found: dict[str, float] = {"count": int(self.count)}
        for name, quantile in QUANTILES:
            found[name] = short(min(self._max, max(self._min, self.get_quantile_value(quantile) or 0.0)))
        found["max"] = self._max
        return found

    def buckets(self) -> list[tuple[float, int]]:
        """(value, count) of each bucket that is not empty, by value."""
        above, below = ([(self._mapping.value(at + store.offset), int(count)) for at, count in enumerate(store.bins) if count]
                        for store in self.stores)
        zero = [(0.0, int(self._zero_count))] if self._zero_count else []
        return [(-value, count) for value, count in reversed(below)] + zero + above


def short(value: float) -> float:
    """A value to four significant digits."""
    return float(f"{value:.4g}")


class Row:
    """A function's events of one kind: their count, and a sketch of each number by its name."""

    __slots__ = ("count", "numbers")

    def __init__(self):
        self.count = 0
        self.numbers: dict[str, Sketch] = {}


class Tally:
    """Counts events; take() returns the records of what was counted since the last call.

    every: seconds of a window by the events' own times, None for one window.
    """

    def __init__(self, every: float | None):
        self.every = every
        self.warned = False
        self.clear()

    def clear(self) -> None:
        self.rows: dict[tuple, Row] = {}
        self.sketches = 0
        self.first: float | None = None       # epoch seconds of the earliest event
        self.last = 0.0                       # and of the latest
        self.opened = 0.0                     # time.monotonic() of the first event
        self.seen: object = None              # the last event's time as it was typed

    def due(self, event: dict | None = None) -> bool:
        """Whether the window is over before an event, or by now where there is none."""
        if self.every is None or self.first is None:
            return False
        if event is None or event.get("time") == self.seen:
            return time.monotonic() >= self.opened + self.every
        return self.when(event) >= self.first + self.every

    @staticmethod
    def when(event: dict) -> float:
        try:
            return epoch(event["time"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return time.time()

    def add(self, event: dict) -> None:
        """Count an event."""
        kind, function, when = event.get("event"), event.get("function"), event.get("time")
        if when != self.seen or self.first is None:
            self.seen = when
            at = self.when(event)
            if self.first is None:
                self.first, self.last, self.opened = at, at, time.monotonic()
            self.first, self.last = min(self.first, at), max(self.last, at)
        if not isinstance(kind, str) or not isinstance(function, str):
            kind, function = text(event, "event"), text(event, "function")
        row = self.rows.get((function, kind)) or self.new_row(function, kind)
        row.count += 1
        self.measure(row, "duration", event.get("duration"))
        if event.get("extra"):
            self.measure(row, "", event["extra"])

    def new_row(self, function: str, kind: str) -> Row:
        if len(self.rows) >= MOST:
            self.warn_once()
            function = "(others)"
        return self.rows.setdefault((function, kind), Row())

    def measure(self, row: Row, name: str, value, depth: int = 0) -> None:
        """Take in a number under its name, and every number of an object under a.b."""
        if type(value) in (int, float):
            if not -LARGEST < value < LARGEST:
                return
            sketch = row.numbers.get(name)
            if sketch is None:
                if self.sketches >= MOST:
                    self.warn_once()
                    return
                sketch = row.numbers[name] = Sketch()
                self.sketches += 1
            sketch.add(value)
        elif isinstance(value, dict) and depth < 8:
            for key, inner in value.items():
                self.measure(row, f"{name}.{key}" if name else key if depth or key != "duration" else "extra.duration",
                             inner, depth + 1)

    def warn_once(self) -> None:
        if not self.warned:
            warn(f"over {MOST} functions or numbers at a time: new ones are counted together, and not measured")
            self.warned = True

    def take(self, over: bool) -> list[tuple[dict, Row]]:
        """Return (record, row) of each function and kind of event, by name, and start afresh.

        over: whether a whole window has passed; else the rate is by the events' own times.
        """
        if self.first is None:
            return []
        span = self.every if over and self.every else self.last - self.first + 1   # times are whole seconds
        done = []
        for (function, kind), row in sorted(self.rows.items()):
            numbers = {name: sketch.record() for name, sketch in sorted(row.numbers.items())}
            done.append(({"function": function, "event": kind, "since": iso(self.first), "until": iso(self.last),
                          "count": row.count, "rate": short(row.count / span), "duration": numbers.pop("duration", None),
                          "extra": numbers}, row))
        self.clear()
        return done


def page(record: dict, row: Row) -> bytes:
    """A record for people: its quantiles, and a histogram of each number."""
    lines = [f"{safe(record['function'])}: {record['event']}: {record['count']} from {record['since']} to {record['until']}, "
             f"{record['rate']:g} a second"]
    for name, sketch in sorted(row.numbers.items(), key=lambda pair: (pair[0] != "duration", pair[0])):
        found = sketch.record()
        unit = " s" if name == "duration" else ""
        lines += ["", f"  {safe(name)}: " + "  ".join(f"{quantile} {found[quantile]:.3g}{unit}"
                                                        for quantile in ("p50", "p90", "p99", "max"))]
        lines += ["    " + line for line in histogram(sketch.buckets())]
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


def histogram(buckets: list[tuple[float, int]]) -> list[str]:
    """A line with a bar for each range of buckets (value, count). The ranges end at 1, 2 and 5 times powers of ten."""
    steps = edges(buckets[0][0], buckets[-1][0])
    while len(steps) > BARS + 1:
        steps = steps[::2] if len(steps) % 2 else [*steps[::2], steps[-1]]
    counts = [0] * (len(steps) - 1)
    for value, count in buckets:
        counts[min(len(counts) - 1, max(0, bisect.bisect_right(steps, value) - 1))] += count
    longest, wide = max(counts), max(len(f"{step:g}") for step in steps)
    return [f"{low:>{wide}g} to {high:<{wide}g} {'█' * -(-count * WIDTH // longest):<{WIDTH}} {count}"
            for low, high, count in zip(steps, steps[1:], counts)]


def edges(low: float, high: float) -> list[float]:
    """Steps of 1, 2 and 5 times powers of ten around low and high, at least two, and 0 where it lies between them."""
    if low < 0 and high > 0:
        return [-step for step in reversed(edges(0.0, -low))][:-1] + edges(0.0, high)
    if high <= 0:
        return [-step for step in reversed(edges(-high, -low))] if low < 0 else [0.0, 1.0]
    zero = low == 0
    low = low or high / 1000
    first, last = (int(f"{end:e}".partition("e")[2]) for end in (low, high))
    found = [float(f"{digit}e{power}") for power in range(first, last + 2) for digit in (1, 2, 5)]
    first = max(0, bisect.bisect_right(found, low) - 1)
    steps = found[first:bisect.bisect_right(found, high) + 1]
    return [0.0, *steps] if zero else steps


def tally(every: float | None, people: bool) -> bool:
    """Count the events of standard input and print the records, as pages for people or as JSON lines.

    every: as of Tally. Return whether every line was an event.
    """
    found, output, bad = Tally(every), Output(), []

    def report(over: bool) -> None:
        for record, row in found.take(over):
            if people:
                output.write(page(record, row))
            else:
                output.emit(record)
        output.flush()

    def note(error) -> None:
        warn(str(error))
        bad.append(error)
    source = Input(waiting=lambda: report(True) if found.due() else None, tick=every and TICK)
    for _, event in records(source, note):
        if "event" in event:
            if every is not None and found.due(event):
                report(True)
            found.add(event)
    report(False)
    output.close()
    return not bad

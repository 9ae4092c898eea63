"""How a run of a job ended."""

from __future__ import annotations

import os
import signal

MAX_OUTPUT = 64 << 20       # bytes of a result; more fails the job
STDERR_BYTES = 10_000       # of the end of stderr that is kept
STDERR_LINES = 50           # of the end of stderr that are kept
MAX_EXTRA = 256 << 10       # bytes of what a job tells about itself


class Outcome:
    """How a run of a job ended.

    exit (int) or signal (name, "SIGKILL"), the other None; stdout, stderr (bytes, the end of it); extra (dict); duration
    (seconds); timed_out; overflow: its output was too large; stopped: ended to be released; forced: ended by signals of ours.
    collect: takes in what a process that has ended left in its pipes; before that stdout, stderr and extra are not known.
    Of an answer in pipe mode: verdict (done, fail, retry, dead or drop; None where there is none), error, delay (seconds or
    None).
    """

    __slots__ = ("exit", "signal", "stdout", "stderr", "extra", "duration", "timed_out", "overflow", "stopped", "forced",
                 "collect", "verdict", "error", "delay")

    def __init__(self, status: int | None = None, stderr: bytes = b""):
        """status: of waitpid()."""
        self.exit: int | None = None
        self.signal: str | None = None
        if status is not None and os.WIFSIGNALED(status):
            self.signal = signal_name(os.WTERMSIG(status))
        elif status is not None:
            self.exit = os.WEXITSTATUS(status)
        self.stdout, self.stderr, self.duration = b"", stderr, 0.0
        self.extra: dict = {}
        self.timed_out = self.overflow = self.stopped = self.forced = False
        self.collect = nothing
        self.verdict: str | None = None
        self.error: str | None = None
        self.delay: float | None = None


def nothing() -> None:
    """There is nothing to collect."""


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def tail(data: bytes) -> bytes:
    """The last lines of stderr, as far as a record keeps them."""
    return b"\n".join(data[-STDERR_BYTES:].rstrip(b"\n").split(b"\n")[-STDERR_LINES:])


def last_line(data: bytes) -> str | None:
    """The last line that is not blank, as text of at most 1,000 characters; None where there is none."""
    for line in reversed(data.split(b"\n")):
        if line.strip():
            return line.strip().decode("utf-8", "replace")[:1000]
    return None


def finite(number: str) -> float | None:
    """A JSON number as a float; None where it is too large for one (1e400): an event with Infinity would be no JSON."""
    value = float(number)
    return value if abs(value) != float("inf") else None


def extras(data: bytes) -> dict:
    """The JSON objects on the lines of data, merged. Lines that are none are skipped; NaN and Infinity become None."""
    found: dict = {}
    if data:
        import json
        for line in data.split(b"\n"):
            try:
                value = json.loads(line, parse_float=finite, parse_constant=lambda _: None)
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                found.update(value)
    return found

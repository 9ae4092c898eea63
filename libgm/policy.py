"""What becomes of a failure: verdict, reason, delay, brake, fingerprint. Pure but for the die that jitters."""

from __future__ import annotations

import random

from . import job
from .errors import Usage
from .runner import MAX_OUTPUT, Outcome

VERDICTS = ("done", "retry", "dead", "drop")
EXITS = {0: "done", 75: "retry", 65: "dead"}   # sysexits.h: EX_TEMPFAIL, EX_DATAERR
MAX_RELEASES = 10      # of one job, before it is taken for the reason of the signals (rule 7)
BRAKE_MAX = 60.0       # seconds


def exit_map(text: str | None) -> dict[int, str]:
    """--exit: `3=dead,4=drop` over the default. Raises Usage."""
    found = dict(EXITS)
    for part in (text or "").split(","):
        if part.strip():
            status, _, verdict = part.strip().partition("=")
            if not status.isdigit() or int(status) > 255 or verdict not in VERDICTS:
                raise Usage(f"--exit: {part.strip()!r} is not STATUS=VERDICT: a verdict is one of {', '.join(VERDICTS)}")
            found[int(status)] = verdict
    return found


def judge(outcome: Outcome, exits: dict[int, str], timeout: float | None) -> tuple[str, str | None, str | None]:
    """(verdict, reason, error) of a run: verdict is one of VERDICTS, or `fail` for a failure that it did not judge."""
    if outcome.timed_out:
        return "fail", "timeout", f"timed out after {timeout:g} s"
    if outcome.overflow:
        return "fail", "error", f"output over {MAX_OUTPUT >> 20} MiB"
    if outcome.verdict:   # its own, by an answer in pipe mode
        return outcome.verdict, "rejected" if outcome.verdict in ("dead", "drop") else "error", outcome.error
    if outcome.signal:
        said = last_line(outcome.stderr)
        return "fail", "crash", f"killed by {outcome.signal}" + (f": {said}" if said else "")
    verdict = exits.get(outcome.exit, "fail")
    if verdict == "done":
        return "done", None, None
    return (verdict, "rejected" if verdict in ("dead", "drop") else "error",
            last_line(outcome.stderr) or f"exit status {outcome.exit}")


def last_line(data: bytes) -> str | None:
    """The last line of stderr with anything on it, as text of at most 1,000 characters."""
    for line in reversed(data.split(b"\n")):
        if line.strip():
            return line.strip().decode("utf-8", "replace")[:1000]
    return None


def delay(attempts: int, base: float, cap: float) -> float:
    """Seconds from the failure of attempt number `attempts` to the next: base doubling, jittered by a tenth, at most cap."""
    if not base:
        return 0.0
    return min(cap, base * 2 ** min(attempts - 1, 62) * random.uniform(0.9, 1.1))


def brake_size(limit: int) -> int:
    """Bytes of the memory that a Brake keeps its state in."""
    return 8 * (2 + limit)


class Brake:
    """A pause after failures of `limit` different jobs in a row, 1 s and doubling to 60 s, until one succeeds (rule 8).

    state: brake_size(limit) bytes that outlive a worker's replacement: how many different jobs have failed, how often it
    has paused, and a tag of each of the jobs.
    """

    def __init__(self, limit: int, state: memoryview):
        self.limit, self.state = limit, state.cast("B").cast("Q")

    @property
    def row(self) -> int:
        """How many different jobs have failed in a row."""
        return self.state[0]

    def done(self) -> None:
        self.state[0] = self.state[1] = 0

    def failed(self, key: str) -> float:
        """A job failed that did not judge itself; the seconds to pause now."""
        count, tag = self.state[0], int(key[:15], 16)
        if count < self.limit and tag not in self.state[2:2 + count].tolist():
            self.state[2 + count] = tag
            self.state[0] = count = count + 1
        if not self.limit or count < self.limit:
            return 0.0
        self.state[1] += 1
        return min(BRAKE_MAX, 2.0 ** (min(self.state[1], 10) - 1))


# Endings of files that jobs are about: a bare name with one is a path. A program's own (.py, .sh) tells causes apart.
FILES = ("jpe?g|png|gif|tiff?|webp|heic|bmp|svg|pdf|txt|csv|tsv|jsonl?|xml|html?|ya?ml|log|zip|gz|bz2|xz|tar|tgz|mp[34]|mov|avi|"
         "mkv|webm|wav|ogg|flac|docx?|xlsx?|pptx?|eml|mbox|msg|db|sqlite|dat|bin|tmp")


def normal(error: str) -> str:
    """An error text with what differs from job to job taken out: quoted strings, addresses, paths, ids, numbers."""
    import re
    for pattern, sign in (
            (r"(?<!\w)(['\"`])(?:(?!\1).)*\1(?!\w)|[«“‘][^»”’]*[»”’]", "'…'"),
            (r"\b[a-z][a-z0-9+.-]*://\S+", "URL"),
            (r"[^\s<>@]+@[^\s<>@]+\.[^\s<>@]+", "ADDRESS"),
            (r"\b(?:[A-Za-z]:\\|\\\\)[^\s:;,()]+|(?<![\w.])[~.]{0,2}/[^\s:;,()'\"]+", "PATH"),
            (rf"(?<![\w.])[\w-][\w.-]*\.(?:{FILES})(?!\w)", "PATH"),
            (r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b", "ID"),
            (r"\b0[xX][0-9a-fA-F]+\b", "N"),
            (r"\b(?=[0-9a-zA-Z]*\d)(?=[0-9a-zA-Z]*[a-zA-Z])(?:[0-9a-fA-F]{6,}|[0-9A-Za-z]{16,})\b", "ID"),
            (r"\d+(?:[.,:]\d+)*", "N"),
            (r"\s+", " ")):
        error = re.sub(pattern, sign, error)
    return error.strip()


def fingerprint(function: bytes, reason: str, error: str) -> str:
    """12 hex digits, the same for failures of one cause: of function, reason and the error's normal form."""
    return job.digest(6, function, reason.encode(), normal(error).encode("utf-8", "replace"))

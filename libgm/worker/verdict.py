"""The verdict on a run: done, retry, dead or drop, with reason and error."""

from __future__ import annotations

import random

from libgm.errors import Usage
from libgm.worker.outcome import MAX_OUTPUT, Outcome, last_line

VERDICTS = ("done", "retry", "dead", "drop")
EXITS = {0: "done", 75: "retry", 65: "dead"}   # sysexits.h: EX_TEMPFAIL, EX_DATAERR


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
    """(verdict, reason, error) of a run. verdict is one of VERDICTS, or `fail` for a failure that COMMAND did not judge."""
    if outcome.timed_out:
        return "fail", "timeout", f"timed out after {timeout:g} s"
    if outcome.overflow:
        return "fail", "error", f"output over {MAX_OUTPUT >> 20} MiB"
    if outcome.verdict:
        return outcome.verdict, "rejected" if outcome.verdict in ("dead", "drop") else "error", outcome.error
    if outcome.signal:
        said = last_line(outcome.stderr)
        return "fail", "crash", f"killed by {outcome.signal}" + (f": {said}" if said else "")
    verdict = exits.get(outcome.exit, "fail")
    if verdict == "done":
        return "done", None, None
    return (verdict, "rejected" if verdict in ("dead", "drop") else "error",
            last_line(outcome.stderr) or f"exit status {outcome.exit}")


def delay(attempts: int, base: float, cap: float) -> float:
    """Seconds from the failure of attempt number `attempts` to the next: base doubling, jittered by a tenth, at most cap."""
    if not base:
        return 0.0
    return min(cap, base * 2 ** min(attempts - 1, 62) * random.uniform(0.9, 1.1))

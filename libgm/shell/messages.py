"""Messages: one line each on standard error."""

from __future__ import annotations

import os
import sys

from libgm.backoff import Backoff
from libgm.shell.lines import Output, safe

PROG = os.path.basename(sys.argv[0])
LONGEST_PAUSE = 30.0   # seconds between attempts at what a person must mend: a full disk, a missing command


def warn(text: str) -> None:
    """Write the line `prog: text` on standard error, in one write."""
    try:
        os.write(2, f"{PROG}: {safe(text)}\n".encode("utf-8", "replace"))
    except OSError:
        pass


def summarize(output: Output, text: str) -> None:
    """Tell a person at a terminal what an acting tool has done. In a pipe the records say it."""
    if output.summarized:
        warn(text)


def tell_news(problems: list, before: list[str], over: str) -> list[str]:
    """Report problems that were not there before, or `over` after the end of all; their texts, for the next time."""
    now = [str(problem) for problem in problems]
    for text in now:
        if text not in before:
            warn(text)
    if before and not now:
        warn(over)
    return now


class Trouble:
    """Trouble that lasts: say it once, again when it changes, and when it is over. The pause between attempts grows.

    times: how often say() was called since the trouble began.
    """

    def __init__(self):
        self.text: str | None = None
        self.times = 0
        self.backoff = Backoff(1.0, LONGEST_PAUSE)

    def say(self, text: str) -> float:
        """Report a failure; the seconds to wait before the next attempt."""
        if text != self.text:
            warn(text)
        self.text, self.times = text, self.times + 1
        return self.backoff.next()

    def over(self) -> None:
        """Report that it works again, if it had failed."""
        if self.text is not None:
            warn("it works again: going on")
        self.text, self.times = None, 0
        self.backoff.reset()

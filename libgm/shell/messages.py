"""Messages: one line each on standard error."""

from __future__ import annotations

import os
import sys

from libgm.shell.lines import Output, safe

PROG = os.path.basename(sys.argv[0])


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

"""Messages: one line each on standard error."""

from __future__ import annotations

import os
import sys

from libgm.shell.lines import safe

PROG = os.path.basename(sys.argv[0])


def warn(text: str) -> None:
    """One line `prog: text` on stderr, in one write."""
    try:
        os.write(2, f"{PROG}: {safe(text)}\n".encode("utf-8", "replace"))
    except OSError:
        pass


PAUSE_MAX = 30.0           # seconds between tries of what a person must mend (a full disk, a missing command)


class Trouble:
    """A growing pause for trouble that lasts, said once until it changes or is over."""

    def __init__(self):
        self.text, self.seconds, self.times = None, 0.5, 0

    def say(self, text: str) -> float:
        """The seconds to pause now, jittered."""
        if text != self.text:
            warn(text)
        self.text, self.seconds, self.times = text, min(PAUSE_MAX, self.seconds * 2), self.times + 1
        import random
        return self.seconds * random.uniform(0.8, 1.2)

    def over(self) -> None:
        if self.text is not None:
            warn("going on")
        self.__init__()

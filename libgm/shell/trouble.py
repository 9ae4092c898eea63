"""Trouble that a person must mend, and that a long-running tool outlasts: a full disk, a missing command."""

from __future__ import annotations

from libgm.backoff import Backoff
from libgm.errors import Replaced, Unavailable
from libgm.shell.messages import warn
from libgm.shell.signals import Control, Stopped

LONGEST_PAUSE = 30.0   # seconds between attempts


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

    def outlast(self, write, control: Control, retires: bool = False, tries: int | None = None):
        """What write() returns, which is called until the quarantine file takes it.

        Raises Stopped where we are told to stop meanwhile (retires: or to retire), and Unavailable after so many tries in a
        row. A file that was replaced never takes it: Replaced.
        """
        while True:
            try:
                done = write()
                self.over()
                return done
            except Replaced:
                raise
            except Unavailable as error:
                if tries is not None and self.times + 1 >= tries:
                    raise
                pause = self.say(f"{error}: trying again")
            control.wait(pause)
            if control.stopping or (retires and control.retired):
                raise Stopped

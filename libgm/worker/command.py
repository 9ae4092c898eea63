"""The interface between the loop of a worker and COMMAND, which is a process per job (run.py) or one in pipe mode (pipe.py)."""

from __future__ import annotations

import collections
import time

from libgm.errors import Error
from libgm.worker.outcome import Outcome


class Unfit(Error):
    """COMMAND could not be started, or ended through no job's doing. tried: it had done jobs before."""

    def __init__(self, why: str, tried: bool = False):
        super().__init__(why)
        self.tried = tried


class Command:
    """COMMAND, as the loop sees it. Nothing here waits, but finish() and end().

    given: the attempts that it has, the first of them is the one that it is on, since .began (time.monotonic()).
    start_at: time.monotonic() before which nothing is begun.
    """

    def __init__(self, settings, env: dict[bytes, bytes], control):
        self.settings, self.env, self.control = settings, env, control
        self.given: collections.deque = collections.deque()
        self.began = self.start_at = 0.0

    def start(self) -> None:
        """Make it ready for jobs, where it is not. Raises Unfit."""

    def ready(self) -> bool:
        """Whether it can be given jobs."""
        return time.monotonic() >= self.start_at

    @property
    def gone(self) -> bool:
        """Whether it has ended as a whole, so that what it was given is not done any more."""
        return False

    def room(self, ahead: int) -> int:
        """How many attempts it takes now; ahead: how many it may have, the one that it is on included."""
        raise NotImplementedError

    def prepare(self, attempt) -> None:
        """Prepare what can be prepared for the job that is given next."""

    def give(self, attempt) -> None:
        """Let it do a job. Raises Unfit, and does not have the job then."""
        raise NotImplementedError

    def flush(self) -> None:
        """Let it know of the jobs that it was given."""

    def watch(self) -> dict[int, int]:
        """The descriptors to wait for, with the events of poll(2)."""
        raise NotImplementedError

    def due(self, now: float) -> float | None:
        """time.monotonic() at which attend() must be called in any case."""
        raise NotImplementedError

    def attend(self, woken: list[int]) -> list[tuple]:
        """Act on what happened on the descriptors of watch() and by the clock; the jobs that have ended, each an
        (attempt, Outcome), no longer in .given: call its collect(). Raises Unfit; what it was given and has not begun is still in .given then.
        """
        raise NotImplementedError

    def take_back(self) -> list:
        """The attempts that it was given and has not begun, in order; only where it is gone."""
        found = list(self.given)
        self.given.clear()
        return found

    def stop(self) -> None:
        """End the job that it is on: attend() returns it with .stopped."""
        raise NotImplementedError

    def finish(self) -> None:
        """No more jobs come: let it clean up within --grace."""

    def end(self) -> bool:
        """End it at once, whatever it is on; whether there was anything to end."""
        raise NotImplementedError


def failure(error: str) -> Outcome:
    """The outcome of a job that COMMAND did not report itself."""
    outcome = Outcome()
    outcome.verdict, outcome.error = "fail", error
    return outcome

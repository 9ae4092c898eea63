"""The jobs in a worker's hand: what was fetched and has its start, what is done and not settled."""

from __future__ import annotations

import collections
import time

from libgm.worker.attempt import Attempt
from libgm.worker.outcome import Outcome
from libgm.worker.settle import Settler
from libgm.worker.suspects import Suspects

COMPANY = 0.002   # seconds that an answer waits for others, to be settled with them


class Hand:
    """The jobs of a worker that are on their way to COMMAND, or back.

    ready: their starts are written. suspects: a dead worker had them in hand. done: their starts are there still, and the
    servers are not told. size: mean bytes of a payload.
    """

    def __init__(self, settler: Settler):
        self.settler, self.suspects = settler, Suspects(settler)
        self.ready: collections.deque[Attempt] = collections.deque()
        self.done: list[tuple[Attempt, Outcome]] = []
        self.done_at = 0.0     # time.monotonic() of the first of these
        self.number = 0        # of the last start
        self.size = 0.0

    def __bool__(self) -> bool:
        """Whether anything is to be begun."""
        return bool(self.ready or self.suspects)

    @property
    def next(self) -> Attempt | None:
        """The job that is begun next."""
        return self.ready[0] if self.ready else self.suspects.chosen

    def waits(self, now: float) -> bool:
        """Whether the next job may not be begun yet."""
        following = self.next
        return following is not None and following.start_at > now

    # ---- to COMMAND

    def prepare(self, fetched: collections.deque) -> None:
        """Write the starts of all that was fetched, and with the same transaction settle what is done."""
        coming = []
        while fetched:
            self.number += 1
            attempt = Attempt(fetched.popleft(), self.number, self.settler.settings.foreground)
            if attempt.spool is None:
                coming.append(attempt)
            else:
                self.settler.too_large(attempt)
        if not coming:
            return
        self.size += (sum(len(attempt.data) for attempt in coming) / len(coming) - self.size) * 0.3
        suspects = self.settle(coming)
        if suspects:
            self.settler.end_starts(attempt for attempt in coming if attempt.run in suspects)
        for attempt in coming:
            (self.suspects.waiting if attempt.run in suspects else self.ready).append(attempt)

    def take_back(self) -> list[Attempt]:
        """All that is not begun, to be given back."""
        found = [*self.ready, *self.suspects.take_back()]
        self.ready.clear()
        return found

    # ---- from COMMAND

    def put_done(self, attempt: Attempt, outcome: Outcome) -> None:
        """Take in a job that is done."""
        if not self.done:
            self.done_at = time.monotonic()
        self.done.append((attempt, outcome))

    def due(self, window: int, company: bool) -> bool:
        """Whether what is done is to be settled now. company: others may be done soon, or their starts written."""
        return bool(self.done) and (not company or len(self.done) * 2 > window > 1 or
                                    time.monotonic() - self.done_at > COMPANY)

    def settle(self, coming: list[Attempt] | None = None) -> list[int]:
        """Settle what is done, with the starts of what comes next; the runs among those that are suspects."""
        done, self.done = self.done, []
        return self.settler.turn_over(done, coming or []) if done or coming else []

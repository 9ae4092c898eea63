"""Suspects: jobs that a dead worker had in hand. Each runs alone, so that a killer among them is the one that counts."""

from __future__ import annotations

import collections
import time

from libgm.quarantine import processes
from libgm.worker.attempt import Attempt
from libgm.worker.settle import Settler

AGAIN = 0.25   # seconds between two looks at whether another suspect runs on this machine


class Suspects:
    """The suspects in a worker's hand. .chosen runs alone, or is the next to run, and has its start; the others have none.

    .at: time.monotonic() before which none is chosen.
    """

    def __init__(self, settler: Settler):
        self.settler = settler
        self.waiting: collections.deque[Attempt] = collections.deque()
        self.chosen: Attempt | None = None
        self.at = 0.0

    def __bool__(self) -> bool:
        return bool(self.waiting or self.chosen)

    def choose(self) -> None:
        """Choose one that may run. A job that took down a worker waits while another such job runs on this machine."""
        now = time.monotonic()
        if self.chosen or not self.waiting or now < self.at:
            return
        attempt = self.waiting.popleft()
        if attempt.lost is None and not self.settler.look_back(attempt):
            return
        if attempt.lost and not processes.try_suspect(self.settler.store):
            self.waiting.append(attempt)
            self.at = now + AGAIN
            return
        self.settler.turn_over([], [attempt])
        self.chosen = attempt

    def ended(self, attempt: Attempt) -> None:
        """A job has ended, which may be the one that was chosen."""
        if attempt is self.chosen:
            self.chosen = None
            if attempt.lost:
                processes.end_suspect(self.settler.store)

    def take_back(self) -> list[Attempt]:
        """All of them, to be given back."""
        found = [*self.waiting, *((self.chosen,) if self.chosen else ())]
        self.waiting.clear()
        if self.chosen:
            self.ended(self.chosen)
        return found

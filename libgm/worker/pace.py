"""How many jobs a worker has in hand, by how fast they are done."""

from __future__ import annotations

import math
import time

SPAN = 0.005      # seconds of work to have in hand
MOST = 64         # jobs
MEMORY = 600.0    # seconds after which a job weighs a third in the mean
FIELDS = 4        # of a worker in the shared memory: count and seconds of its jobs, when they were added up, when it began one
LOOK = 0.01       # seconds for which what the other workers wrote is taken as read


def pace_size(jobs: int) -> int:
    """Bytes of the memory that the workers of a gm-work share."""
    return 8 * FIELDS * jobs


class Pace:
    """The pace of a worker's jobs: the slower of its last few jobs and of the mean of all workers over ten minutes.

    shared: pace_size() bytes that all workers of a gm-work see, and that outlive each of them. What a job has taken so far
    counts from its begin, so that others hear of a long one while it runs. .window: how many jobs to have in hand.
    """

    def __init__(self, shared: memoryview, slot: int):
        self.shared, self.mine = shared.cast("B").cast("d"), slot * FIELDS
        self.recent, self.mean, self.looked = SPAN, 0.0, 0.0   # seconds a job, twice; time.monotonic()
        self.window = 1
        self.on(None)

    def on(self, began: float | None) -> None:
        """The worker is on a job since then (time.monotonic()), or on none."""
        self.shared[self.mine + 3] = began or 0.0

    def add(self, seconds: float, count: int) -> None:
        """So many jobs took so many seconds."""
        now, shared, mine = time.monotonic(), self.shared, self.mine
        fade = math.exp((shared[mine + 2] - now) / MEMORY)
        shared[mine] = shared[mine] * fade + count
        shared[mine + 1] = shared[mine + 1] * fade + seconds
        shared[mine + 2] = now
        self.recent += (seconds / count - self.recent) * 0.3
        if now - self.looked > LOOK:
            self.looked, self.mean = now, self._mean(now)
        self.window = min(MOST, math.ceil(SPAN / max(self.recent, self.mean, 1e-6)), self.window * 2)

    def _mean(self, now: float) -> float:
        """Seconds a job, of all workers."""
        count = seconds = 0.0
        for at in range(0, len(self.shared), FIELDS):
            jobs, took, stamp, began = self.shared[at:at + FIELDS]
            fade = math.exp((stamp - now) / MEMORY)
            count += jobs * fade
            seconds += took * fade
            if began and at != self.mine:
                count += 1
                seconds += max(0.0, now - began)
        return seconds / count if count else 0.0

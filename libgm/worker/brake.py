"""The brake: a pause after failures of many different jobs in a row."""

from __future__ import annotations

BRAKE_MAX = 60.0       # seconds


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

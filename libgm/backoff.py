"""Growing pauses: the wait before something that has failed is tried again. Pure but for the die that jitters."""

from __future__ import annotations


class Backoff:
    """A pause that starts at `first` seconds and doubles with every failure in a row, up to `most`; jittered by `jitter`, a
    fraction, so that many processes do not come back at once."""

    __slots__ = ("first", "most", "jitter", "pause")

    def __init__(self, first: float, most: float, jitter: float = 0.2):
        self.first, self.most, self.jitter, self.pause = first, most, jitter, 0.0

    def next(self) -> float:
        """The seconds to wait after one more failure."""
        import random
        self.pause = min(self.most, 2 * self.pause or self.first)
        return self.pause * random.uniform(1 - self.jitter, 1 + self.jitter)

    def reset(self) -> None:
        """It worked: the next pause is the first one again."""
        self.pause = 0.0

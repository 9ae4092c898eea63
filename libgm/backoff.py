"""Growing pauses between attempts."""

from __future__ import annotations


class Backoff:
    """A pause that starts at `first` seconds and doubles with each failure in a row, up to `most` seconds.

    jitter: the fraction by which a pause varies at random, so that many processes do not try again at once.
    """

    __slots__ = ("first", "most", "jitter", "pause")

    def __init__(self, first: float, most: float, jitter: float = 0.2):
        self.first, self.most, self.jitter, self.pause = first, most, jitter, 0.0

    def next(self) -> float:
        """The seconds to wait after one more failure."""
        import random
        self.pause = min(self.most, 2 * self.pause or self.first)
        return self.pause * random.uniform(1 - self.jitter, 1 + self.jitter)

    def reset(self) -> None:
        """Start again from the first pause, after a success."""
        self.pause = 0.0

"""Progress of long work, on standard error, for a person at a terminal."""

from __future__ import annotations

import os

DELAY = 1.0   # seconds of work before it shows


class Progress:
    """A count of what is done, shown by tqdm where standard error is a terminal and no records go to one. A job of the
    shell that runs in the background draws nothing over what the foreground shows.

    unit: such as "jobs". total: how many there will be, None if that is not known. quiet: no records are printed.
    """

    def __init__(self, unit: str, total: int | None = None, quiet: bool = False):
        self.bar = None
        if os.isatty(2) and (quiet or not os.isatty(1)) and not in_background():
            from tqdm import tqdm
            self.bar = tqdm(unit=f" {unit}", total=total, delay=DELAY, mininterval=0.2, dynamic_ncols=True, leave=False)

    def add(self, count: int = 1) -> None:
        if self.bar is not None:
            self.bar.update(count)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def in_background() -> bool:
    """Whether standard error is the terminal of another process group."""
    try:
        return os.tcgetpgrp(2) != os.getpgrp()
    except OSError:   # not the terminal that controls this process
        return False

"""Which call is broken and how: the orders for preload.c, and what it reports."""

from __future__ import annotations

import errno
import mmap
import struct
import subprocess
from pathlib import Path
from typing import NamedTuple

CONTROL = struct.Struct("=4iqqq2i160s")   # struct control of preload.c
COUNT, OFF = 24, 40                       # offsets of its counts, of the power switch
OURS, SERVER = 0, 1
NEVER = 1 << 62                           # a call that is not reached
KILL, KILL_HALF, KILL_GROUP, FAIL, SHORT, POWER = range(1, 7)


class Strike(NamedTuple):
    """The n-th call (at, from 1) of a side's processes is broken, and the next ones until there were `times`.

    part: after a power cut each file is, at random, as it was last synced or as it was last written.
    """

    kind: int = KILL
    side: int = OURS
    error: int = 0
    times: int = 1
    at: int = NEVER
    part: bool = False


CALM = "nothing broken"
KINDS = {
    "killed": Strike(KILL, OURS),
    "killed within": Strike(KILL_HALF, OURS),
    "group killed": Strike(KILL_GROUP, OURS),
    "ENOSPC": Strike(FAIL, OURS, errno.ENOSPC),
    "EIO": Strike(FAIL, OURS, errno.EIO),
    "short": Strike(SHORT, OURS),
    "power cut": Strike(POWER, OURS),
    "power cut, part": Strike(POWER, OURS, part=True),
    "gearmand killed": Strike(KILL, SERVER),
    "power cut, gearmand": Strike(POWER, SERVER),
}


def compile_library(folder: Path) -> Path:
    """Build preload.c in folder; the path of the library. Raises CalledProcessError."""
    library = folder / "preload.so"
    source = Path(__file__).resolve().parent / "preload.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-w", "-o", library, source], check=True)
    return library


class Control:
    """struct control of preload.c in a file, which all processes of a machine share."""

    def __init__(self, path: Path):
        path.write_bytes(bytes(CONTROL.size))
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), CONTROL.size)
        self.disarm()

    def arm(self, strike: Strike) -> None:
        """Count calls from now on, and break those of strike."""
        self.strike = strike
        CONTROL.pack_into(self.memory, 0, strike.side, strike.kind, strike.error, strike.times, strike.at, 0, 0, 0, 0, b"")

    def disarm(self) -> None:
        self.arm(Strike())

    @property
    def counts(self) -> tuple[int, int]:
        """The calls of our tools and of gearmand since arm()."""
        return struct.unpack_from("=qq", self.memory, COUNT)

    @property
    def off(self) -> bool:
        return bool(CONTROL.unpack_from(self.memory)[7])

    def cut(self) -> None:
        """Cut the power: every process ends at its next call that counts."""
        struct.pack_into("=i", self.memory, OFF, 1)

    @property
    def struck(self) -> int:
        return CONTROL.unpack_from(self.memory)[8]

    @property
    def where(self) -> str:
        """The first broken call, as text."""
        return CONTROL.unpack_from(self.memory)[9].rstrip(b"\0").decode("utf-8", "replace")

"""Who is alive: a byte lock that the kernel drops, and the facts that let a signal be sent to the right process.

Each process of ours that owns starts or claims locks the byte at offset ID (its row in the quarantine file)
of a file beside the quarantine file. A lock that could be taken belonged to a dead process, whatever pid, container
or boot it had. POSIX record locks: not inherited by children, and gone when any descriptor of the file is
closed in the process, so there is one descriptor per process and it is never closed.

What the file holds, where others have their locks, is which of several jobs a worker is on (note): a slot per id, by
its low bits. That too is the kernel's once it is written, so it survives kill -9; a slot that another id has taken since
tells nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

HAND = struct.Struct("=qqd")   # of a slot: id, run, since when
SLOT, SLOTS = 32, 4096         # bytes of a slot, and how many there are
FLOCK = "hhqqi4x"   # struct flock on 64-bit Linux: type, whence, start, length, pid
_descriptors: dict[tuple[int, str], int] = {}


def _descriptor(path: str) -> int:
    """This process's one descriptor of the lock file beside the quarantine file at path."""
    key = os.getpid(), path
    if key not in _descriptors:
        name = path + "-alive"
        try:
            fd = os.open(name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            mode = os.stat(path).st_mode & 0o666
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            try:
                os.fchmod(fd, mode)   # against the umask: whoever may write the one must lock the other
            except PermissionError:
                pass                  # another user's process made it meanwhile
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EROFS):
                raise
            fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)   # enough to look
        _descriptors[key] = fd
    return _descriptors[key]


def hold(path: str, ident: int) -> None:
    """Lock byte ident until this process ends. Raises OSError."""
    fcntl.lockf(_descriptor(path), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, ident)


def drop(path: str, ident: int) -> None:
    """Unlock byte ident, where this process holds it."""
    fd = _descriptors.get((os.getpid(), path))
    if fd is not None and ident >= 0:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, ident)


def held(path: str, ident: int) -> bool:
    """Whether another process lives that holds ident. Raises OSError."""
    if not os.path.exists(path + "-alive"):
        return False
    return locker(_descriptor(path), ident) is not None


def locker(fd: int, start: int, length: int = 1) -> int | None:
    """The pid of another process that holds a lock on those bytes of a file, 0 where our pid namespace has none for it.

    None where nobody holds one. Raises OSError.
    """
    lock = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, lock))
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def note(path: str, ident: int, run: int, since: float, sync: bool = False) -> None:
    """Say that ident is on that run since then (epoch seconds); sync: on disk before this returns. Raises OSError."""
    fd = _descriptor(path)
    os.pwrite(fd, HAND.pack(ident, run, since), ident % SLOTS * SLOT)
    if sync:
        os.fdatasync(fd)


def noted(path: str, ident: int) -> tuple[int, float] | None:
    """(run, since) that ident has last said it is on; None where it said nothing, or that cannot be told any more."""
    try:
        owner, run, since = HAND.unpack(os.pread(_descriptor(path), HAND.size, ident % SLOTS * SLOT))
    except (OSError, struct.error):
        return None
    return (run, since) if owner == ident else None


def start_time(pid: int | str) -> int | None:
    """When pid started, in clock ticks since boot (proc(5), field 22); None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def namespace() -> int:
    """The pid namespace and boot that a pid is of, as one number: signals go only where it is ours."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as boot:
            boot_id = int(boot.read(8), 16)
        return os.stat("/proc/self/ns/pid").st_ino << 24 ^ boot_id
    except (OSError, ValueError):
        return 0

"""Who lives: a row per process of ours in the quarantine file, and a byte lock that the kernel drops when it dies.

A process that owns starts or claims locks the byte at offset ID (its row's) of a file beside the quarantine file, FILE-alive.
A lock that could be taken belonged to a dead process, whatever pid, container or boot it had. POSIX record locks are not
inherited by children, and gone when any descriptor of the file is closed in the process: there is one descriptor per
process, and it is never closed.

FILE-alive also holds, a slot per id by its low bits, which of several jobs a worker is on (note). The kernel has that once it
is written, so it survives kill -9. A slot that another id has taken since tells nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time

from libgm.errors import Unavailable, reason
from libgm.quarantine.file import Store, text

HAND = struct.Struct("=qqd")   # of a slot: id, run, since when
SLOT, SLOTS = 32, 4096         # bytes of a slot, and how many there are
FLOCK = "hhqqi4x"              # struct flock on 64-bit Linux: type, whence, start, length, pid
SUSPECT = 1 << 62              # offset of the lock of whoever runs a suspect
TRIES = 4096                   # ids in a row that living processes may hold after a restore
_descriptors: dict[tuple[int, str], int] = {}


# ---- this process


def join(store: Store, tool: str, function: bytes | None = None, servers: str | None = None) -> int:
    """Enter this process in the file; its id. Its lock is held before anybody can see the row. Raises Unavailable.

    After a restore the file may offer ids that living processes have: they are passed over.
    """
    row = {"tool": tool, "host": os.uname().nodename, "namespace": namespace(), "pid": os.getpid(),
           "pid_start": start_time(os.getpid()), "started": int(time.time()),
           "function": None if function is None else text(function), "servers": servers}
    if store.version >= 3:
        row["boot"] = boot()
    wanted, ident = None, 0
    try:
        with store.transaction():
            for _ in range(TRIES):
                entry = {"id": wanted, **row}
                ident = store.execute(f"INSERT INTO process ({', '.join(entry)}) "
                                      f"VALUES ({', '.join(':' + name for name in entry)})", entry).lastrowid or 0
                if hold(store.path, ident):
                    break
                store.execute("DELETE FROM process WHERE id = ?", (ident,))
                wanted = ident + 1
            else:
                raise Unavailable(f"{store.path}-alive: cannot lock: {TRIES} ids are taken")
    except OSError as error:
        raise Unavailable(f"{store.path}-alive: cannot lock: {reason(error)}") from None
    except Unavailable:
        drop(store.path, ident or None)   # the id may be another's next
        raise
    store.process, store.entry = ident, {**row, "id": ident}
    return ident


def leave(store: Store) -> None:
    """Take this process's row out. Its starts stay: whoever is next reads them as of a dead owner."""
    if store.entry:
        ident, store.entry = store.process, {}
        with store.transaction():
            store.execute("DELETE FROM process WHERE id = ?", (ident,))
        store.process = -1


def part(store: Store) -> None:
    """leave() and close, also where the file takes no writes: the next who sweeps takes the row out."""
    try:
        with store.patience(1.0):
            leave(store)
    except Unavailable:
        pass
    store.close()


# ---- others


def lives(store: Store, process: int) -> bool:
    """Whether the process with that id lives: this one, or one whose lock the kernel still holds. Raises Unavailable."""
    try:
        return process == store.process or held(store.path, process)
    except OSError as error:
        raise Unavailable(f"{store.path}-alive: cannot look at locks: {reason(error)}") from None


def releasers(store: Store, servers: str) -> int:
    """How many living gm-work processes on the file have that list of servers: each releases what is delayed for it."""
    return sum(lives(store, ident) for ident, in store.rows(
        "SELECT id FROM process WHERE tool LIKE 'gm-work%' AND servers = ?", (servers,)))


def try_suspect(store: Store) -> bool:
    """Begin a suspect, a job that may have taken a worker down; False while another process runs one. Raises Unavailable."""
    try:
        return hold(store.path, SUSPECT)
    except OSError as error:
        raise Unavailable(f"{store.path}-alive: cannot lock: {reason(error)}") from None


def end_suspect(store: Store) -> None:
    """The suspect has ended: another may begin."""
    drop(store.path, SUSPECT)


# ---- locks


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


def hold(path: str, ident: int) -> bool:
    """Lock byte ident until this process ends; False where another process has it. Raises OSError."""
    try:
        fcntl.lockf(_descriptor(path), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, ident)
        return True
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False


def drop(path: str, ident: int | None) -> None:
    """Unlock byte ident, where this process holds it."""
    fd = _descriptors.get((os.getpid(), path))
    if fd is not None and ident is not None:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, ident)


def held(path: str, ident: int) -> bool:
    """Whether another process lives that holds ident. Raises OSError."""
    if not os.path.exists(path + "-alive"):
        return False
    return locker(_descriptor(path), ident) is not None


def holder(store: Store, ident: int) -> int | None:
    """The pid of the process that holds ident, by the kernel; 0 where our pid namespace has none for it.

    None where nobody holds it. Raises Unavailable.
    """
    try:
        return locker(_descriptor(store.path), ident) if os.path.exists(f"{store.path}-alive") else None
    except OSError as error:
        raise Unavailable(f"{store.path}-alive: cannot look at locks: {reason(error)}") from None


def locker(fd: int, start: int, length: int = 1) -> int | None:
    """The pid of another process that holds a lock on those bytes of a file, 0 where our pid namespace has none for it.

    None where nobody holds one. Raises OSError.
    """
    lock = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(fd, fcntl.F_GETLK, lock))
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def note(path: str, ident: int, run: int, since: float, sync: bool = False) -> None:
    """Write that ident is on that run since then (epoch seconds). sync: on disk before this returns. Raises OSError."""
    fd = _descriptor(path)
    os.pwrite(fd, HAND.pack(ident, run, since), ident % SLOTS * SLOT)
    if sync:
        os.fdatasync(fd)


def noted(path: str, ident: int) -> tuple[int, float] | None:
    """(run, since) that ident has written last; None where it wrote nothing, or its slot is another's by now."""
    try:
        owner, run, since = HAND.unpack(os.pread(_descriptor(path), HAND.size, ident % SLOTS * SLOT))
    except (OSError, struct.error):
        return None
    return (run, since) if owner == ident else None


# ---- pids


def start_time(pid: int | str) -> int | None:
    """When pid started, in clock ticks since boot (proc(5), field 22); None where there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return int(stat.read().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def boot() -> str | None:
    """What the kernel calls this boot; None where it cannot be told."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as found:
            return found.read().strip()
    except OSError:
        return None


def namespace() -> int:
    """The pid namespace and boot that a pid is of, as one number: signals go only where it is ours; 0 where it is unknown."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino << 24 ^ int((boot() or "0")[:8], 16)
    except (OSError, ValueError):
        return 0

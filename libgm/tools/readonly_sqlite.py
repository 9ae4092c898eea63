"""Opening an SQLite file of somebody else's without writing to it or to what lies beside it, whatever state it is in."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import tempfile
from urllib.parse import quote

from libgm.errors import Unavailable, reason
from libgm.quarantine.file import check_readable, reason_of

BUSY = 10.0        # seconds to wait for a writer's commit
COPIES = 5         # tries to copy a file that is in use
MAGIC = b"SQLite format 3\0"
FLOCK = "hhqqi4x"  # struct flock on 64-bit Linux: type, whence, start, length, pid
SHARED, SHARED_SIZE = 0x40000002, 510   # bytes of the file that whoever reads or writes it holds a lock on
ALIVE = 128                             # byte of -shm that whoever has a file in WAL mode open holds a lock on


class Untouched:
    """A context: .db is a connection; .how says how it came about; .wal whether the file is in WAL mode; .user is the pid of
    a process that has it open, 0 where it cannot be told which, None where none has. Raises Unavailable with the path in it.

    A file that is in use, or was closed in order, is read where it is. One with a transaction left half-way (a hot
    journal, or a WAL without its index) is copied, and the copy recovered: SQLite recovers only by writing.
    """

    def __init__(self, path: str):
        self.path, self.real = path, os.path.realpath(path)
        self.folder: tempfile.TemporaryDirectory | None = None
        try:
            check_readable(path)
            with open(path, "rb") as file:
                head = file.read(100)
        except OSError as error:
            raise Unavailable(f"{path}: cannot open: {reason(error)}") from None
        if not head.startswith(MAGIC):
            raise Unavailable(f"{path}: " + ("empty: no gearmand has written to it" if not head else "not an SQLite database"))
        self.wal = head[18] == 2
        self.leftover = {end: size(self.real + end) for end in ("-wal", "-journal") if size(self.real + end)}
        self.user = self._user()
        self.db = self._open()

    def __enter__(self) -> "Untouched":
        return self

    def __exit__(self, *_) -> None:
        self.db.close()
        if self.folder:
            self.folder.cleanup()

    def _user(self) -> int | None:
        """Who has it open: SQLite's own locks tell."""
        import fcntl
        name, start, length = (self.real + "-shm", ALIVE, 1) if self.wal else (self.real, SHARED, SHARED_SIZE)
        try:
            with open(name, "rb") as file:
                lock = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
                kind, _, _, _, pid = struct.unpack(FLOCK, fcntl.fcntl(file, fcntl.F_GETLK, lock))
        except OSError:
            return None
        return None if kind == fcntl.F_UNLCK else max(0, pid)

    def _open(self) -> sqlite3.Connection:
        if not self.wal:
            ways = ["mode=ro"]
        elif os.path.exists(self.real + "-shm"):
            ways = ["mode=ro&readonly_shm=1"] + ["mode=ro"] * (self.user is not None)
        else:
            ways = [] if "-wal" in self.leftover else ["mode=ro&immutable=1"]
        for way in ways:
            try:
                self.how = "read where it is"
                return connect(self.real, way)
            except sqlite3.OperationalError:
                pass
            except sqlite3.DatabaseError as error:
                raise Unavailable(f"{self.path}: {reason_of(error)}") from None
        self.how = "a copy was recovered"
        try:
            return connect(self._copy(), "mode=rw")
        except sqlite3.Error as error:
            raise Unavailable(f"{self.path}: cannot open a copy of it: {reason_of(error)}") from None

    def _copy(self) -> str:
        """The path of a copy with what lies beside it, taken while nobody wrote. Raises Unavailable."""
        self.folder = tempfile.TemporaryDirectory(prefix="gm-salvage-")
        copy = os.path.join(self.folder.name, "queue")
        try:
            for _ in range(COPIES):
                before = self._state()
                for end in ("", "-wal", "-journal"):
                    if os.path.exists(self.real + end):
                        shutil.copyfile(self.real + end, copy + end)
                    elif os.path.exists(copy + end):
                        os.unlink(copy + end)
                if before == self._state():
                    return copy
        except OSError as error:
            raise Unavailable(f"{self.path}: cannot copy it to {self.folder.name}: {reason(error)}"
                              ": set $TMPDIR to where there is room") from None
        raise Unavailable(f"{self.path}: changes while it is copied: stop what writes to it")

    def _state(self) -> list:
        found = []
        for end in ("", "-wal", "-journal"):
            try:
                stat = os.stat(self.real + end)
                found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
            except FileNotFoundError:
                found.append(None)
        return found


def connect(path: str, way: str) -> sqlite3.Connection:
    """A connection that has read the schema. Raises sqlite3.Error."""
    db = sqlite3.connect(f"file:{quote(path)}?{way}", uri=True, timeout=BUSY, isolation_level=None)
    try:
        db.execute("PRAGMA cell_size_check=1")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException as error:
        db.close()
        if isinstance(error, UnicodeDecodeError):   # of SQLite's own words about a schema
            raise sqlite3.DatabaseError("its schema is damaged") from None
        raise
    return db


def size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0

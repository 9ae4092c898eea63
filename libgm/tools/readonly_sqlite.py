"""Another program's SQLite file, opened without a write to it or beside it, whatever state it is in."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile

from libgm.errors import Unavailable, reason
from libgm.quarantine import processes
from libgm.quarantine.file import check_readable, reason_of, uri

BUSY = 10.0        # seconds to wait for a writer's commit
COPIES = 5         # tries to copy a file that is in use
MAGIC = b"SQLite format 3\0"
SHARED = (0x40000002, 510)   # bytes of the file that every reader and writer holds a lock on: begin, length
ALIVE = (128, 1)             # the same of -shm, for every process that has a file in WAL mode open


class ReadOnly:
    """A context with a read-only connection in .db. Raises Unavailable with the path in it.

    .wal: whether the file is in WAL mode. .leftover: the size of each file beside it, by suffix. .user: the pid of a
    process that has it open, 0 where the kernel does not name it, None where there is none. .folder: of the copy.

    A file that is in use, or was closed in order, is read in place. A file with an unfinished transaction (a hot
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

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection and remove the copy."""
        self.db.close()
        if self.folder:
            self.folder.cleanup()

    def _user(self) -> int | None:
        """The process that has the file open, by SQLite's own locks."""
        name, held = (self.real + "-shm", ALIVE) if self.wal else (self.real, SHARED)
        try:
            with open(name, "rb") as file:
                return processes.locker(file.fileno(), *held)
        except OSError:
            return None

    def _open(self) -> sqlite3.Connection:
        if not self.wal:
            ways = ["mode=ro"]
        elif os.path.exists(self.real + "-shm"):
            ways = ["mode=ro&readonly_shm=1"] + ["mode=ro"] * (self.user is not None)
        else:
            ways = [] if "-wal" in self.leftover else ["mode=ro&immutable=1"]
        for way in ways:
            try:
                return connect(self.real, way)
            except sqlite3.OperationalError:
                pass
            except sqlite3.DatabaseError as error:
                raise Unavailable(f"{self.path}: {reason_of(error)}") from None
        try:
            return connect(self._copy(), "mode=rw")
        except sqlite3.Error as error:
            raise Unavailable(f"{self.path}: cannot open a copy of it: {reason_of(error)}") from None

    def _copy(self) -> str:
        """Copy the file, and the journal or WAL beside it, while nobody writes. Return the copy's path. Raises Unavailable."""
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
        """What changes when somebody writes to one of the files."""
        found: list[tuple | None] = []
        for end in ("", "-wal", "-journal"):
            try:
                stat = os.stat(self.real + end)
                found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
            except FileNotFoundError:
                found.append(None)
        return found


def connect(path: str, way: str) -> sqlite3.Connection:
    """A connection that has read the schema. Raises sqlite3.Error."""
    db = sqlite3.connect(f"{uri(path)}?{way}", uri=True, timeout=BUSY, isolation_level=None)
    try:
        db.execute("PRAGMA cell_size_check=1")
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException as error:
        db.close()
        if isinstance(error, UnicodeDecodeError):   # SQLite's message quotes the schema
            raise sqlite3.DatabaseError("its schema is damaged") from None
        raise
    return db


def size(path: str) -> int:
    """The size of a file, 0 where there is none."""
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0

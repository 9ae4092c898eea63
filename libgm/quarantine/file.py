"""The quarantine file, opened: its place, its migration, its transactions. gm-quarantine(5) is its manual."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import time
from functools import cached_property

from libgm.errors import Replaced, Unavailable, reason
from libgm.quarantine.schema import APPLICATION_ID, MIGRATIONS, VERSION

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "glusterfs", "lustre", "fuse")


def check_place(path: str, table: str = "/proc/self/mountinfo") -> None:
    """Refuse a path on a network file system, and one that is a mount point itself. Raises Unavailable.

    path: absolute, without links. table: in the format of proc(5)'s mountinfo; where it cannot be read, any path will do.
    """
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as lines:
            mounts = [(line.split()[4], line.partition(" - ")[2].split()[0]) for line in lines]
    except (OSError, IndexError):
        return
    found, kind = "", ""
    for point, this in mounts:
        point = point.replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found):
            found, kind = point, this
    if kind.partition(".")[0] in NETWORK:
        raise Unavailable(f"{path}: on a network file system ({kind}), where locks do not hold: use a local disk")
    if found == path:
        raise Unavailable(f"{path}: is a mount point: mount its directory, so that its side files are beside it")


def make(path: str) -> None:
    """Make an empty file of the right mode at path where there is none. Of directories, make only our own default."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder) and folder.endswith("/gearmang"):
        os.makedirs(folder, mode=0o700, exist_ok=True)
    shared = os.stat(folder).st_mode & stat.S_IWGRP
    mode = 0o660 if shared else 0o600
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        return
    try:
        os.fchmod(fd, mode)   # whatever the umask is
    finally:
        os.close(fd)


def check_readable(path: str) -> None:
    """Raise OSError where path is no file that can be read. Opening and closing it would drop the locks of this process."""
    kind = os.stat(path).st_mode
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if not stat.S_ISREG(kind):
        raise OSError(errno.EINVAL, "Not a regular file")
    if not may(path, os.R_OK):
        raise PermissionError(errno.EACCES, "Permission denied")


def may(path: str, how: int) -> bool:
    """Whether open() would succeed: by the effective ids and capabilities, where access(2) goes by the real ones."""
    return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)


def has_wal(path: str) -> bool:
    try:
        return os.stat(path + "-wal").st_size > 0
    except FileNotFoundError:
        return False


def open_failure(path: str, create: bool, error: OSError) -> str:
    """Why the file cannot be opened, as the end of a message. create: whether it was to be made."""
    if isinstance(error, FileNotFoundError):
        if create:
            return f"cannot make it: there is no folder {os.path.dirname(path)}"
        return "no such file: nothing was quarantined yet, or set GM_QUARANTINE to the right file"
    return f"cannot open: {reason(error)}"


BUSY = 60.0                   # seconds to wait for another writer
MAKING = 5.0                  # seconds that another process may take to make its new file a quarantine file


def text(value: bytes) -> str | bytes:
    """value as the file holds it: TEXT where it is UTF-8 without NUL, else BLOB, so that equal bytes are equal values."""
    if b"\0" in value:
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value


def raw(value: str | bytes) -> bytes:
    """text() undone."""
    return value.encode() if isinstance(value, str) else value


def reason_of(error: sqlite3.Error) -> str:
    """What SQLite says of an error, as the end of a message."""
    said = str(error).rstrip(".") or type(error).__name__
    return f"damaged: {said}" if "malformed" in said else said


def uri(path: str) -> str:
    """A path as the beginning of a URI for SQLite. urllib would take a tenth of a tool's start."""
    return "file:" + path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")


def statements(script: str) -> list[str]:
    """The statements of a migration: each ends at a semicolon that ends its line, but for a comment."""
    found, lines = [], ""
    for line in script.splitlines(True):
        lines += line
        if line.partition("--")[0].rstrip().endswith(";"):
            found.append(lines)
            lines = ""
    return found


class Store:
    """An open quarantine file. Open it after a fork.

    create: make the file where there is none, and migrate it; without, any earlier version is taken as it is (.version).
    readonly: nothing is written. busy: seconds to wait for another writer. Raises Unavailable with the path in it.
    .process: the id of this process in the file, by processes.join(); -1 before.
    """

    def __init__(self, path: str, create: bool = False, readonly: bool = False, busy: float = BUSY):
        self.given, self.path = os.path.abspath(path), os.path.realpath(path)
        self.readonly, self.busy = readonly, busy
        self.process = -1
        self.entry: dict = {}   # this process's row
        self._synchronous = ""
        check_place(self.path)
        try:
            if os.path.islink(path):
                os.stat(path)   # the kernel may refuse to follow it (fs.protected_symlinks); and no file is made through it
            if create:
                make(self.path)
            check_readable(self.path)
            found = os.stat(self.given)
            self.device, self.inode = found.st_dev, found.st_ino
        except OSError as error:
            raise Unavailable(f"{path}: {open_failure(self.path, create, error)}") from None
        if not readonly and not may(self.path, os.W_OK):
            raise Unavailable(f"{path}: cannot write: permission denied")
        try:
            self._open(path, create, found.st_mtime)
        except sqlite3.Error as error:
            foreign = "not a database" in str(error)
            raise Unavailable(f"{path}: " + ("not a quarantine file: not an SQLite database" if foreign else
                                             f"cannot open: {reason_of(error)}")) from None
        except UnicodeDecodeError:   # of SQLite's own words about a schema
            raise Unavailable(f"{path}: cannot open: it is damaged") from None

    def _open(self, path: str, create: bool, changed: float) -> None:
        tables = self._connect()
        while not (tables or create) and abs(time.time() - changed) < MAKING:   # they all come in one transaction
            self.db.close()
            time.sleep(0.01)
            tables = self._connect()
        application, self.version = (self.db.execute(f"PRAGMA {name}").fetchone()[0]
                                     for name in ("application_id", "user_version"))
        if application != APPLICATION_ID:
            empty = not application and not tables
            if not (empty and create):
                raise Unavailable(f"{path}: not a quarantine file: " +
                                  ("empty: gm-work makes it" if empty else "an SQLite database of something else"))
        if self.version > VERSION:
            raise Unavailable(f"{path}: from a newer gearmang: its version is {self.version}, this one knows {VERSION}")
        if self.version < VERSION and create:
            self._migrate(path)
        if self.readonly:
            self.db.execute("PRAGMA query_only=1")
        self.db.execute("PRAGMA busy_timeout=0")   # execute() waits

    def _connect(self) -> int:
        """Open .db; return how many tables and indexes it has. Raises sqlite3.Error.

        A reader who may not write beside the file cannot make the index of a WAL there. Without a WAL it needs none.
        """
        modes = ["mode=rw"]
        if self.readonly and not (may(self.path, os.W_OK) and may(os.path.dirname(self.path), os.W_OK)):
            modes = ["mode=ro"] if has_wal(self.path) else ["mode=ro", "mode=ro&immutable=1"]
        for mode in modes:
            self.db = sqlite3.connect(f"{uri(self.path)}?{mode}", uri=True, timeout=self.busy,
                                      isolation_level=None, check_same_thread=False)
            try:
                return self.db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            except sqlite3.OperationalError:
                self.db.close()
                if mode is modes[-1]:
                    raise
        raise AssertionError

    def _migrate(self, path: str) -> None:
        mode = self.execute("PRAGMA journal_mode=WAL").fetchone()[0]   # SQLite would not wait for another that does it
        if mode != "wal":
            raise Unavailable(f"{path}: cannot be put in WAL mode")
        with self.transaction():
            version = self.db.execute("PRAGMA user_version").fetchone()[0]   # another may have been first
            for script in MIGRATIONS[version:]:
                for statement in statements(script):
                    self.db.execute(statement)
            self.db.execute(f"PRAGMA application_id={APPLICATION_ID}")
            self.db.execute(f"PRAGMA user_version={max(version, VERSION)}")
        self.version = max(version, VERSION)

    def transaction(self, durable: bool = True) -> Transaction:
        """A context: BEGIN IMMEDIATE ... COMMIT. Durable: on disk at its end; else after the next durable one."""
        wanted = "FULL" if durable else "NORMAL"
        if wanted != self._synchronous:
            self.db.execute(f"PRAGMA synchronous={wanted}")
            self._synchronous = wanted
        return Transaction(self)

    def execute(self, sql: str, values=()) -> sqlite3.Cursor:
        """Run one statement, waiting for another writer. Raises Unavailable.

        SQLite's own waits begin at a millisecond, which is what a whole job may take.
        """
        pause, until = 0.00005, None
        while True:
            try:
                return self.db.execute(sql, values)
            except sqlite3.Error as error:
                now = time.monotonic()
                until = until or now + self.busy
                if "locked" not in str(error) or now >= until:
                    raise Unavailable(f"{self.path}: {reason_of(error)}") from None
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def execute_many(self, sql: str, rows) -> None:
        """Run one statement for each of rows, within a transaction. Raises Unavailable."""
        try:
            self.db.executemany(sql, rows)
        except sqlite3.Error as error:
            raise Unavailable(f"{self.path}: {reason_of(error)}") from None

    @contextlib.contextmanager
    def patience(self, seconds: float):
        """A context: wait no longer than so for another writer."""
        busy, self.busy = self.busy, seconds
        try:
            yield
        finally:
            self.busy = busy

    def rows(self, sql: str, values=()) -> list:
        """All rows of one statement, with no transaction left open. Raises Unavailable."""
        try:
            return self.execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise Unavailable(f"{self.path}: {reason_of(error)}") from None

    def close(self) -> None:
        self.db.close()

    def beside(self, name: str) -> str:
        """The path of a payload's file, which lies in the quarantine file's folder, whatever folder its name has."""
        return os.path.join(os.path.dirname(self.path), os.path.basename(name))

    @cached_property
    def tag(self) -> str:
        """The file's identity on this machine, the same from whatever container and by whatever path it is seen."""
        return f"{self.device:x}-{self.inode:x}"

    def put_back(self) -> None:
        """Within a transaction: enter this process again where its row is gone or another's (sqlite3's .restore)."""
        entry = self.entry
        if self.execute("SELECT 1 FROM process WHERE id = ? AND pid IS ? AND started = ?",
                        (self.process, entry["pid"], entry["started"])).fetchone() is None:
            self.execute(f"INSERT OR REPLACE INTO process ({', '.join(entry)}) "
                         f"VALUES ({', '.join(':' + name for name in entry)})", entry)

    def check_replaced(self) -> None:
        """Raise Replaced where the path leads to another file than the one that is open, or to none."""
        try:
            found = os.stat(self.given)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                return
        except OSError:
            pass
        raise Replaced(f"{self.given}: replaced while in use: stop all, remove -wal and -shm, start again")


class Transaction:
    """A context: commits at its end, rolls back on an exception; sqlite3's errors come out as Unavailable.

    After the commit the path must still lead to the file. Raises Replaced: whatever hangs on the commit must not be answered.
    """

    __slots__ = ("store",)

    def __init__(self, store: Store):
        self.store = store

    def __enter__(self) -> None:
        self.store.execute("BEGIN IMMEDIATE")
        if self.store.entry:
            try:
                self.store.put_back()
            except BaseException:
                self._roll_back()
                raise

    def __exit__(self, kind, value, trace) -> None:
        if kind is None:
            try:
                self.store.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
            self.store.check_replaced()
            return
        self._roll_back()
        if issubclass(kind, sqlite3.Error):
            raise Unavailable(f"{self.store.path}: {reason_of(value)}") from None

    def _roll_back(self) -> None:
        try:
            self.store.db.execute("ROLLBACK")
        except sqlite3.Error:
            pass   # it had rolled back by itself (a full disk)

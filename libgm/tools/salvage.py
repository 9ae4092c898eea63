"""The jobs in a gearmand's queue file: read without writing to it, damaged or not, and what is wrong with it."""

from __future__ import annotations

import sqlite3
import time

from libgm import job
from libgm.errors import NO, OK, BadRecord, Unavailable
from libgm.quarantine.file import reason_of
from libgm.shell.lines import safe
from libgm.shell.messages import warn
from libgm.shell.table import Listing
from libgm.tools.readonly_sqlite import Untouched
from libgm.units import iso

BATCH_ROWS, BATCH_BYTES = 500, 1 << 20   # of a page: a reader that holds the file for long makes submissions fail
NAMED = 20                               # lost jobs that are told one by one
LAST = 1 << 62
CELL = 200                               # characters of a payload in a table
COLUMNS = ("unique_key", "function_name", "priority", "data", "when_to_run")


class Queue(Untouched):
    """A queue file, opened; a context. Raises Unavailable where there is no such table in it."""

    def __init__(self, path: str, table: str):
        super().__init__(path)
        self.db.text_factory = bytes
        self.table = '"' + table.replace('"', '""') + '"'
        self.lost: list[tuple[int, int]] = []   # first and last row id of each stretch that could not be read
        try:
            there = [name.decode("utf-8", "replace")
                     for name, in self.db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            columns = [row[1].decode("utf-8", "replace") for row in self.db.execute(f"PRAGMA table_info({self.table})")]
        except sqlite3.Error as error:
            self.__exit__()
            raise Unavailable(f"{path}: {reason_of(error)}") from None
        if table not in there or not {"unique_key", "function_name", "data"} <= set(columns):
            self.__exit__()
            raise Unavailable(f"{path}: no queue in it: " + (f"{table} is of something else" if table in there else
                              f"no table {table}" + (f", but {', '.join(sorted(there))}: see --table" if there else "")))
        self.columns = [name if name in columns else f"NULL AS {name}" for name in COLUMNS]

    def rows(self):
        """(row id, *COLUMNS) of each job in queue order, TEXT and BLOB as bytes; what cannot be read goes to .lost."""
        sql = f"SELECT rowid, {', '.join(self.columns)} FROM {self.table} WHERE rowid > ? AND rowid <= ? ORDER BY rowid LIMIT ?"
        after, last, limit = 0, self._last(), BATCH_ROWS
        while True:
            page, size, more, damaged = [], 0, True, False
            try:
                for row in self.db.execute(sql, (after, last, limit)):
                    page.append(row)
                    size += len(row[4]) if isinstance(row[4], bytes) else 0
                    if size > BATCH_BYTES:
                        break
                else:
                    more = len(page) == limit
            except sqlite3.OperationalError as error:
                raise Unavailable(f"{self.path}: {reason_of(error)}") from None
            except sqlite3.DatabaseError:
                damaged = True
            yield from page
            after = page[-1][0] if page else after
            if damaged and limit > 1:
                limit = 1   # row by row up to the damage
            elif damaged:
                begin, after = after + 1, self._beyond(after, last)
                self.lost.append((begin, after))
                limit = BATCH_ROWS
            if not more or after >= last:
                return

    def _last(self) -> int:
        """The last row id; beyond every one where its page is damaged."""
        try:
            return self.db.execute(f"SELECT max(rowid) FROM {self.table}").fetchone()[0] or 0
        except sqlite3.DatabaseError:
            return LAST

    def _beyond(self, bad: int, last: int) -> int:
        """The row id before the first that can be read again after bad; last where none can."""
        def readable(row: int) -> bool:
            try:
                self.db.execute(f"SELECT {', '.join(self.columns)} FROM {self.table} WHERE rowid > ? AND rowid <= ? "
                                "ORDER BY rowid LIMIT 1", (row, last)).fetchone()
                return True
            except sqlite3.DatabaseError:
                return False
        low, step = bad, 1
        while low + step < last and not readable(low + step):
            low, step = low + step, step * 2
        high = min(low + step, last)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if readable(middle) else (middle, high)
        return high

    def names_of_lost(self):
        """(function, unique) of each job that could not be read, by the table's index. Raises sqlite3.Error where that is
        damaged too."""
        index = next(name for _, name, unique, *_ in self.db.execute(f"PRAGMA index_list({self.table})") if unique)
        for begin, end in self.lost:
            yield from self.db.execute(
                f"SELECT function_name, unique_key FROM {self.table} INDEXED BY \"{index.decode()}\" "
                "WHERE +rowid BETWEEN ? AND ? ORDER BY +rowid", (begin, end))


def record(row: tuple) -> dict:
    """A job's record as it stands: `envelope` is always there, null where it has none; `due` where it waits for a time."""
    _, unique, function, priority, data, when = row
    envelope, payload = job.unwrap(octets(data))
    shown: dict = {}
    job.put(shown, "function", octets(function))
    job.put(shown, "unique", octets(unique) or None)
    shown["priority"] = job.PRIORITIES[priority] if priority in (0, 1, 2) else "normal"
    if isinstance(when, int) and when > 0:
        shown["due"] = iso(when)
    shown["envelope"] = envelope and envelope.record()
    job.put(shown, "data", payload)
    return shown


def octets(value) -> bytes:
    """A column's value as gearmand would take it: bytes, none where it is NULL."""
    return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()


def listing(queue: Queue, args: dict) -> int:
    """The jobs of the queue; 1 where some were lost."""
    from libgm.shell.table import shown
    found = Listing({"--json": args["--json"], "--table": False}, [
        ("function", lambda record: shown(record, "function")), ("unique", lambda record: shown(record, "unique")),
        ("priority", lambda record: record["priority"]), ("due", lambda record: record.get("due", "")),
        ("payload", lambda record: shown(record, "data")[:CELL])], f"jobs in {queue.path}")
    empty = 0
    for row in queue.rows():
        empty += not row[4]
        found.add(record(row))
    found.close()
    if empty:
        warn(f"{queue.path}: {empty} jobs have an empty payload: gm-submit refuses those, since gearmand would not start again")
    return tell_lost(queue) if queue.lost else OK


def tell_lost(queue: Queue) -> int:
    """What could not be read, by name where the index has it."""
    count = 0
    try:
        for count, (function, unique) in enumerate(queue.names_of_lost(), 1):
            if count <= NAMED:
                warn(f"{queue.path}: lost: function {safe(octets(function).decode('utf-8', 'replace'))}, "
                     f"unique {safe(octets(unique).decode('utf-8', 'replace'))}: its page is damaged")
        if count > NAMED:
            warn(f"{queue.path}: lost: {count - NAMED} more")
    except (sqlite3.Error, StopIteration, RuntimeError):
        for begin, end in queue.lost:
            warn(f"{queue.path}: lost: what stood in rows {begin} to {'the end' if end >= LAST else end}: damaged, and so is the index")
    return NO


def check(queue: Queue, args: dict) -> int:
    """What the file is and what is wrong with it, a record each: `what`, `count`, `wrong`, `detail`; 1 if anything is."""
    found = Listing({"--json": args["--json"], "--table": False}, [
        ("what", lambda record: record["what"]), ("count", lambda record: record["count"]),
        ("", lambda record: "WRONG" if record["wrong"] else ""), ("detail", lambda record: record["detail"])], "")
    status = OK
    for what, count, wrong, detail in facts(queue):
        found.add({"what": what, "count": count, "wrong": wrong, "detail": detail})
        status = NO if wrong else status
    found.close()
    return status


def facts(queue: Queue):
    """(what, count, whether that is wrong, detail) of the file, of its jobs, of its pages."""
    if queue.user is not None:
        yield "in use", 1, False, f"by process {queue.user}" if queue.user else "by another process"
    yield "mode", 1, False, "WAL" if queue.wal else "rollback journal: gm-server puts it into WAL, which is five times as fast"
    for end, size in queue.leftover.items():
        yield "beside it", 1, False, f"{queue.path}{end} of {size} bytes: keep it with the file" + \
            (": it holds what the file does not" if queue.user is None else "")
    if queue.folder:
        yield "unfinished", 1, False, "a transaction was cut off: it was recovered in a copy, as the next gearmand will do here"
    yield from jobs(queue)
    if queue.user is not None and not queue.wal:
        yield "pages", 0, False, "not looked at: gearmand could not write meanwhile"
        return
    for count, (problem,) in enumerate(integrity(queue), 1):
        yield "damage", 1, True, safe(problem.decode("utf-8", "replace"))


def integrity(queue: Queue) -> list:
    try:
        return [row for row in queue.db.execute(f"PRAGMA integrity_check({NAMED})") if row[0] != b"ok"]
    except sqlite3.Error as error:
        return [(str(error).encode(),)]


def jobs(queue: Queue):
    """Facts about the rows: gearmand does not start on some, and gm-submit would not have others."""
    total, kinds, late = 0, {}, 0
    first: dict = {}
    for row in queue.rows():
        total += 1
        late += isinstance(row[5], int) and row[5] > time.time()
        for kind in wrong(row):
            kinds[kind] = kinds.get(kind, 0) + 1
            first.setdefault(kind, row)
    yield "jobs", total, False, f"{late} wait for their time" if late else ""
    for kind, count in kinds.items():
        _, unique, function, *_ = first[kind]
        name = " ".join(octets(value).decode("utf-8", "replace") for value in (function, unique))
        yield kind, count, True, safe(f"{CURES[kind]}: the first is {name}")
    for begin, end in queue.lost:
        yield "lost", 1, True, f"rows {begin} to {'the end' if end >= LAST else end} cannot be read"


NO_START = "gearmand does not start on it: gm-server mends that"
CURES = {"empty payload": NO_START + "; gm-submit refuses it", "no time": NO_START, "no priority": NO_START,
         "payload of another type": NO_START, "unique": "gm-submit refuses it", "function": "gm-submit refuses it"}


def wrong(row: tuple) -> list[str]:
    """What is wrong with a row, in the words of CURES."""
    _, unique, function, priority, data, when = row
    found = []
    if not data:
        found.append("empty payload")
    elif not isinstance(data, bytes):
        found.append("payload of another type")
    if not isinstance(when, int):
        found.append("no time")
    if not isinstance(priority, int):
        found.append("no priority")
    for kind, check, value in (("unique", job.check_unique, unique), ("function", job.check_function, function)):
        try:
            check(octets(value))
        except BadRecord:
            found.append(kind)
    return found

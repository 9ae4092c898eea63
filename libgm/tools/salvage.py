"""gm-salvage: the jobs in a gearmand's queue file, read without a write to it, damaged or not; and what is wrong with it."""

from __future__ import annotations

import json
import sqlite3
import time

from libgm import job, wire
from libgm.errors import NO, OK, BadRecord, Unavailable
from libgm.quarantine.file import reason_of
from libgm.shell.lines import safe
from libgm.shell.messages import warn
from libgm.shell.table import Listing, shown
from libgm.tools import twins
from libgm.tools.readonly_sqlite import ReadOnly
from libgm.units import counted, iso

BATCH_ROWS, BATCH_BYTES = 500, 1 << 20   # of a page: a reader that holds the file for long makes submissions fail
NAMED = 20                               # lost jobs that are named one by one
FIRST, LAST = -1 << 63, (1 << 63) - 1    # row ids
LATEST = 253402300799                    # epoch seconds of the last time that a record can have, in the year 9999
CELL = 200                               # characters of a payload in a table
COLUMNS = ("unique_key", "function_name", "priority", "data", "when_to_run")


class QueueFile(ReadOnly):
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
            self.close()
            raise Unavailable(f"{path}: {reason_of(error)}") from None
        if table not in there or not {"unique_key", "function_name", "data"} <= set(columns):
            self.close()
            raise Unavailable(f"{path}: no queue in it: " + (f"{table} is of something else" if table in there else
                              f"no table {table}" + (f", but {', '.join(sorted(there))}: see --table" if there else "")))
        self.columns = [name if name in columns else f"NULL AS {name}" for name in COLUMNS]
        self.prefix = self._prefix() if "gm_renamed" in there else None   # of the names that gm-server gave to twins

    def _prefix(self) -> bytes | None:
        try:
            return self.db.execute("SELECT prefix FROM gm_prefix").fetchone()[0]
        except (sqlite3.DatabaseError, TypeError):
            return None

    def twin_of(self, unique) -> bytes | None:
        """The unique of a job whose row gm-server renamed; None for any other, or where that cannot be read."""
        if self.prefix is None or not isinstance(unique, bytes) or not unique.startswith(self.prefix):
            return None
        try:
            return whole(self.db.execute("SELECT unique_key FROM gm_renamed WHERE id = CAST(? AS INTEGER)",
                                         (unique[len(self.prefix):],)).fetchone()[0])
        except (sqlite3.DatabaseError, TypeError):
            return None

    def rows(self):
        """Yield (row id, *COLUMNS) of each job in queue order, TEXT and BLOB as bytes. What cannot be read goes to .lost."""
        sql = f"SELECT rowid, {', '.join(self.columns)} FROM {self.table} WHERE rowid >= ? AND rowid <= ? ORDER BY rowid LIMIT ?"
        begin, last, limit = self._bound("min", FIRST), self._bound("max", LAST), BATCH_ROWS
        while begin <= last:
            page, size, damaged = [], 0, False
            try:
                for row in self.db.execute(sql, (begin, last, limit)):
                    page.append(row)
                    size += len(row[4]) if isinstance(row[4], bytes) else 0
                    if size > BATCH_BYTES:
                        break
                else:
                    last = last if len(page) == limit else FIRST - 1   # that was all
            except sqlite3.OperationalError as error:
                raise Unavailable(f"{self.path}: {reason_of(error)}") from None
            except sqlite3.DatabaseError:
                damaged = True
            yield from (row for row in page if row[1:3] != MARK)
            begin = page[-1][0] + 1 if page else begin
            if damaged and limit > 1:
                limit = 1   # row by row up to the damage
            elif damaged:
                end = self._beyond(begin, last)
                self.lost.append((begin, end))
                begin, limit = end + 1, BATCH_ROWS

    def _bound(self, which: str, otherwise: int) -> int:
        """The first or the last row id; `otherwise` where its page is damaged."""
        try:
            found = self.db.execute(f"SELECT {which}(rowid) FROM {self.table}").fetchone()[0]
        except sqlite3.DatabaseError:
            return otherwise
        return 0 if found is None else found

    def _beyond(self, bad: int, last: int) -> int:
        """The row id before the first that can be read again after bad; last where none can."""
        def readable(row: int) -> bool:
            try:
                self.db.execute(f"SELECT {', '.join(self.columns)} FROM {self.table} WHERE rowid > ? AND rowid <= ? "
                                "ORDER BY rowid LIMIT 1", (row, last)).fetchone()
                return True
            except sqlite3.DatabaseError:
                return False
        low, step = bad - 1, 1
        while low + step < last and not readable(low + step):
            low, step = low + step, step * 2
        high = min(low + step, last)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if readable(middle) else (middle, high)
        return high

    def names_of_lost(self):
        """Yield (function, unique) of each job that could not be read, by the table's index.

        Raises sqlite3.Error, StopIteration or RuntimeError where the index cannot be read either.
        """
        index = next(name for _, name, unique, *_ in self.db.execute(f"PRAGMA index_list({self.table})") if unique)
        for begin, end in self.lost:
            yield from self.db.execute(
                f"SELECT function_name, unique_key FROM {self.table} INDEXED BY \"{index.decode()}\" "
                "WHERE +rowid BETWEEN ? AND ? ORDER BY +rowid", (begin, end))


MARK = tuple(text.encode() for text in twins.MARK)   # a row that is no job


def record(row: tuple, twin_of: bytes | None = None) -> dict:
    """A job's record.

    `unique` is the job's own, `wire_unique` the one that it stands under, with what that says in fields of its own; `envelope`
    and `due` are there where the job has them, like these. twin_of: of QueueFile.twin_of().
    """
    _, unique, function, priority, data, when = row
    function, stood, data = octets(function), whole(unique), octets(data)
    own, header, payload = wire.unpack(function, stood if twin_of is None else twin_of, data)
    made: dict = {}
    job.put(made, "function", function)
    for name, value in (("unique", own), ("wire_unique", stood)):
        if value:
            job.put(made, name, value)
    made["priority"] = job.PRIORITIES[priority] if priority in (0, 1, 2) else "normal"
    if isinstance(when, int) and when > 0:
        made["due"] = iso(min(when, LATEST))
    known = header.fields()
    known.pop("priority", None)
    if "first_failed" in known:
        known["first_failed"] = iso(min(known["first_failed"], LATEST))
    made.update(known)
    if payload is not data:
        made["envelope"] = json.loads(data[len(wire.MARK):len(data) - len(payload)])
    job.put(made, "data", payload)
    return made


def octets(value) -> bytes:
    """A column's value as gearmand takes it: bytes, empty for NULL."""
    return value if isinstance(value, bytes) else b"" if value is None else str(value).encode()


def whole(unique) -> bytes:
    """A unique without the NUL that gearmand puts in the place of a 64th byte."""
    found = octets(unique)
    return found[:-1] if len(found) == job.MAX_UNIQUE + 1 and found.endswith(b"\0") else found


def own_unique(record: dict) -> str:
    """The unique of a record, which may have none, as a cell."""
    return shown(record, "unique") if {"unique", "unique_b64"} & set(record) else ""


LISTED = [("function", lambda record: shown(record, "function")), ("unique", own_unique),
          ("priority", lambda record: record["priority"]), ("due", lambda record: record.get("due", "")),
          ("payload", lambda record: shown(record, "data")[:CELL])]
CHECKED = [("what", lambda record: record["what"]), ("count", lambda record: record["count"]),
           ("", lambda record: "WRONG" if record["wrong"] else ""), ("detail", lambda record: record["detail"])]


def list_jobs(queue: QueueFile, listing: Listing) -> int:
    """List the jobs of the queue. Return NO where some were lost, or cannot be shown as they are."""
    empty, status = 0, OK
    for row in queue.rows():
        empty += not row[4]
        if late(row):
            status = NO
            warn(f"{queue.path}: {name(row)}: its time, {row[5]}, is after the year 9999: shown as the end of that year")
        listing.add(record(row, queue.twin_of(row[1])))
    listing.close()
    if empty:
        warn(f"{queue.path}: {counted(empty, 'job')} with an empty payload: gm-submit refuses that, since gearmand would not "
             "start again")
    if queue.lost:
        report_lost(queue)
        status = NO
    return status


def late(row: tuple) -> bool:
    """Whether a job waits for a time that no record can have."""
    return isinstance(row[5], int) and row[5] > LATEST


def name(row: tuple) -> str:
    """A row's job, for a message."""
    _, unique, function, *_ = row
    return "function {}, unique {}".format(*(safe(octets(value).decode("utf-8", "replace")) for value in (function, unique)))


def report_lost(queue: QueueFile) -> None:
    """Report what could not be read, by name where the index has it."""
    count = 0
    try:
        for count, (function, unique) in enumerate(queue.names_of_lost(), 1):
            if count <= NAMED:
                warn(f"{queue.path}: lost: {name((None, unique, function))}: its page is damaged")
        if count > NAMED:
            warn(f"{queue.path}: lost: {count - NAMED} more")
    except (sqlite3.Error, StopIteration, RuntimeError):
        for begin, end in queue.lost:
            warn(f"{queue.path}: lost: what stood in {stretch(begin, end)}: damaged, and so is the index")


def stretch(begin: int, end: int) -> str:
    """A stretch of row ids, for a message."""
    return f"rows {'the first' if begin == FIRST else begin} to {'the end' if end == LAST else end}"


def check(queue: QueueFile, listing: Listing) -> int:
    """List what the file is and what is wrong with it: `what`, `count`, `wrong`, `detail`. Return NO if anything is."""
    status = OK
    for what, count, wrong, detail in facts(queue):
        listing.add({"what": what, "count": count, "wrong": wrong, "detail": detail})
        status = NO if wrong else status
    listing.close()
    return status


def facts(queue: QueueFile):
    """Yield (what, count, whether that is wrong, detail) of the file, of its jobs, of its pages."""
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
        yield "pages", 0, False, "not checked: gearmand could not write meanwhile"
        return
    for problem, in integrity(queue):
        yield "damage", 1, True, safe(problem.decode("utf-8", "replace"))


def integrity(queue: QueueFile) -> list:
    """SQLite's complaints, a row each."""
    try:
        return [row for row in queue.db.execute(f"PRAGMA integrity_check({NAMED})") if row[0] != b"ok"]
    except sqlite3.Error as error:
        return [(str(error).encode(),)]


def jobs(queue: QueueFile):
    """Yield facts about the rows: those that gearmand does not start on, and those that gm-submit refuses."""
    total = waiting = renamed = 0
    kinds: dict[str, int] = {}
    first: dict[str, tuple] = {}
    for row in queue.rows():
        total += 1
        waiting += isinstance(row[5], int) and row[5] > time.time()
        renamed += queue.twin_of(row[1]) is not None
        for kind in wrong(row):
            kinds[kind] = kinds.get(kind, 0) + 1
            first.setdefault(kind, row)
    yield "jobs", total, False, f"{waiting} wait for their time" if waiting else ""
    if renamed:
        yield "twins", renamed, False, "jobs of one name in a row each, by gm-server: only gm-server starts on it"
    for kind, count in kinds.items():
        yield kind, count, True, f"{CURES[kind]}: the first is {name(first[kind])}"
    for begin, end in queue.lost:
        yield "lost", 1, True, f"{stretch(begin, end)} cannot be read"


NO_START = "gearmand does not start on it: gm-server mends that"
CURES = {"empty payload": NO_START + "; gm-submit refuses it", "no time": NO_START, "no priority": NO_START,
         "payload of another type": NO_START, "unique": "gm-submit refuses it", "function": "gm-submit refuses it",
         "time": "it is after the year 9999"}


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
    if late(row):
        found.append("time")
    for kind, check, value in (("unique", job.check_unique, whole(unique) or b"-"),
                               ("function", job.check_function, octets(function))):
        try:
            check(value)
        except BadRecord:
            found.append(kind)
    return found

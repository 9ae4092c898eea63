"""Acting on quarantined jobs by id: the loop that gm-requeue and gm-drop share."""

from __future__ import annotations

from functools import lru_cache

from libgm.errors import NO, OK, BadRecord, Error, Strict
from libgm.quarantine import claims, jobs
from libgm.quarantine.audit import absent
from libgm.quarantine.file import Store
from libgm.shell.lines import Input, Output, ReaderGone, stdin_or_usage
from libgm.shell.messages import PROG, warn
from libgm.shell.options import idents
from libgm.shell.progress import Progress

BATCH_BYTES = 8 << 20   # of payload that one transaction takes


class Item:
    """A job to act on: where it was named ("stdin:17"), its id, and the record that named it, if any."""

    __slots__ = ("where", "ident", "record")

    def __init__(self, where: str, ident: int, record: dict | None = None):
        self.where, self.ident, self.record = where, ident, record

    def __str__(self) -> str:
        return f"{self.where}: {self.ident}" if self.where else str(self.ident)


def parse(where: str, line: bytes) -> Item:
    """An input line: an id, or a record with .id. Raises BadRecord."""
    try:
        found = decoded(line)
    except (ValueError, RecursionError):
        raise BadRecord(f"{where}: neither an id nor JSON: {line[:40].decode('utf-8', 'replace')!r}") from None
    record = found if isinstance(found, dict) else None
    ident = found if record is None else record.get("id")
    if type(ident) is not int or not 0 < ident < 1 << 63:
        raise BadRecord(f"{where}: " + ("no id in the record: only a quarantined job can be sent back or dropped"
                                        if record is not None and ident is None else "not an id"))
    return Item(where, ident, record)


def decoded(line: bytes):
    """The value of a JSON line. Raises ValueError, RecursionError."""
    try:
        text = line.decode()
        found, end = scanner()(text, 0)
        if end == len(text):
            return found
    except (ValueError, StopIteration):
        pass
    import json
    return json.loads(line)   # blanks around it, other encodings, and what is wrong with it


@lru_cache(None)
def scanner():
    """What json.loads() calls in the end; what it does before that is a fifth of its time."""
    import json
    return json.JSONDecoder().scan_once


class Action:
    """In batches: a batch goes when it is full and when input waits. Subclasses say what is done with one."""

    done_to = "dropped"   # what becomes of a job, in words

    batch_jobs = 2000   # that one transaction takes
    columns = jobs.COLUMNS   # id and revision first, data last

    def __init__(self, path: str, strict: bool, quiet: bool):
        self.path, self.strict, self.quiet = path, strict, quiet
        self.status, self.done, self.stopped = OK, 0, False
        self.batch: list[Item] = []
        self.size = 0
        self.store: Store | None = None
        self.sql = (f"SELECT {', '.join('job.' + name for name in self.columns)} "
                    "FROM json_each(?) AS wanted LEFT JOIN job ON job.id = wanted.value")   # a LEFT JOIN keeps their order

    def run(self, operands: list[str]) -> int:
        """Act on everything; the exit status."""
        wanted = idents(operands)
        if not operands:
            stdin_or_usage("give IDs, or records on standard input")
        self.output = Output(quiet=self.quiet)
        self.progress = Progress("jobs", len(wanted) or None, self.quiet)
        try:
            try:
                if operands:
                    self.open()
                    for ident in wanted:
                        self.take(Item("", ident))
                else:
                    self.read()
                self.flush()
            except Strict:
                self.flush()
            self.output.close()
        except ReaderGone:
            self.output.quiet = True
            self.settle()
            warn(f"standard output: its reader has gone: stopped after {self.done} jobs")
            return NO
        except (Error, KeyboardInterrupt) as error:
            self.output.quiet = True
            if isinstance(error, KeyboardInterrupt):
                self.settle(interrupted=True)
            if self.done:
                warn(f"{self.done} jobs were {self.done_to} before that")
            raise
        finally:
            self.progress.close()
            if self.store:
                self.end()
                self.store.leave()
                self.store.close()
        return self.status

    def settle(self, interrupted: bool = False) -> None:
        """See through what is in flight."""

    def end(self) -> None:
        """Whatever is to be said or done at the end, while the file is open."""

    def read(self) -> None:
        for number, line in Input(waiting=self.flush):
            if not line.strip():
                continue
            try:
                item = parse(f"stdin:{number}", line)
            except BadRecord as error:
                spread = line.strip() in (b"{", b"[")   # the numbers on the lines that follow are no ids
                self.report(f"stdin:{number}: the beginning of JSON over several lines: jq -c keeps a record on one: "
                            "nothing after it is read" if spread else str(error))
                if self.strict or spread:
                    self.stopped = False   # what was read before it is done
                    return
                continue
            self.open()
            self.take(item)

    def open(self) -> None:
        """The file is opened when there is something to do: empty input changes nothing."""
        if self.store is None:
            self.store = Store(self.path)
            self.store.join(PROG)

    def take(self, item: Item) -> None:
        self.batch.append(item)
        self.size += 0 if item.record is None else len(item.record.get("data") or item.record.get("data_b64") or "")
        if len(self.batch) >= self.batch_jobs or self.size > BATCH_BYTES:
            self.act()

    def act(self) -> None:
        while self.batch:
            batch, self.batch = self.batch, []   # what an exception leaves is not tried again
            if self.stopped:
                raise Strict
            used = self.process(batch)
            self.progress.add(used)
            self.batch = batch[used:]
        self.size = 0

    def flush(self) -> None:
        self.act()
        self.output.flush()

    def report(self, text: str) -> None:
        warn(text)
        self.status, self.stopped = NO, self.strict

    def process(self, batch: list[Item]) -> int:
        """Act on the first of a batch, as many as fit in a transaction; how many that were."""
        raise NotImplementedError

    def look_up(self, batch: list[Item]) -> list[tuple[Item, tuple]]:
        """The first items of a batch, as many as fit in a transaction, each with its row; without an id in it where there
        is none."""
        found, size = [], 0
        cursor = self.store.execute(self.sql, (claims.listed(item.ident for item in batch),))
        for item, values in zip(batch, cursor):
            found.append((item, values))
            size += len(values[-1] or "")
            if size > BATCH_BYTES:
                break
        cursor.close()
        return found

    def is_meant(self, item: Item, values: tuple) -> bool:
        """Whether a row is what the item means; reported where it must be."""
        if values[0] != item.ident:
            if not jobs.ever_was(self.store, item.ident):
                self.report(f"{item}: no such job")
            elif not item.where:   # who typed it wants to know; in a stream it is what is left of an earlier run
                warn(f"{absent(self.store, item.ident)}: passed over")
            return False
        seen = None if item.record is None else item.record.get("revision")
        if seen is not None and seen != values[1]:
            self.report(f"{item}: has failed again since: revision {seen} then, {values[1]} now: look again")
            return False
        return True

"""Acting on many jobs: the loop that gm-bury, gm-drop and gm-requeue share."""

from __future__ import annotations

import signal

from libgm.errors import NO, OK, BadRecord, Error, Strict
from libgm.quarantine import jobs, processes
from libgm.quarantine.audit import absent
from libgm.quarantine.file import Store
from libgm.shell.lines import Input, Output, ReaderGone, records, stdin_or_usage
from libgm.shell.messages import PROG, summarize, warn
from libgm.shell.progress import Progress
from libgm.units import counted

BATCH_BYTES = 8 << 20   # of payload that one transaction takes
CACHE = 64 << 10        # kB of pages in memory


class Batch:
    """Jobs to act on, many in a transaction: a batch goes when it is full and when input waits.

    A subclass reads items and acts on them, and prints the record of each when its deed is done.
    """

    done_to = ""         # what becomes of a job, in words
    remain = "left"      # what the dead jobs are afterwards
    creates = False      # whether the tool makes the file, and migrates it
    batch_jobs = 5000    # that one transaction takes: keys are random, and each page of an index is written once for all
    store: Store         # once open() was called

    def __init__(self, path: str, strict: bool, output: Output):
        self.path, self.strict, self.output = path, strict, output
        self.status, self.done, self.stopped, self.is_open = OK, 0, False, False
        self.batch: list = []
        self.size = 0

    def run(self, items: list | None = None) -> int:
        """Act on items, or where there are none on what standard input brings; the exit status."""
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, signal.default_int_handler)   # as a Ctrl-C: what is under way is seen through
        self.progress = Progress("jobs", len(items or ()) or None, self.output.quiet)
        try:
            try:
                for item in items or ():
                    self.take(item)
                if not items:
                    self.read()
                self.flush()
            except Strict:
                self.flush()
            self.output.close()
            if self.is_open:
                summarize(self.output, self.summary())
        except ReaderGone:
            self.output.quiet = True
            self.settle()
            warn(f"standard output: its reader has gone: stopped after {counted(self.done, 'job')}")
            return NO
        except (Error, KeyboardInterrupt) as error:
            self.see_through(error)
            if self.done:
                how = "interrupted: " * isinstance(error, KeyboardInterrupt)
                warn(f"{how}{counted(self.done, 'job')} {self.done_to} before that")
            raise
        finally:
            self.progress.close()
            if self.is_open:
                try:
                    self.end()
                finally:
                    processes.part(self.store)
        return self.status

    def see_through(self, error: BaseException) -> None:
        """After an error or an interrupt: the records of what is done come out all the same."""
        try:
            if isinstance(error, KeyboardInterrupt):
                self.settle(interrupted=True)
            self.output.flush()
        except Error as another:
            if isinstance(error, KeyboardInterrupt):
                warn(str(another))
        self.output.quiet = True

    def summary(self) -> str:
        """What was done, and how much is left, for a person."""
        return f"{counted(self.done, 'job')} {self.done_to}; {counted(jobs.count(self.store, 'dead'), 'dead job')} {self.remain}"

    def open(self) -> None:
        """Open the file, when there is something to do: empty input changes nothing."""
        self.store, self.is_open = Store(self.path, create=self.creates), True
        processes.join(self.store, PROG)
        self.store.execute(f"PRAGMA cache_size=-{CACHE}")

    def read(self) -> None:
        """Take what standard input brings."""
        stdin_or_usage("give records on standard input")
        for where, record in records(Input(waiting=self.flush), self.bad):
            try:
                self.take(self.item(where, record))
            except BadRecord as error:
                self.bad(BadRecord(f"{where}: {error}"))

    def item(self, where: str, record: dict):
        """The item of a record that stands there. Raises BadRecord."""
        raise NotImplementedError

    def take(self, item) -> None:
        """Add an item to the batch."""
        if not self.is_open:
            self.open()
        self.batch.append(item)
        self.size += item.size
        if len(self.batch) >= self.batch_jobs or self.size > BATCH_BYTES:
            self.act()

    def act(self) -> None:
        """Act on the batch."""
        while self.batch:
            batch, self.batch = self.batch, []   # what an exception leaves is not tried again
            if self.stopped:
                raise Strict
            used = self.process(batch)
            self.progress.add(used)
            self.batch = batch[used:]
        self.size = 0

    def process(self, batch: list) -> int:
        """Act on the first of a batch, as many as fit in a transaction; how many that were."""
        raise NotImplementedError

    def flush(self) -> None:
        """Act on what there is, since input waits."""
        self.act()
        self.output.flush()

    def bad(self, error: BadRecord) -> None:
        """Report a line that is no item. Raises Strict where that ends it; what was read before is done."""
        warn(str(error))
        self.status = NO
        if self.strict:
            raise Strict

    def report(self, text: str) -> None:
        """Report an item that cannot be acted on; with --strict nothing after it is."""
        warn(text)
        self.status, self.stopped = NO, self.strict

    def settle(self, interrupted: bool = False) -> None:
        """See through what is in flight."""

    def end(self) -> None:
        """Whatever is to be said or done at the end, while the file is open."""


class Item:
    """A job to act on: where it was named ("stdin:17"), its id, and the record that named it, if any."""

    __slots__ = ("where", "ident", "record", "size")

    def __init__(self, where: str, ident: int, record: dict | None = None):
        self.where, self.ident, self.record = where, ident, record
        data = (record.get("data") or record.get("data_b64")) if record else None
        self.size = len(data) if isinstance(data, str) else 0

    def __str__(self) -> str:
        return f"{self.where}: {self.ident}" if self.where else str(self.ident)


def named(idents: list[int]) -> list[Item]:
    """Items of ids that were typed."""
    return [Item("", ident) for ident in idents]


class Action(Batch):
    """Acting on jobs that are in the file, by id. ids: lines of standard input are bare ids. why: for the history."""

    columns: tuple[str, ...] = jobs.COLUMNS   # id and revision first, data last

    def __init__(self, path: str, strict: bool, output: Output, ids: bool = False, why: str | None = None):
        super().__init__(path, strict, output)
        self.ids, self.why = ids, why

    def read(self) -> None:
        if not self.ids:
            super().read()
            return
        stdin_or_usage("give ids on standard input")
        for number, line in Input(waiting=self.flush):
            digits = line.strip()
            if digits.isdigit() and len(digits) < 19 and int(digits):
                self.take(Item(f"stdin:{number}", int(digits)))
            elif digits:
                self.bad(BadRecord(f"stdin:{number}: not an id: {line[:40].decode('utf-8', 'replace')!r}"))

    def bad(self, error: BadRecord) -> None:
        if str(error).endswith("not a JSON object"):   # a payload that is a number must not be taken for an id
            error = BadRecord(f"{error}: bare ids take --ids")
        super().bad(error)

    def item(self, where: str, record: dict) -> Item:
        ident = record.get("id")
        if "id" not in record:
            raise BadRecord("no id in the record: only a quarantined job can be sent back or dropped")
        if type(ident) is not int or not 0 < ident < 1 << 63:
            raise BadRecord("id is not a positive integer")
        if type(record.get("revision", 1)) is not int:
            raise BadRecord("revision is not an integer")
        return Item(where, ident, record)

    def look_up(self, batch: list[Item]) -> list[tuple[Item, tuple]]:
        """The first items of a batch, as many as fit in a transaction, each with its row; without an id in it where there
        is none."""
        found, size = [], 0
        cursor = jobs.fetch_all(self.store, (item.ident for item in batch), self.columns)
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

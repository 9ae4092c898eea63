"""Acting on quarantined jobs by id: sending them back, removing them. Nothing leaves the file before it is safe elsewhere."""

from __future__ import annotations

import os

from . import job, quarantine
from .cli import PROG, warn
from .dead import idents
from .errors import NO, OK, BadRecord, Error
from .lines import Input, Output, ReaderGone, stdin_or_usage
from .store import Store, raw

BATCH_JOBS, BATCH_BYTES = 500, 8 << 20   # that one transaction takes


class Item:
    """A job to act on: where it was named ("stdin:17"), its id, and the record that named it, if any."""

    __slots__ = ("where", "ident", "record")

    def __init__(self, where: str, ident: int, record: dict | None = None):
        self.where, self.ident, self.record = where, ident, record


def parse(where: str, line: bytes) -> Item:
    """An input line: an id, or a record with .id. Raises BadRecord."""
    import json
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise BadRecord(f"{where}: neither an id nor JSON: {line[:40].decode('utf-8', 'replace')!r}") from None
    record = found if isinstance(found, dict) else None
    ident = found if record is None else record.get("id")
    if type(ident) is not int or not 0 < ident < 1 << 63:
        raise BadRecord(f"{where}: " + ("no id in the record: only a quarantined job can be sent back or dropped"
                                        if record is not None and ident is None else "not an id"))
    return Item(where, ident, record)


class Action:
    """The loop over operands or standard input, in batches; a batch goes when it is full and when input waits."""

    def __init__(self, path: str, strict: bool, quiet: bool):
        self.path, self.strict, self.quiet = path, strict, quiet
        self.status, self.done = OK, 0
        self.batch: list[Item] = []
        self.size = 0

    def run(self, operands: list[str]) -> int:
        wanted = idents(operands)
        if not operands:
            stdin_or_usage("give IDs, or records on standard input")
        self.output = Output(quiet=self.quiet)
        self.store: Store | None = None
        try:
            if operands:
                self.open()
                for ident in wanted:
                    self.take(Item("", ident))
            else:
                self.read()
            self.flush()
            self.output.close()
        except ReaderGone:
            warn(f"standard output: its reader has gone: stopped after {self.done} jobs")
            return NO
        finally:
            if self.store:
                self.store.leave()
                self.store.close()
        return self.status

    def read(self) -> None:
        source = Input(waiting=self.flush)
        for number, line in source:
            if not line.strip():
                continue
            try:
                item = parse(f"stdin:{number}", line)
            except BadRecord as error:
                self.report(str(error))
                if self.strict:
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
        if len(self.batch) >= BATCH_JOBS or self.size > BATCH_BYTES:
            self.flush()

    def flush(self) -> None:
        while self.batch:
            self.batch = self.process(self.batch)
        self.size = 0
        self.output.flush()

    def report(self, text: str) -> None:
        warn(text)
        self.status = NO

    def process(self, batch: list[Item]) -> list[Item]:
        """Act on the first of a batch, as many as fit in a transaction; those left."""
        raise NotImplementedError

    def find(self, item: Item) -> dict | None:
        """The row that the item means, by column; None, reported where it must be, where there is nothing to act on."""
        values = quarantine.fetch(self.store, item.ident)
        name = f"{item.where}: {item.ident}" if item.where else str(item.ident)
        if values is None:
            if not quarantine.ever_was(self.store, item.ident):
                self.report(f"{name}: no such job")
            return None
        found = dict(zip(quarantine.COLUMNS, values))
        seen = None if item.record is None else item.record.get("revision")
        if seen is not None and seen != found["revision"]:
            self.report(f"{name}: has failed again since: revision {seen} then, {found['revision']} now: look again")
            return None
        return found


class Drop(Action):
    """gm-drop: removes jobs; what it prints is the whole record, which gm-bury takes back."""

    def process(self, batch: list[Item]) -> list[Item]:
        dropped, size, used = [], 0, 0
        with self.store.transaction():
            for used, item in enumerate(batch, 1):
                found = self.find(item)
                if found is None:
                    continue
                if found["claim"] not in (None, self.store.process) and self.store.lives(found["claim"]):
                    self.report(f"{item.ident}: is being sent back by another process")
                    continue
                self.store.execute("UPDATE job SET claim = NULL WHERE id = ?", (item.ident,))
                if quarantine.remove(self.store, item.ident, found["revision"], "drop", claimed=False):
                    dropped.append(found)
                    size += len(found["data"])
                if size > BATCH_BYTES:
                    break
        self.done += len(dropped)
        for found in dropped:
            self.output.emit(quarantine.record([found[name] for name in quarantine.COLUMNS], lambda process: False))
        return batch[used:]


class Requeue(Action):
    """gm-requeue: claim, submit, acknowledged, remove; resumable after a crash at any point."""

    def __init__(self, path: str, servers: list, edit: bool, plain: bool, strict: bool, quiet: bool):
        super().__init__(path, strict, quiet)
        self.servers, self.edit, self.plain = servers, edit, plain
        self.submitter = None

    def process(self, batch: list[Item]) -> list[Item]:
        from .submit import Submitter
        if self.submitter is None:
            self.submitter = Submitter(self.servers, on_accept=self.accepted, on_refuse=self.refused)
        self.sent, self.failed = [], []
        claimed, size, used = [], 0, 0
        with self.store.transaction():
            for used, item in enumerate(batch, 1):
                found = self.claim(item)
                if found is not None:
                    claimed.append(found)
                    size += len(found["payload"])
                if size > BATCH_BYTES:
                    break
        try:
            for found in claimed:
                self.submitter.submit(found["to"], found["wire"], found["payload"], found["as"], found)
            self.submitter.finish()
        finally:
            self.remove()
            if len(self.sent) < len(claimed):
                quarantine.unclaim(self.store, [found["id"] for found in claimed])
                if self.done:
                    warn(f"{self.done} jobs were sent back before that")
        return batch[used:]

    def claim(self, item: Item) -> dict | None:
        """The item's row, claimed, with what is to be sent: `to`, `wire`, `payload`, `as` (priority)."""
        found = self.find(item)
        if found is None:
            return None
        try:
            function, data, priority = self.content(item, found)
        except BadRecord as error:
            self.report(f"{item.where + ': ' if item.where else ''}{item.ident}: {error}")
            return None
        tag = job.digest(8, function, data, priority.encode(), b"plain" if self.plain else b"")
        nonce = quarantine.claim(self.store, item.ident, bytes.fromhex(tag), os.urandom(6).hex())
        if nonce is None:
            return None   # another process is sending it: the work is shared
        envelope = job.Envelope(found["key"], raw(found["unique_"]), 0, found["requeues"] + 1, found["first_failed"],
                                priority)
        found.update(to=function, wire=job.wire_unique(function, found["key"], "requeue", nonce),
                     payload=data if self.plain else job.wrap(envelope, data))
        found["as"] = priority
        return found

    def content(self, item: Item, found: dict) -> tuple[bytes, bytes, str]:
        """(function, data, priority) to send: the file's, or with --edit the record's. Raises BadRecord."""
        kept = raw(found["function"]), raw(found["data"]), found["priority"]
        if found["payload_file"]:
            raise BadRecord(f"its payload is too large for a worker: it stands in {found['payload_file']}")
        record = item.record or {}
        given = [job.get(record, name) for name in ("function", "data")] + [record.get("priority")]
        wanted = tuple(mine if theirs is None else theirs for mine, theirs in zip(kept, given))
        if not self.edit:
            for name, mine, theirs in zip(("function", "data", "priority"), kept, wanted):
                if mine != theirs:
                    raise BadRecord(f"{name} differs from the file's: --edit takes it from the record")
        job.check_function(wanted[0])
        if not wanted[1] and self.plain:
            raise BadRecord("an empty payload stops gearmand from starting again: not sent")
        if wanted[2] not in job.PRIORITIES:
            raise BadRecord(f"priority is not one of {', '.join(job.PRIORITIES)}")
        return wanted

    def accepted(self, found: dict, handle: bytes, server) -> None:
        found["new_handle"], found["new_server"] = handle, str(server)
        self.sent.append(found)

    def refused(self, found: dict, error: Error) -> None:
        self.report(f"{found['id']}: {error}")

    def remove(self) -> None:
        """Take out what a server has acknowledged, where it still is what was sent."""
        if not self.sent:
            return
        with self.store.transaction():
            gone = [quarantine.remove(self.store, found["id"], found["revision"], "requeue", claimed=True)
                    for found in self.sent]
        for found, removed in zip(self.sent, gone):
            if not removed:
                self.report(f"{found['id']}: was sent, but failed again meanwhile: the newer failure stays")
                continue
            self.done += 1
            shown: dict = {"id": found["id"], "revision": found["revision"]}
            job.put(shown, "function", found["to"])
            job.put(shown, "unique", raw(found["unique_"]))
            shown.update(handle=found["new_handle"].decode("utf-8", "replace"), server=found["new_server"])
            self.output.emit(shown)

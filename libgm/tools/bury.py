"""Putting records into the quarantine: exports of any machine, byte for byte, each job once."""

from __future__ import annotations

import os

from libgm import job
from libgm.errors import NO, OK, BadRecord, Error, Strict
from libgm.quarantine import audit, jobs
from libgm.quarantine.file import Store, raw
from libgm.shell.lines import Input, Output, ReaderGone, records, stdin_or_usage
from libgm.shell.messages import warn
from libgm.shell.progress import Progress

BATCH_JOBS, BATCH_BYTES = 2000, 8 << 20   # that one transaction takes


class Bury:
    """A batch goes when it is full and when input waits."""

    def __init__(self, path: str, strict: bool, quiet: bool):
        self.path, self.strict = path, strict
        self.output, self.progress = Output(quiet=quiet), Progress("jobs", quiet=quiet)
        self.store: Store | None = None
        self.status, self.done = OK, 0
        self.batch: list[tuple[dict, bool]] = []   # rows, and whether each says when its job failed
        self.size = 0

    def run(self) -> int:
        """Bury everything; the exit status."""
        stdin_or_usage("give records on standard input")
        try:
            try:
                self.read()
            except Strict:
                pass
            self.flush()
            self.output.close()
        except ReaderGone:
            warn(f"standard output: its reader has gone: stopped after {self.done} jobs")
            return NO
        except (Error, KeyboardInterrupt):
            if self.done:
                warn(f"{self.done} jobs were buried before that")
            raise
        finally:
            self.progress.close()
        return self.status

    def read(self) -> None:
        for where, record in records(Input(waiting=self.flush), self.bad):
            try:
                self.batch.append((row(record, self.path), record.get("last_failed") is not None))
            except BadRecord as error:
                self.bad(BadRecord(f"{where}: {error}"))
                continue
            self.size += len(self.batch[-1][0]["data"])
            if len(self.batch) >= BATCH_JOBS or self.size > BATCH_BYTES:
                self.bury()

    def bad(self, error: BadRecord) -> None:
        warn(str(error))
        self.status = NO
        if self.strict:
            raise Strict

    def bury(self) -> None:
        batch, self.batch, self.size = self.batch, [], 0
        if not batch:
            return
        if self.store is None:   # empty input makes no file
            self.store = Store(self.path, create=True)
        buried = []
        with self.store.transaction():
            for values, dated in batch:
                if jobs.bring_in(self.store, values, newer=dated):
                    ident, revision = self.store.execute("SELECT id, revision FROM job WHERE key = ?",
                                                         (values["key"],)).fetchone()
                    buried.append({**values, "id": ident, "revision": revision})
            audit.write_down(self.store, "bury", buried)
        self.done += len(buried)
        self.progress.add(len(batch))
        for found in buried:
            shown: dict = {"id": found["id"], "revision": found["revision"]}
            job.put(shown, "function", raw(found["function"]))
            job.put(shown, "unique", raw(found["unique_"]))
            self.output.emit(shown)

    def flush(self) -> None:
        self.bury()
        self.output.flush()


def row(record: dict, quarantine_file: str) -> dict:
    """The row of a record. Raises BadRecord."""
    values = jobs.from_record(record)
    path = values["payload_file"]
    folder = os.path.dirname(os.path.realpath(quarantine_file))
    if path is not None and not os.path.isfile(os.path.join(folder, os.path.basename(path))):
        raise BadRecord(f"its payload stands in {path}, which is not here")
    return values

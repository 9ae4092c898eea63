"""Gearmang itself: a worker that takes failed jobs from a queue into the quarantine file, a batch per transaction."""

from __future__ import annotations

import json
import os
import time

from libgm import job
from libgm.errors import NO, OK, BadRecord, Unavailable
from libgm.gearman.connection import ServerLost
from libgm.gearman.worker import Worker
from libgm.quarantine import jobs, payloads
from libgm.quarantine.file import Store
from libgm.quarantine.fingerprint import fingerprint
from libgm.quarantine.payloads import Spool
from libgm.shell.lines import Output, ReaderGone
from libgm.shell.messages import Trouble, warn
from libgm.shell.signals import Control

WINDOW = 200           # jobs asked for at once; each batch is durable before any of it is acknowledged
BATCH_BYTES = 16 << 20
LIMIT = 2 * job.MAX_PAYLOAD   # bytes: the largest payload that a worker takes, as a record in base64


def original(fields: dict) -> dict:
    """The row of a failure job of the original Gearmang: unique_key, task, data, time, exception. Raises BadRecord."""
    task, data = fields.get("task"), fields.get("data")
    if not isinstance(task, str) or not task:
        raise BadRecord("no task")
    unique = fields.get("unique_key")
    exception = fields.get("exception")
    payload = (data if isinstance(data, str) else json.dumps(data)).encode("utf-8", "surrogatepass")
    when = fields.get("time")
    when = int(when) if type(when) in (int, float) and 0 <= when < 1 << 40 else int(time.time())
    text = exception if isinstance(exception, str) else "" if exception is None else json.dumps(exception)
    error = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")[:1000]
    unique = unique.encode("utf-8", "surrogatepass") if isinstance(unique, str) else b""
    function = job.check_function(task.encode("utf-8", "surrogatepass"))
    return jobs.row(key=job.digest(16, function, unique, payload, str(when).encode()), function=function,
                          unique_=unique, data=payload, reason="collected", error=error, stderr=text[-10000:],
                          attempts=1, first_failed=when, last_failed=when,
                          fingerprint=fingerprint(function, "collected", error))


def as_it_is(assigned, payload: bytes, reason: str, error: str, **fields) -> dict:
    """The row of a failure job that cannot be read."""
    now = int(time.time())
    return jobs.row(
        key=job.new_key(str(assigned.server).encode(), assigned.handle, assigned.function, assigned.unique, payload),
        function=assigned.function, unique_=assigned.unique, data=payload, reason=reason, error=error, attempts=1,
        first_failed=now, last_failed=now, server=str(assigned.server), handle=assigned.handle.decode("utf-8", "replace"),
        fingerprint=fingerprint(assigned.function, reason, error), **fields)


def read(assigned) -> dict:
    """The row of whatever arrived: gearmang's own record, the original Gearmang's failure job, or anything."""
    if isinstance(assigned.data, Spool):
        return as_it_is(assigned, b"", "rejected", f"payload of {assigned.data.size} bytes: more than {LIMIT >> 20} MiB",
                        payload_file=assigned.data.path)
    payload = job.unwrap(assigned.data)[1]
    try:
        fields = json.loads(payload)
        if not isinstance(fields, dict):
            raise BadRecord("not a JSON object")
        if "task" in fields and "function" not in fields:
            return original(fields)
        if fields.get("payload_file"):   # on another machine; on this one it could be anybody's
            raise BadRecord("its payload is in a file elsewhere")
        return jobs.from_record(fields)
    except (ValueError, RecursionError):
        why = "not JSON"
    except BadRecord as error:
        why = str(error)
    return as_it_is(assigned, payload, "collected", f"collected as it was: {why}")


class Collector:
    """One process: parent and worker are the same here, since nothing of a job is run."""

    def __init__(self, servers: list, function: bytes, path: str, until_empty: bool, quiet: bool):
        self.servers, self.function, self.path, self.until_empty = servers, function, path, until_empty
        self.output = Output(quiet=quiet)
        self.trouble, self.collected = Trouble(), 0

    def run(self) -> int:
        """Until told to stop, or with until_empty until nothing is there; the exit status."""
        self.control = Control(0.0, interrupt=True)
        self.store = Store(self.path, create=True)
        self.store.join("gm-collect", self.function)
        payloads.sweep(self.store)
        worker = Worker(self.servers, self.function, f"gm-collect:{os.uname().nodename}:{os.getpid()}".encode(),
                        lambda handle, function, unique, length: Spool(self.store, length), LIMIT)
        worker.window = WINDOW
        status = OK
        try:
            if self.until_empty:
                worker.connect()
            while not self.control.stopping:
                batch = self.batch(worker)
                for news in worker.problems():
                    warn(str(news))
                if batch and not self.keep(batch):
                    break
                if not batch and self.until_empty and worker.idle:
                    break
                self.control.happened()
            self.output.close()
        except ReaderGone:
            warn(f"standard output: its reader has gone: stopping after {self.collected} jobs")
            status = NO
        finally:
            worker.drain(5.0)
            worker.close()
            self.store.part()
        return status

    def batch(self, worker: Worker) -> list:
        """The jobs that are here now, waiting for the first of them."""
        first = worker.next(0 if self.until_empty else None, (self.control.fd,))
        batch, size = [], 0
        while first is not None:
            batch.append(first)
            size += len(first.data)
            if len(batch) >= WINDOW or size > BATCH_BYTES:
                break
            first = worker.ready()
        return batch

    def keep(self, batch: list) -> bool:
        """Commit a batch, then acknowledge it; False where we were told to stop while the file would not take it."""
        rows = [read(assigned) for assigned in batch]
        while True:
            try:
                self.write(batch, rows)
                self.trouble.over()
                break
            except (Unavailable, OSError) as error:
                self.control.wait(self.trouble.say(f"{error}: trying again"))
            if self.control.stopping:
                return False
        lost = {}
        for assigned in batch:
            try:
                assigned.complete(b"")
            except ServerLost as error:
                lost[assigned.server] = error
        for error in lost.values():
            warn(f"{error}: what it handed out is collected, and will be seen again")
        batch[0].worker.drain(5.0)   # the answers do not wait for whoever reads our records
        self.collected += len(batch)
        if not self.output.quiet:
            for row in rows:
                found = self.store.execute(f"SELECT {', '.join(jobs.COLUMNS)} FROM job WHERE key = ?", (row["key"],))
                self.output.emit(jobs.record(found.fetchone() or [row.get(name) for name in jobs.COLUMNS]))
            self.output.flush()
        return True

    def write(self, batch: list, rows: list[dict]) -> None:
        """Make a batch durable. Raises Unavailable, OSError."""
        for assigned in batch:
            if isinstance(assigned.data, Spool):
                assigned.data.keep()
        with self.store.transaction():
            for row in rows:
                jobs.bring_in(self.store, row)

"""gm-collect, Gearmang itself: take failed jobs from a queue into the quarantine file, a batch per transaction."""

from __future__ import annotations

import contextlib
import json
import time

from libgm import job, wire
from libgm.errors import NO, OK, BadRecord, Replaced
from libgm.gearman.connection import ServerLost
from libgm.quarantine import jobs, payloads, processes
from libgm.quarantine.fingerprint import fingerprint
from libgm.quarantine.payloads import Spool
from libgm.shell.lines import Output, ReaderGone
from libgm.shell.messages import warn
from libgm.shell.signals import Stopped
from libgm.tools.intake import Intake
from libgm.units import counted

WINDOW = 200           # jobs asked for at once
LIMIT = 2 * job.MAX_PAYLOAD   # bytes: the largest payload that a worker takes, as a record in base64


def original(fields: dict) -> dict:
    """The row of a failure job of the original Gearmang: unique_key, task, data, time, exception. Raises BadRecord."""
    task, data = fields.get("task"), fields.get("data")
    if not isinstance(task, str) or not task:
        raise BadRecord("no task")
    function = job.check_function(_encoded(task))
    payload = _encoded(data if isinstance(data, str) else json.dumps(data))
    given, failed, exception = fields.get("unique_key"), fields.get("time"), fields.get("exception")
    unique = _encoded(given) if isinstance(given, str) else b""
    if unique:
        job.check_unique(unique)
    when = int(failed) if isinstance(failed, (int, float)) and 0 <= failed < 1 << 40 else int(time.time())
    text = exception if isinstance(exception, str) else "" if exception is None else json.dumps(exception)
    text = text[-jobs.MAX_STDERR:]
    error = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    return jobs.row(function=function, unique_=unique, data=payload, reason="collected", error=error, stderr=text, attempts=1,
                    first_failed=when, last_failed=when, fingerprint=fingerprint(function, "collected", error))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def as_it_is(assigned, unique: bytes, payload: bytes, reason: str, error: str, **fields) -> dict:
    """The row of a failure job that cannot be read."""
    now = int(time.time())
    return jobs.row(
        function=assigned.function, unique_=unique, data=payload, reason=reason, error=error, attempts=1, first_failed=now,
        last_failed=now, server=str(assigned.server), handle=assigned.handle.decode("utf-8", "replace"),
        fingerprint=fingerprint(assigned.function, reason, error), **fields)


def read(assigned) -> dict:
    """The row of whatever arrived: gearmang's own record, the original Gearmang's failure job, or anything.

    A record has the key of its job, so that what arrives twice comes in once. Any other job's is its own: equal failures
    that arrive as different jobs are different.
    """
    if isinstance(assigned.data, Spool):
        spool, error = assigned.data, f"payload of {assigned.data.size} bytes: more than {LIMIT >> 20} MiB"
        return keyed(as_it_is(assigned, spool.own, b"", "rejected", error, payload_file=spool.path,
                              payload_digest=spool.digest), spool.header)
    unique, header, payload = wire.unpack(assigned.function, assigned.unique, assigned.data)
    try:
        fields = json.loads(payload)
        if not isinstance(fields, dict):
            raise BadRecord("not a JSON object")
        if "task" in fields and "function" not in fields:
            return keyed(original(fields), header)
        if fields.get("payload_file"):   # on another machine; on this one it could be anybody's
            raise BadRecord("its payload is in a file elsewhere")
        values = jobs.from_record(fields)
        return values if "key" in fields else keyed(values, header)
    except (ValueError, RecursionError):
        why = "not JSON"
    except BadRecord as error:
        why = str(error)
    return keyed(as_it_is(assigned, unique, payload, "collected", f"collected as it was: {why}"), header)


def keyed(values: dict, header: wire.Header) -> dict:
    """A row under the key of the job that it arrived as, or a new one."""
    return {**values, "key": wire.key_text(header.key or wire.new_key()), "sends": header.sends}


class Collector(Intake):
    """gm-collect. One process: parent and worker are the same here, since nothing of a job is run."""

    def __init__(self, servers: list, function: bytes, path: str, until_empty: bool, quiet: bool):
        super().__init__(servers, function, path, Output(quiet=quiet))
        self.until_empty, self.collected = until_empty, 0

    def run(self) -> int:
        """Until told to stop, or with until_empty until nothing is there; the exit status."""
        self.open("gm-collect", LIMIT)
        payloads.sweep(self.store)
        self.worker.window = WINDOW
        status = OK
        try:
            if self.until_empty:
                self.worker.connect()
            with contextlib.suppress(Stopped):
                while not self.control.stopping:
                    batch = self.batch(0 if self.until_empty else None, WINDOW)
                    if batch:
                        self.keep(batch)
                    elif self.until_empty and self.worker.idle:
                        break
                    self.control.happened()
            self.output.close()
        except ReaderGone:
            warn(f"standard output: its reader has gone: stopping after {counted(self.collected, 'job')}")
            status = NO
        except Replaced:
            self.worker.release()   # unanswered: its server keeps it
            raise
        finally:
            self.worker.drain(5.0)
            self.worker.close()
            processes.part(self.store)
        return status

    def keep(self, batch: list) -> None:
        """Commit a batch, then acknowledge it. Raises Stopped where we are told to stop while the file does not take it."""
        rows = [read(assigned) for assigned in batch]
        idents = self.trouble.outlast(lambda: self.write(batch, rows), self.control)
        lost = {}
        for assigned in batch:
            try:
                assigned.complete(b"")
            except ServerLost as error:
                lost[assigned.server] = error
        for loss in lost.values():
            warn(f"{loss}: its jobs are collected, but it will hand them out again")
        self.send_answers()   # they do not wait for whoever reads our records
        self.collected += len(batch)
        if not self.output.quiet:
            for ident, row in zip(idents, rows):
                self.output.emit(jobs.record(jobs.fetch(self.store, ident) or [row.get(name) for name in jobs.COLUMNS]))
            self.output.flush()

    def write(self, batch: list, rows: list[dict]) -> list[int]:
        """Make a batch durable; the ids of its rows. Raises Unavailable."""
        for assigned in batch:
            if isinstance(assigned.data, Spool):
                assigned.data.keep()
        with self.store.transaction():
            return [jobs.bring_in(self.store, row)[0] for row in rows]

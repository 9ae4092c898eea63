"""Sending quarantined jobs back: claim, submit, acknowledged, remove. Nothing leaves the file before it is safe elsewhere."""

from __future__ import annotations

import os
import threading
import time

from libgm import job
from libgm.errors import BadRecord, Error
from libgm.quarantine import audit, claims
from libgm.quarantine.file import raw
from libgm.shell.messages import warn
from libgm.tools.batch import Action, Item


class Behind:
    """begin() a call, do something else, and end() it: what it returned, or the exception that it raised."""

    def __init__(self):
        self.done = threading.Event()
        self.done.set()
        self.result, self.error = None, None

    def begin(self, call, *arguments) -> None:
        """Begin a call, the one before having been ended."""
        thread = threading.Thread(target=self._run, args=(call, *arguments))
        self.done.clear()
        try:
            thread.start()
        except RuntimeError:   # there can be no more threads
            self._run(call, *arguments)

    def _run(self, call, *arguments) -> None:
        try:
            self.result = call(*arguments)
        except BaseException as error:
            self.error = error
        self.done.set()

    def end(self):
        """Wait for the call, if there is one. None where there is none."""
        self.done.wait()
        result, error = self.result, self.error
        self.result = self.error = None
        if error is not None:
            raise error
        return result


WINDOW = 64   # jobs that are waited for at once
COLUMNS = ("id", "revision", "key", "function", "unique_", "priority", "reason", "error", "requeues", "first_failed",
           "fingerprint", "claim", "nonce", "payload_file", "data")


class Sending:
    """A job on its way: its row, what is sent of it under which names, and what came of that."""

    __slots__ = ("values", *COLUMNS, "edited", "to", "level", "payload", "wire", "handle", "server", "result", "seconds")

    def __init__(self, values: tuple):
        self.values = values
        (self.id, self.revision, self.key, self.function, self.unique_, self.priority, self.reason, self.error, self.requeues,
         self.first_failed, self.fingerprint, self.claim, self.nonce, self.payload_file, self.data) = values
        self.result = None

    def row(self) -> dict:
        return {**dict(zip(COLUMNS, self.values)), "edited": self.edited}

    def shown(self) -> dict:
        """The record of it."""
        shown: dict = {"id": self.id, "revision": self.revision}
        job.put(shown, "function", self.to)
        job.put(shown, "unique", raw(self.unique_))
        shown.update(handle=self.handle.decode("utf-8", "replace"), server=str(self.server))
        if self.result is not None:
            job.put(shown, "result", self.result)
            shown["duration"] = round(self.seconds, 6)
        return shown


class Requeue(Action):
    """Resumable after a crash at any point. rate: jobs a second, at most. wait: a job leaves only when it is done."""

    done_to = "sent back"
    columns = COLUMNS

    def __init__(self, path: str, servers: list, edit: bool, plain: bool, wait: bool, rate: float | None, strict: bool,
                 quiet: bool):
        super().__init__(path, strict, quiet)
        self.servers, self.edit, self.plain, self.wait, self.rate = servers, edit, plain, wait, rate
        if wait:
            self.batch_jobs = WINDOW // 4
        if rate:
            self.batch_jobs = max(1, min(self.batch_jobs, int(rate / 10)))   # no claim is held much longer than it takes
        self.how = "." + "plain" * plain + "wait" * wait   # what is sent under one nonce is the same
        self.submitter = None
        self.made, self.batches = os.urandom(6).hex(), 0   # make the nonces of this run: one for each batch
        self.next = 0.0      # time.monotonic() from which the rate allows more
        self.again = 0       # jobs that an earlier requeue may have sent
        self.sent: list[Sending] = []   # and acknowledged (with --wait: done), and still in the file
        self.behind = Behind()

    def process(self, batch: list[Item]) -> int:
        if self.submitter is None:
            from libgm.gearman.client import Submitter
            self.submitter = Submitter(self.servers, wait=self.wait, window=WINDOW if self.wait else 1000,
                                       on_accept=self.accepted, on_refuse=self.refused, on_result=self.ended)
        self.pace()
        self.removed()
        claimed, used = self.claim(batch)
        if self.rate:
            self.next = max(self.next, time.monotonic()) + len(claimed) / self.rate
        self.begin_to_remove()   # what was acknowledged so far, while these are sent and the next are read
        try:
            while claimed:
                found = claimed[-1]
                self.submitter.submit(found.to, found.wire, found.payload, found.level, found)
                claimed.pop()
            if self.rate and not self.wait:
                self.settle()
        except BaseException:
            self.remove()
            claims.give_back(self.store, [found.id for found in claimed[:-1]])
            raise
        return used

    def pace(self) -> None:
        """Until the rate allows more; what is being waited for goes on meanwhile."""
        while self.rate and time.monotonic() < self.next:
            if self.wait and self.submitter.outstanding:
                self.submitter.pump(self.next - time.monotonic())
            else:
                time.sleep(max(0.0, self.next - time.monotonic()))

    def claim(self, batch: list[Item]) -> tuple[list[Sending], int]:
        """The jobs of the first items that fit in a transaction, claimed, the last first; how many items that were.

        Not durable: where the power fails, and the claim is lost, a job may be sent twice.
        """
        claimed, used = {}, 0
        self.batches += 1   # a job that dies and is sent again travels under another unique than the copy that died
        with self.store.transaction(durable=False):
            for used, (item, values) in enumerate(self.look_up(batch), 1):
                if item.ident not in claimed and self.is_meant(item, values):
                    found = Sending(values)
                    # where another process is sending it, the work is shared
                    if found.claim is None or not self.store.lives(found.claim):
                        try:
                            self.prepare(item, found)
                            claimed[item.ident] = found
                        except BadRecord as error:
                            self.report(f"{item}: {error}")
                if self.stopped:
                    break
            for nonce, sendings in by_nonce(claimed.values()).items():
                claims.claim(self.store, nonce, [found.id for found in sendings])
        return list(claimed.values())[::-1], used

    def prepare(self, item: Item, found: Sending) -> None:
        """Settle what is to be sent. Raises BadRecord."""
        found.to, data, found.level, found.edited = self.content(item, found)
        tag = f".{job.digest(8, found.to, data, found.level.encode()) if found.edited else ''}{self.how}"
        self.again += found.nonce is not None
        if not (found.nonce or "").endswith(tag):
            found.nonce = f"{self.made}-{self.batches}{tag}"
        if self.plain:
            found.payload = data
        else:
            found.payload = job.wrap(job.Envelope(found.key, raw(found.unique_), 0, found.requeues + 1, found.first_failed,
                                                  found.level), data)
        found.wire = job.wire_unique(found.to, found.key, "requeue", found.nonce) + job.WAITED * self.wait

    def content(self, item: Item, found: Sending) -> tuple[bytes, bytes, str, bool]:
        """(function, data, priority) to send, the file's, or with --edit the record's; whether they differ. Raises BadRecord."""
        kept = raw(found.function), raw(found.data), found.priority
        if found.payload_file:
            raise BadRecord(f"its payload is too large for a worker: it stands in {found.payload_file}")
        wanted = kept if item.record is None or shows(item.record, found) else given(item.record, kept)
        if wanted != kept:
            if not self.edit:
                differs = [name for name, mine, theirs in zip(("function", "data", "priority"), kept, wanted) if mine != theirs]
                raise BadRecord(f"{' and '.join(differs)} of the record differ from the file's: --edit takes them from the record")
            job.check_function(wanted[0])
            if wanted[2] not in job.PRIORITIES:
                raise BadRecord(f"priority is not one of {', '.join(job.PRIORITIES)}")
        if not wanted[1] and self.plain:
            raise BadRecord("an empty payload stops gearmand from starting again: not sent")
        return (*wanted, wanted != kept)

    def accepted(self, found: Sending, handle: bytes, server) -> None:
        found.handle, found.server = handle, server
        if not self.wait:
            self.sent.append(found)

    def refused(self, found: Sending, error: Error) -> None:
        self.report(f"{found.id}: {error}")
        self.removed()
        claims.give_back(self.store, [found.id])

    def ended(self, found: Sending, ok: bool, result: bytes, warning: bytes, seconds: float) -> None:
        """With --wait: it is done, or has failed and stays."""
        if ok:
            found.result, found.seconds = result, seconds
            self.sent.append(found)
            self.remove()
            self.output.flush()
            return
        from libgm.worker.verdict import last_line
        claims.give_back(self.store, [found.id])
        self.report(f"{found.id}: failed: {last_line(warning) or 'its worker does not say why'}: it stays in quarantine")

    # ---- out of the file

    def remove(self) -> None:
        """Take out what is sent, and wait for it."""
        self.removed()
        self.begin_to_remove()
        self.removed()

    def begin_to_remove(self) -> None:
        """Let what is sent be taken out behind; nobody touches the file before removed()."""
        sent, self.sent = self.sent, []
        if sent:
            self.behind.begin(self.take_out, sent)

    def take_out(self, sent: list[Sending]) -> tuple[list[Sending], set[Sending]]:
        """Remove what still is what was sent; (all of it, what of it has died again and stays)."""
        again: set[Sending] = set()
        with self.store.transaction():
            for nonce, sendings in by_nonce(sent).items():
                gone = claims.remove(self.store, nonce, [found.id for found in sendings], sendings[0].edited)
                again.update(found for found in sendings if found.id not in gone)
            audit.write_down(self.store, "requeue", [found.row() for found in sent if found in again])
        return sent, again

    def removed(self) -> None:
        """Wait for what is being taken out, and tell of it."""
        sent, again = self.behind.end() or ((), ())
        self.done += len(sent)
        for found in sent:
            if found in again:
                self.report(f"{found.id}: was sent, but failed again meanwhile: the newer failure stays")
            elif not self.quiet:
                self.output.emit(found.shown())

    def flush(self) -> None:
        """Before a wait for input: what is being waited for comes first."""
        self.act()
        self.settle()
        self.output.flush()

    def settle(self, interrupted: bool = False) -> None:
        if self.submitter and not (interrupted and self.wait):   # a job that is waited for may take for ever
            try:
                self.submitter.finish()
            finally:
                self.remove()
        elif self.submitter and self.submitter.outstanding:
            warn(f"{self.submitter.outstanding} jobs were waited for: they stay in quarantine, also those that a worker has begun")

    def end(self) -> None:
        self.remove()
        if self.again:
            warn(f"{self.again} of these jobs may run twice: an earlier gm-requeue that did not end may have sent them")
        claims.give_back_all(self.store)
        if self.submitter:
            self.submitter.close()


def by_nonce(sendings) -> dict[str, list[Sending]]:
    """Sendings by the nonce they go under: all of a batch that are sent as they are have the same."""
    found: dict[str, list[Sending]] = {}
    for sending in sendings:
        found.setdefault(sending.nonce, []).append(sending)
    return found


def shows(record: dict, found: Sending) -> bool:
    """Whether a record has what the file has, at a glance: where it is False, given() tells."""
    return (record.get("data") == found.data and record.get("function") == found.function
            and record.get("priority") == found.priority and "data_b64" not in record and "function_b64" not in record)


def given(record: dict, kept: tuple[bytes, bytes, str]) -> tuple[bytes, bytes, str]:
    """(function, data, priority) of a record; what it does not have is as it is kept. Raises BadRecord."""
    function, data = job.get(record, "function"), job.get(record, "data")
    return (kept[0] if function is None else function, kept[1] if data is None else data,
            record.get("priority") or kept[2])

"""Sending quarantined jobs back: claim, submit, acknowledged, remove. Nothing leaves the file before it is safe elsewhere."""

from __future__ import annotations

import os
import time

from . import job, quarantine
from .action import BATCH_BYTES, Action, Item
from .cli import warn
from .errors import BadRecord, Error
from .store import raw

WINDOW = 64   # jobs that are waited for at once


class Requeue(Action):
    """Resumable after a crash at any point. rate: jobs a second, at most. wait: a job leaves only when it is done."""

    done_to = "sent back"
    columns = ("id", "revision", "key", "function", "unique_", "priority", "reason", "error", "requeues", "first_failed",
               "fingerprint", "claim", "nonce", "payload_file", "data")

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
        self.made = os.urandom(6).hex()   # begins the nonces of this run
        self.next = 0.0      # time.monotonic() from which the rate allows more
        self.again = 0       # jobs that an earlier requeue may have sent
        self.sent: list[dict] = []

    def process(self, batch: list[Item]) -> int:
        if self.submitter is None:
            from .submit import Submitter
            self.submitter = Submitter(self.servers, wait=self.wait, window=WINDOW if self.wait else 1000,
                                       on_accept=self.accepted, on_refuse=self.refused, on_result=self.ended)
        self.pace()
        claimed, used = self.claim(batch)
        if self.rate:
            self.next = max(self.next, time.monotonic()) + len(claimed) / self.rate
        try:
            while claimed:
                found = claimed[-1]
                self.submitter.submit(found["to"], found["wire"], found["payload"], found["as"], found)
                claimed.pop()
            if self.rate and not self.wait:
                self.submitter.finish()
        finally:
            self.remove()   # the rest is acknowledged while the next are claimed
            if claimed:
                quarantine.forget_nonces(self.store, [found["id"] for found in claimed[:-1]])
        return used

    def pace(self) -> None:
        """Until the rate allows more; what is being waited for goes on meanwhile."""
        while self.rate and time.monotonic() < self.next:
            if self.wait and self.submitter.outstanding:
                self.submitter.pump(self.next - time.monotonic())
            else:
                time.sleep(max(0.0, self.next - time.monotonic()))

    def claim(self, batch: list[Item]) -> tuple[list[dict], int]:
        """The rows of the first items that fit in a transaction, claimed, the last first; how many items that were.

        Not durable: where the power fails, and the claim is lost, a job may be sent twice.
        """
        claimed, size, used = {}, 0, 0
        with self.store.transaction(durable=False):
            for used, item in enumerate(batch, 1):
                found = None if item.ident in claimed else self.find(item)
                # where another process is sending it, the work is shared
                if found is not None and found["claim"] != self.store.process and not self.claimed_elsewhere(found):
                    try:
                        self.prepare(item, found)
                        claimed[item.ident] = found
                        size += len(found["payload"])
                    except BadRecord as error:
                        self.report(f"{item}: {error}")
                if size > BATCH_BYTES or self.stopped:
                    break
            quarantine.claim(self.store, [(found["id"], found["nonce"]) for found in claimed.values()])
        return list(claimed.values())[::-1], used

    def prepare(self, item: Item, found: dict) -> None:
        """Add to a row what is to be sent: to (function), as (priority), payload, wire (unique), nonce; and whether it
        was edited. Raises BadRecord."""
        function, data, priority, found["edited"] = self.content(item, found)
        tag = f".{job.digest(8, function, data, priority.encode()) if found['edited'] else ''}{self.how}"
        self.again += found["nonce"] is not None
        if not (found["nonce"] or "").endswith(tag):
            found["nonce"] = f"{self.made}-{found['id']}-{found['revision']}{tag}"
        if self.plain:
            found["payload"] = data
        else:
            found["payload"] = job.wrap(job.Envelope(found["key"], raw(found["unique_"]), 0, found["requeues"] + 1,
                                                     found["first_failed"], priority), data)
        found["wire"] = job.wire_unique(function, found["key"], "requeue", found["nonce"]) + job.WAITED * self.wait
        found["to"], found["as"] = function, priority

    def content(self, item: Item, found: dict) -> tuple[bytes, bytes, str, bool]:
        """(function, data, priority) to send, the file's, or with --edit the record's; whether they differ. Raises BadRecord."""
        kept = raw(found["function"]), raw(found["data"]), found["priority"]
        if found["payload_file"]:
            raise BadRecord(f"its payload is too large for a worker: it stands in {found['payload_file']}")
        wanted = kept if item.record is None else self.given(item.record, kept)
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

    def given(self, record: dict, kept: tuple[bytes, bytes, str]) -> tuple[bytes, bytes, str]:
        """The same of a record; what it does not have is as it is kept. Raises BadRecord."""
        function, data = job.get(record, "function"), job.get(record, "data")
        return (kept[0] if function is None else function, kept[1] if data is None else data,
                record.get("priority") or kept[2])

    def accepted(self, found: dict, handle: bytes, server) -> None:
        found["new_handle"], found["new_server"] = handle, str(server)
        if not self.wait:
            self.sent.append(found)

    def refused(self, found: dict, error: Error) -> None:
        self.report(f"{found['id']}: {error}")
        quarantine.forget_nonces(self.store, [found["id"]])

    def ended(self, found: dict, ok: bool, result: bytes, warning: bytes, seconds: float) -> None:
        """With --wait: it is done, or has failed and stays."""
        if ok:
            job.put(found, "result", result)
            found["duration"] = round(seconds, 6)
            self.sent.append(found)
            self.remove()
            self.output.flush()
            return
        from .policy import last_line
        quarantine.forget_nonces(self.store, [found["id"]])
        self.report(f"{found['id']}: failed: {last_line(warning) or 'its worker does not say why'}: it stays in quarantine")

    def remove(self) -> None:
        """Take out what a server has acknowledged (with --wait: has done), where it still is what was sent."""
        sent, self.sent = self.sent, []
        if not sent:
            return
        with self.store.transaction():
            still = quarantine.claimed(self.store)
            quarantine.write_down(self.store, "requeue", sent)
            quarantine.remove(self.store, [found for found in sent if (found["id"], found["revision"]) in still])
        self.done += len(sent)
        for found in sent:
            if (found["id"], found["revision"]) not in still:
                self.report(f"{found['id']}: was sent, but failed again meanwhile: the newer failure stays")
                continue
            if self.quiet:
                continue
            shown: dict = {"id": found["id"], "revision": found["revision"]}
            job.put(shown, "function", found["to"])
            job.put(shown, "unique", raw(found["unique_"]))
            shown.update(handle=found["new_handle"].decode("utf-8", "replace"), server=found["new_server"])
            shown.update((name, found[name]) for name in ("result", "result_b64", "duration") if name in found)
            self.output.emit(shown)

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

    def end(self) -> None:
        if self.again:
            warn(f"{self.again} of these jobs may run twice: an earlier gm-requeue that did not end may have sent them")
        quarantine.unclaim_all(self.store)
        if self.submitter:
            self.submitter.close()

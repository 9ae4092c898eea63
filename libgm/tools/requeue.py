"""gm-requeue: send quarantined jobs back. Claim, submit, acknowledged, remove: nothing leaves the file before it is safe
elsewhere."""

from __future__ import annotations

import threading
import time

from libgm import job, wire
from libgm.errors import BadRecord, Error
from libgm.quarantine import audit, claims, processes
from libgm.quarantine.file import raw
from libgm.shell.lines import Output
from libgm.shell.messages import warn
from libgm.shell.signals import held
from libgm.tools.batch import Action, Item
from libgm.units import counted

TYPE_CHECKING = False   # what typing's is, without the cost of importing that
if TYPE_CHECKING:
    from libgm.gearman.address import Server
    from libgm.gearman.client import Submitter

WINDOW = 64   # jobs that are waited for at once
COLUMNS = ("id", "revision", "key", "function", "unique_", "priority", "reason", "error", "attempts", "requeues", "first_failed",
           "fingerprint", "claim", "payload_file", "sends", "holds", "claim_sends", "claim_digest", "data")
NEVER_FAILED = (None, "drained")   # reasons of jobs that only waited: they keep their counts
EDITED = "edit"                    # how a claim says that the job is sent as another one


class Sending:
    """A job on its way: its row, what is sent of it, and what came of that."""

    __slots__ = ("values", *COLUMNS, "edited", "to", "level", "number", "how", "payload", "wire", "handle", "server", "result",
                 "seconds")

    def __init__(self, values: tuple):
        self.values = values
        self.number: int | None
        self.handle: bytes
        self.server: Server
        self.seconds: float
        (self.id, self.revision, self.key, self.function, self.unique_, self.priority, self.reason, self.error, self.attempts,
         self.requeues, self.first_failed, self.fingerprint, self.claim, self.payload_file, self.sends, self.holds,
         self.claim_sends, self.claim_digest, self.data) = values
        self.result: bytes | None = None

    def row(self) -> dict:
        return {**dict(zip(COLUMNS, self.values)), "edited": self.edited}

    def prepare(self, how: str, edit: tuple[bytes, bytes, str] | None) -> None:
        """Settle what is sent, and under which wire unique. edit: function, payload and priority, where they differ.

        Attempts start afresh. What is edited is another job: its key is made of this one's and of what is sent, so that a
        repeat after a crash merges with the first copy.
        """
        self.edited = edit is not None
        if edit is None:
            self.to, data, self.level = raw(self.function), raw(self.data), self.priority
            self.number, self.how = claims.number(self.sends, self.claim_sends, self.claim_digest, how), how
            key, sends = self.key, self.number
        else:
            self.to, data, self.level = edit
            self.number, self.how = None, EDITED
            key, sends = job.digest(wire.KEY_BITS // 8, self.key.encode(), b"%d" % self.revision, self.to, data,
                                    self.level.encode()), 0
        header = wire.Header(wire.key_value(key), self.first_failed, 0, self.requeues + 1, sends, 0, self.level, False,
                             how == WAITED)
        if self.reason in NEVER_FAILED:
            header.attempts, header.requeues, header.holds = self.attempts, self.requeues, self.holds
        self.wire, self.payload = wire.pack(self.to, raw(self.unique_), header, data)

    def shown(self) -> dict:
        """Its record."""
        shown: dict = {"id": self.id, "revision": self.revision}
        job.put(shown, "function", self.to)
        job.put(shown, "unique", raw(self.unique_))
        shown.update(handle=self.handle.decode("utf-8", "replace"), server=str(self.server))
        if self.result is not None:
            job.put(shown, "result", self.result)
            shown["duration"] = round(self.seconds, 6)
        return shown


class Background:
    """begin() a call in a thread, do something else, and end() it: what it returned, or the exception that it raised."""

    def __init__(self):
        self.done = threading.Event()
        self.done.set()
        self.result, self.error = None, None

    def begin(self, call, *arguments) -> None:
        """Begin a call, the one before having been ended."""
        thread = threading.Thread(target=self._run, args=(call, *arguments))
        self.done.clear()
        try:
            with held():
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
        """The result of the call; None where there was none. wait() before."""
        result, error = self.result, self.error
        self.result = self.error = None
        if error is not None:
            raise error
        return result


SENT, WAITED = "requeue", "requeue --wait"   # how a claim says that its job is sent


class Requeue(Action):
    """gm-requeue: sends jobs back. It can be resumed after a crash at any point.

    edit: take function, payload and priority from the record. rate: jobs a second, at most. wait: a job leaves the file only
    when it is done.
    """

    done_to = "sent back"
    columns = COLUMNS
    submitter: Submitter | None = None

    def __init__(self, path: str, servers: list, strict: bool, output: Output, edit: bool = False, wait: bool = False,
                 rate: float | None = None, ids: bool = False, why: str | None = None):
        super().__init__(path, strict, output, ids, why)
        self.servers, self.edit, self.wait, self.rate = servers, edit, wait, rate
        if wait:
            self.batch_jobs = WINDOW // 4
        if rate:
            self.batch_jobs = max(1, min(self.batch_jobs, int(rate / 10)))   # no claim is held much longer than it takes
        self.next = 0.0      # time.monotonic() from which the rate allows more
        self.again = 0       # jobs that an earlier process may have sent
        self.sent: list[Sending] = []   # and acknowledged (with --wait: done), and still in the file
        self.background = Background()

    def process(self, batch: list[Item]) -> int:
        submitter = self.submitter = self.submitter or self.new_submitter()
        self.pace(submitter)
        self.removed()
        claimed, used = self.claim(batch)
        if self.rate:
            self.next = max(self.next, time.monotonic()) + len(claimed) / self.rate
        self.begin_to_remove()   # what was acknowledged so far, while these are sent and the next are read
        try:
            while claimed:
                found = claimed[-1]
                submitter.submit(found.to, found.wire, found.payload, found.level, found, name=raw(found.unique_))
                claimed.pop()
            if self.rate and not self.wait:
                self.settle()
        except BaseException:
            self.remove()
            claims.give_back(self.store, [found.id for found in claimed[:-1]])
            raise
        return used

    def new_submitter(self) -> Submitter:
        from libgm.gearman.client import Submitter
        return Submitter(self.servers, wait=self.wait, window=WINDOW if self.wait else 1000, on_accept=self.accepted,
                         on_refuse=self.refused, on_result=self.ended)

    def pace(self, submitter: Submitter) -> None:
        """Wait until the rate allows more; what is being waited for goes on meanwhile."""
        while self.rate and time.monotonic() < self.next:
            if self.wait and submitter.outstanding:
                submitter.pump(self.next - time.monotonic())
            else:
                time.sleep(max(0.0, self.next - time.monotonic()))

    def claim(self, batch: list[Item]) -> tuple[list[Sending], int]:
        """The jobs of the first items that fit in a transaction, claimed, the last first; how many items that were.

        Not durable: where the power fails, and the claim is lost, a job may be sent twice.
        """
        claimed: dict[int, Sending] = {}
        used, again = 0, 0
        with self.store.transaction(durable=False):
            for item, values in self.look_up(batch):
                used += 1
                if item.ident not in claimed and self.is_meant(item, values):
                    found = Sending(values)
                    # where another process is sending it, the work is shared
                    if found.claim is None or not processes.lives(self.store, found.claim):
                        try:
                            found.prepare(WAITED if self.wait else SENT, self.edited(item, found))
                            again += found.claim_digest is not None
                            claimed[item.ident] = found
                        except BadRecord as error:
                            self.report(f"{item}: {error}")
                if self.stopped:
                    break
            for how in {found.how for found in claimed.values()}:
                claims.claim(self.store, {found.id: found.number for found in claimed.values() if found.how == how}, how)
        self.again += again
        return list(claimed.values())[::-1], used

    def edited(self, item: Item, found: Sending) -> tuple[bytes, bytes, str] | None:
        """(function, payload, priority) to send with --edit, where the record's differ from the file's. Raises BadRecord."""
        if found.payload_file:
            raise BadRecord(f"its payload is too large for a worker: it is in {found.payload_file}")
        if item.record is None or shows(item.record, found):
            return None
        kept = raw(found.function), raw(found.data), found.priority
        wanted = given(item.record, kept)
        if wanted == kept:
            return None
        if not self.edit:
            differs = [name for name, mine, theirs in zip(("function", "data", "priority"), kept, wanted) if mine != theirs]
            raise BadRecord(f"{' and '.join(differs)} of the record differ from the file's: --edit takes them from the record")
        if wanted[0] != kept[0]:
            job.check_new_function(wanted[0])
        return wanted

    def accepted(self, found: Sending, handle: bytes, server) -> None:
        """The server has it."""
        found.handle, found.server = handle, server
        if not self.wait:
            self.sent.append(found)

    def refused(self, found: Sending, error: Error) -> None:
        """The server does not take it."""
        self.report(f"{found.id}: {error}")
        self.removed()
        claims.give_back(self.store, [found.id])

    def ended(self, found: Sending, ok: bool, result: bytes, warning: bytes, seconds: float) -> None:
        """With --wait: it is done, or has failed and stays."""
        if ok:
            found.result, found.seconds = result, seconds
            self.sent.append(found)
            self.remove()
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
            self.background.begin(self.take_out, sent)

    def take_out(self, sent: list[Sending]) -> tuple[list[Sending], list[Sending]]:
        """Remove what still is what was sent; (all of it, what of it has died again and stays)."""
        again: list[Sending] = []
        with self.store.transaction():
            for edited in (False, True):
                some = {found.id: found.revision for found in sent if found.edited == edited}
                gone = claims.remove(self.store, some, edited, self.why) if some else set()
                again += [found for found in sent if found.edited == edited and found.id not in gone]
            audit.write_down(self.store, "requeue", [found.row() for found in again], self.why)
        return sent, again

    def removed(self) -> None:
        """Wait for what is being taken out, and print it."""
        self.background.done.wait()
        with held():
            sent, again = self.background.end() or ((), ())
            self.done += len(sent)
            for found in again:
                self.report(f"{found.id}: was sent, but failed again meanwhile: see gm-dead {found.id}")
            if not self.output.quiet:
                stays = set(again)
                for found in sent:
                    if found not in stays:
                        self.output.emit(found.shown())
                self.output.flush()

    def flush(self) -> None:
        """Before a wait for input: what is being waited for comes first."""
        self.act()
        self.settle()

    def settle(self, interrupted: bool = False) -> None:
        if self.submitter and not (interrupted and self.wait):   # a job that is waited for may take for ever
            try:
                self.submitter.finish()
            finally:
                self.remove()
        elif self.submitter and self.submitter.outstanding:
            warn(f"no result yet of {counted(self.submitter.outstanding, 'job')}: still in quarantine, even if a worker "
                 "has begun it")

    def end(self) -> None:
        self.remove()
        if self.again:
            warn(f"{self.again} of these jobs may run twice: an earlier gm-requeue died while it sent them")
        claims.void(self.store)
        if self.submitter:
            self.submitter.close()


def shows(record: dict, found: Sending) -> bool:
    """Whether a record has what the file has, at a glance: where it is False, given() tells."""
    return (record.get("data") == found.data and record.get("function") == found.function
            and record.get("priority") == found.priority and "data_b64" not in record and "function_b64" not in record)


def given(record: dict, kept: tuple[bytes, bytes, str]) -> tuple[bytes, bytes, str]:
    """(function, data, priority) of a record; what it does not have is as it is kept. Raises BadRecord."""
    function, data = job.get(record, "function"), job.get(record, "data")
    priority = job.text_field(record, "priority", kept[2])
    if priority not in job.PRIORITIES:
        raise BadRecord(f"priority is not one of {', '.join(job.PRIORITIES)}")
    return kept[0] if function is None else function, kept[1] if data is None else data, priority

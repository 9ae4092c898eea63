"""What gm-drain does: the jobs that wait in a queue, taken into the quarantine file, a batch per transaction."""

from __future__ import annotations

import contextlib
import time

from libgm import wire
from libgm.errors import INTERRUPTED, NO, OK, Unavailable
from libgm.gearman import admin
from libgm.gearman.connection import ServerLost
from libgm.quarantine import audit, claims, jobs, processes, starts
from libgm.quarantine.fingerprint import fingerprint
from libgm.shell.lines import Output, ReaderGone
from libgm.shell.messages import summarize, warn
from libgm.shell.progress import Progress
from libgm.shell.signals import Stopped
from libgm.tools.intake import Intake
from libgm.units import counted
from libgm.worker.attempt import Attempt

WINDOW = 500   # jobs asked for at once
TOLD = b"taken out of the queue by gm-drain"   # what a client that waits is told


class Drain(Intake):
    """limit: jobs at most, None for all that wait. why: for the history, or None."""

    def __init__(self, servers: list, function: bytes, path: str, limit: int | None, why: str | None, quiet: bool, json: bool):
        super().__init__(servers, function, path, Output(quiet=quiet, acts=True, json=json))
        self.cause = fingerprint(function, "drained", "")   # of all rows
        self.limit, self.why = limit, why
        self.drained = self.told = self.runs = 0
        self.answered: list[int] = []   # runs whose starts are to go with the next transaction
        self.lost = False

    def run(self) -> int:
        """Take what waits now; the exit status. Raises Unavailable."""
        left = self.waiting()
        self.left = left if self.limit is None else min(left, self.limit)
        self.open("gm-drain")
        starts.sweep(self.store)
        self.progress = Progress("jobs", self.left, self.output.quiet)
        try:
            return self.take_all()
        finally:
            self.progress.close()
            self.worker.close()
            self.end_starts()
            processes.part(self.store)

    def waiting(self) -> int:
        """Jobs of the function that no worker has begun, on all servers. Raises Unavailable where none can be asked."""
        answers, problems = admin.ask_all(self.servers, admin.Admin.queues)
        for error in problems:
            if not answers:
                raise error
            warn(str(error))
            self.lost = self.lost or isinstance(error, Unavailable)
        return sum(max(0, queue.total - queue.running)
                   for _, queues in answers for queue in queues if queue.function == self.function)

    def take_all(self) -> int:
        try:
            self.worker.connect()
            with contextlib.suppress(Stopped):
                while self.left > 0 and not self.control.stopping:
                    self.worker.window = min(WINDOW, self.left)
                    batch = [self.attempt(assigned) for assigned in self.batch(0, self.worker.window)]
                    if batch:
                        self.keep(batch)
                    elif self.worker.idle:
                        break
                    self.control.happened()
            self.worker.release()   # what has arrived and is not ours to take any more
            self.output.close()
        except ReaderGone:
            warn(f"standard output: its reader has gone: stopped after {counted(self.drained, 'job')}")
            return NO
        summarize(self.output, self.summary())
        return INTERRUPTED if self.control.stopping else NO if self.lost else OK

    def summary(self) -> str:
        told = f", {counted(self.told, 'client')} told" if self.told else ""
        return f"{counted(self.drained, 'job')} drained{told}; {counted(jobs.count(self.store, 'dead'), 'dead job')}"

    def attempt(self, assigned) -> Attempt:
        self.runs += 1
        return Attempt(assigned, self.runs, False)

    def keep(self, batch: list[Attempt]) -> None:
        """Commit a batch, answer it, print it. Raises Stopped where we are told to stop while the file does not take it."""
        waited = [attempt for attempt in batch if attempt.waited]
        kept = [attempt for attempt in batch if not attempt.waited]
        rows = self.trouble.outlast(lambda: self.write(kept), self.control)
        for attempt in batch:
            try:
                attempt.assigned.warning(TOLD)
                attempt.assigned.fail()
            except ServerLost as error:
                warn(f"{attempt.handle}: {error}: the job is drained, but the server will hand it out again")
                self.lost = True
        self.send_answers()
        self.answered = [attempt.run for attempt in kept]
        self.left -= len(batch)
        self.drained += len(kept)
        self.told += len(waited)
        self.progress.add(len(batch))
        for values in rows:
            self.output.emit(jobs.record([values.get(name) for name in jobs.COLUMNS]))
        self.output.flush()

    def write(self, batch: list[Attempt]) -> list[dict]:
        """Make a batch durable; its rows. Its starts are settled from the first: a job that comes again is another one then.

        Raises Unavailable.
        """
        for attempt in batch:
            if attempt.spool is not None:
                attempt.spool.keep()
        rows = []
        with self.store.transaction():
            starts.end(self.store, *self.answered)
            starts.begin(self.store, *batch, settled=True)
            self.look_back(batch)
            for attempt in batch:
                values = self.row(attempt)
                values["id"] = jobs.set_aside(self.store, values)
                rows.append(values)
            starts.forget(self.store, *(attempt.identity for attempt in batch))
            idents = [values["id"] for values in rows]
            found = jobs.revisions(self.store, idents)
            for values in rows:
                values["revision"], values["key"] = found[values["id"]]
            audit.write_down_where(self.store, "drain", claims.LISTED, {"ids": claims.listed(idents)}, why=self.why)
        return rows

    def look_back(self, batch: list[Attempt]) -> None:
        """Take in what dead workers' starts of the jobs tell (gm-delivery(7), rules 5 and 6)."""
        runs = starts.suspects(self.store, range(batch[0].run, batch[-1].run + 1)) if batch else []
        again = [attempt for attempt in batch if attempt.run in runs]
        for attempt in again:
            past = starts.past(self.store, attempt.identity)
            if past is None:
                continue
            attempt.before = attempt.header.attempts + past.attempts   # also where the file did not take it, and this comes again
            if past.settled:
                attempt.header.key = wire.new_key()
            elif past.key is not None and not attempt.known:
                attempt.header.key = past.key
        starts.begin(self.store, *again, settled=True)

    def row(self, attempt: Attempt) -> dict:
        """The row of a job that waited."""
        header = attempt.header
        spool = attempt.spool
        spooled = {} if spool is None else {"payload_file": spool.path, "payload_digest": spool.digest}
        return jobs.row(
            key=wire.key_text(header.key), function=attempt.assigned.function, unique_=attempt.unique, data=attempt.data,
            priority=header.priority, reason="drained", error="", attempts=attempt.before, requeues=header.requeues,
            first_failed=header.first_failed, last_failed=int(time.time()), sends=header.sends, holds=header.holds,
            known_bad=header.known_bad, server=attempt.server, handle=attempt.handle,
            fingerprint=self.cause, **spooled)

    def end_starts(self) -> None:
        """Whatever was answered last: its starts go."""
        if self.answered:
            try:
                with self.store.transaction(durable=False):
                    starts.end(self.store, *self.answered)
            except Unavailable as error:
                warn(str(error))

"""What becomes of a job: done, retried, set aside, dropped or given back; durable first, then answered (rules 2 to 9)."""

from __future__ import annotations

import os
import time

from libgm import job
from libgm.errors import CannotRun, Unavailable
from libgm.gearman.connection import Refused, ServerLost
from libgm.quarantine import fingerprint, jobs, starts
from libgm.quarantine.file import Store
from libgm.shell.lines import dump
from libgm.shell.messages import Trouble, warn
from libgm.shell.signals import Control, Stopped
from libgm.units import iso
from libgm.worker import orphans, verdict
from libgm.worker.brake import Brake
from libgm.worker.run import Outcome
from libgm.worker.verdict import MAX_RELEASES, judge

HOST = os.uname().nodename
LOST, HUNG = "its worker died with it", "hung: ended by gm-reap"


class Attempt:
    """A job in hand: what came over the wire, and what it is (rule 5)."""

    def __init__(self, assigned, run: int, settings):
        self.assigned, self.run = assigned, run    # run: its number among this worker's
        self.spool = None if isinstance(assigned.data, bytes) else assigned.data   # of a payload too large
        self.envelope, self.data = job.unwrap(assigned.data) if self.spool is None else (self.spool.envelope, b"")
        self.envelope = self.envelope or job.Envelope()
        self.identity = job.identity(assigned.function, assigned.unique, assigned.data if self.spool is None else b"")
        self.before = self.envelope.attempts       # attempts before this one, those that never reported included
        self.waited = settings.foreground or assigned.unique.endswith(job.WAITED)
        self.unique = self.envelope.unique
        if self.unique is None:
            self.unique = assigned.unique[:-2] if assigned.unique.endswith(job.WAITED) else assigned.unique
        self.server, self.handle = str(assigned.server), assigned.handle.decode("utf-8", "replace")

    @property
    def key(self) -> str:
        """The job's key: from its envelope, or made at its first failure."""
        if self.envelope.key is None:
            self.envelope.key = job.new_key(self.server.encode(), self.assigned.handle, self.assigned.function, self.unique,
                                            self.data)
        return self.envelope.key


class Fate:
    """Where a worker takes its failures and successes: one per worker process; several jobs may be in hand.

    over: tells whether the worker is to end, so that a pause does not keep it.
    """

    store: Store   # set once it is open

    def __init__(self, settings, control: Control, brake: Brake, events_fd: int, over):
        self.settings, self.control, self.brake, self.events_fd = settings, control, brake, events_fd
        self.over, self.trouble, self.unfit = over, Trouble(), Trouble()
        self.unanswered: list = []           # jobs whose starts are ended, each an (attempt, outcome)
        self.before_pause = lambda: None     # to give back what else is in hand

    def persist(self, write):
        """Call write until the file takes it: a job is not answered before. Raises Stopped when told to end meanwhile."""
        while True:
            try:
                done = write()
                self.trouble.over()
                return done
            except Unavailable as error:
                pause = self.trouble.say(f"{error}: trying again")
            self.control.wait(pause)
            if self.control.stopping or self.control.retired:
                raise Stopped

    def transact(self, durable: bool, *writes) -> None:
        """Run writes, each a (function, *arguments), in one transaction, as persist() does."""
        def write():
            with self.store.transaction(durable):
                for function, *arguments in writes:
                    function(self.store, *arguments)
        self.persist(write)

    # ---- before a job is run

    def begin(self, attempt: Attempt, done: list) -> bool:
        """Write its start, before the job begins, and end those of done; False where earlier ones were the last of it.

        answer_done() is to follow.
        """
        if self.turn_over(done, [attempt]):
            self.answer_done()
            self.transact(False, (starts.end, attempt.run))
            return self.begin_again(attempt)
        return True

    def begin_again(self, attempt: Attempt) -> bool:
        """begin() for a job that is known to have had a start."""
        if self.taken_down(attempt):
            return False
        self.transact(False, (starts.begin, attempt))
        return True

    def turn_over(self, done: list, coming: list) -> list[int]:
        """End the starts of jobs that are done, each an (attempt, outcome), and write those of attempts to come, in one
        transaction; answer_done() is to follow. The runs of those to come that a dead worker had in hand before us."""
        def write() -> list[int]:
            with self.store.transaction(durable=False):
                if done:
                    starts.end(self.store, *(attempt.run for attempt, _ in done))
                    starts.forget(self.store, *(attempt.identity for attempt, _ in done))
                if not coming:
                    return []
                starts.begin(self.store, *coming)
                return starts.suspects(self.store, range(coming[0].run, coming[-1].run + 1))
        found = self.persist(write)
        self.unanswered += done
        return found

    def answer_done(self) -> None:
        """Answer the jobs whose starts turn_over() has ended, and tell of them."""
        done, self.unanswered = self.unanswered, []
        for attempt, outcome in done:
            self.acknowledge(attempt, outcome, True)
        if done:
            done[0][0].assigned.worker.send()
            self.tell(*(self.event("done", attempt, attempt.before + 1, outcome) for attempt, outcome in done))
            self.brake.done()

    def taken_down(self, attempt: Attempt) -> bool:
        """Count earlier starts of this job whose owner is dead (rule 6); True where that was the last of it."""
        past = self.persist(lambda: starts.past(self.store, attempt.identity))
        if past is None:
            return False
        orphans.end_orphans(self.store, past.runs)
        attempt.before += past.attempts
        error = HUNG if past.hung and not past.lost else LOST
        reason = "hung" if past.hung and not past.lost else "lost"
        if past.released >= MAX_RELEASES:
            reason, error = "lost", f"released {past.released} times: each time its worker was told to stop"
        elif not past.attempts:
            return False
        elif attempt.before < self.settings.tries and not attempt.waited:
            self.emit("retry", attempt, attempt.before, Outcome(), reason, error)
            return False
        outcome = Outcome(stderr=b"")
        if attempt.waited:
            self.answer(attempt, outcome, "drop", reason, error)
        else:
            self.set_aside(attempt, outcome, attempt.before, reason, error)
        return True

    def mark_released(self) -> None:
        """What ends this worker from now on is a release, no attempt (rule 7)."""
        try:
            with self.store.patience(1.0):
                starts.mark(self.store, self.store.process, "released")
        except Unavailable as error:
            warn(f"{error}: what ends this job now will count as an attempt")

    def too_large(self, attempt: Attempt) -> None:
        """Quarantine a payload that no worker takes, here even with --via: its file is here (rule 10)."""
        error = f"payload of {attempt.spool.size} bytes: more than {job.MAX_PAYLOAD >> 20} MiB"
        if attempt.waited:
            self.answer(attempt, Outcome(), "drop", "rejected", error)
            return
        values = self.death(attempt, Outcome(), attempt.before, "rejected", error)
        values["payload_file"] = attempt.spool.path
        self.persist(attempt.spool.keep)
        self.transact(True, (jobs.set_aside, values), (starts.forget, attempt.identity))
        self.acknowledge(attempt, Outcome(), False)
        self.emit("dead", attempt, attempt.before, Outcome(), "rejected", error)

    # ---- after it

    def settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """See to what becomes of the job, then answer it, then print its event (rules 2 to 4)."""
        verdict, reason, error = judge(outcome, self.settings.exits, self.settings.timeout)
        self.unfit.over()
        mark = None if verdict == "done" else self.persist(lambda: starts.marked(self.store, attempt.run))
        if mark == "hung":
            verdict, reason, error = "fail", "hung", HUNG
        elif mark == "released" and not self.control.stopping:
            self.persist(lambda: starts.give_back(self.store, self.store.process, attempt.run))
            self.emit("release", attempt, attempt.before, outcome, None, "released by gm-reap")
            attempt.assigned.worker.release()
            return
        attempts = attempt.before + 1
        if verdict == "done":
            self.answer(attempt, outcome, "done", None, None)
            self.brake.done()
        elif verdict == "drop" or attempt.waited:
            self.answer(attempt, outcome, "drop", reason, error)
        elif verdict == "dead" or attempts >= self.settings.tries:
            self.set_aside(attempt, outcome, attempts, reason, error)
        else:
            self.retry(attempt, outcome, attempts, reason, error)
        if verdict in ("fail", "retry"):
            self.pause(attempt, self.brake.failed(attempt.key), error)

    def pause(self, attempt: Attempt, seconds: float, why: str | None) -> None:
        """The brake: take no job for so long, and let gm-status show it."""
        if not seconds:
            return
        attempt.assigned.worker.drain(5.0)   # its answer does not wait for us
        warn(f"{self.function_name()}: {self.settings.brake} different jobs failed in a row: pausing {seconds:g} s")
        self.before_pause()
        self.show_pause(time.time() + seconds, f"{self.settings.brake} different jobs failed in a row: {why}")
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self.over():
            self.control.wait(until - time.monotonic())
        self.show_pause(None, None)

    def show_pause(self, until: float | None, why: str | None) -> None:
        try:
            with self.store.transaction(durable=False):
                self.store.execute("UPDATE process SET paused_until = ?, paused_why = ? WHERE id = ?",
                                   (until, why, self.store.process))
        except Unavailable as error:
            warn(str(error))

    def answer(self, attempt: Attempt, outcome: Outcome, event: str, reason, error) -> None:
        """The job ends here: its counts, then the server's copy, go."""
        self.transact(False, (starts.end, attempt.run), (starts.forget, attempt.identity))
        self.acknowledge(attempt, outcome, event == "done", error)
        attempt.assigned.worker.send()
        self.emit(event, attempt, attempt.before + 1, outcome, reason, error)

    def retry(self, attempt: Attempt, outcome: Outcome, attempts: int, reason, error) -> None:
        """To the end of the queue again (rule 2): at once, or by way of the file."""
        envelope, assigned = attempt.envelope, attempt.assigned
        envelope.key, envelope.unique, envelope.attempts = attempt.key, attempt.unique, attempts
        envelope.first_failed = envelope.first_failed or int(time.time())
        if outcome.delay is None:
            delay = verdict.delay(attempts, self.settings.delay, self.settings.max_delay)
        else:
            delay = min(outcome.delay, self.settings.max_delay)   # further off would be taken for a stepped clock
        ends = ((starts.end, attempt.run), (starts.forget, attempt.identity))
        sent = not delay and self.send(attempt, assigned.function, job.wrap(envelope, attempt.data), "attempt", attempts)
        if not sent:
            values = self.death(attempt, outcome, attempts, reason, error)
            values.update(state="delayed", due=time.time() + delay)
            ends = ((jobs.set_aside, values), *ends)
        self.transact(not sent, *ends)
        self.acknowledge(attempt, outcome, False, error)
        self.emit("retry", attempt, attempts, outcome, reason, error, delay)

    def send(self, attempt: Attempt, function: bytes, data: bytes, *step: object) -> bool:
        """Submit a step of the job where it came from; False where the server would not have it."""
        unique = job.wire_unique(function, attempt.key, *step)
        try:
            attempt.assigned.resubmit(function, unique, data, attempt.envelope.priority)
            return True
        except (Refused, ServerLost) as error:
            warn(f"{attempt.handle}: {error}")
            return False

    def set_aside(self, attempt: Attempt, outcome: Outcome, attempts: int, reason: str, error: str) -> None:
        """Quarantine (rule 3): into the file, or as a job for a gm-collect elsewhere."""
        values = self.death(attempt, outcome, attempts, reason, error)
        ends = ((starts.end, attempt.run), (starts.forget, attempt.identity))
        via = self.settings.via
        if via is not None:
            dead = dump(jobs.portable(values))
            if len(dead) > job.MAX_PAYLOAD:
                dead = dump(jobs.portable(values, coded=True))   # JSON's escapes may be six times the payload
            while not self.send(attempt, via, dead, "via", attempts, attempt.envelope.requeues):
                if attempt.assigned.lost:
                    self.transact(False, (starts.end, attempt.run))
                    return   # the server hands it out again
                self.control.wait(self.trouble.say(f"{via.decode('utf-8', 'replace')}: cannot be queued: trying again"))
                if self.control.stopping:
                    raise Stopped
            self.transact(False, *ends)
        else:
            self.transact(True, (jobs.set_aside, values), *ends)
        self.acknowledge(attempt, outcome, False, error)
        self.emit("dead", attempt, attempts, outcome, reason, error)

    def death(self, attempt: Attempt, outcome: Outcome, attempts: int, reason: str, error: str) -> dict:
        """The row of a failure."""
        envelope, now, function = attempt.envelope, int(time.time()), attempt.assigned.function
        return jobs.row(
            key=attempt.key, function=function, unique_=attempt.unique, data=attempt.data, priority=envelope.priority,
            reason=reason, error=error, stderr=outcome.stderr.decode("utf-8", "replace"), exit=outcome.exit,
            signal=outcome.signal, attempts=attempts, requeues=envelope.requeues,
            first_failed=envelope.first_failed or now, last_failed=now, servers=self.settings.server_list,
            server=attempt.server, handle=attempt.handle, fingerprint=fingerprint.fingerprint(function, reason, error))

    def acknowledge(self, attempt: Attempt, outcome: Outcome, done: bool, error: str | None = None) -> None:
        """Answer the server, which deletes its copy: whatever must survive is durable by now.

        Who waits for a failure is told the end of stderr, or where there is none (a verdict in pipe mode) the error.
        """
        try:
            if done:
                attempt.assigned.complete(outcome.stdout)
            else:
                said = outcome.stderr or (error or "").encode("utf-8", "replace")
                if said:
                    attempt.assigned.warning(said)
                attempt.assigned.fail()
        except ServerLost as error:
            warn(f"{attempt.handle}: {error}: it will be seen again")

    def give_back(self, attempt: Attempt, why: str) -> float:
        """The worker's own fault: the job goes back uncounted. The seconds to pause now, or CannotRun, as of unfit_for()."""
        self.transact(False, (starts.end, attempt.run))
        self.emit("release", attempt, attempt.before, Outcome(), None, why)
        attempt.assigned.worker.release()
        return self.unfit_for(why)

    def unfit_for(self, why: str) -> float:
        """The seconds to pause, COMMAND not being fit to run. Raises CannotRun where nobody would mend it meanwhile: with
        --until-empty, when that did not help twice."""
        if self.settings.until_empty and self.unfit.times == 2:
            raise CannotRun(f"{why}: for the third time: ending, the jobs stay in the queue")
        return self.unfit.say(f"{why}: pausing")

    def emit(self, event: str, attempt: Attempt, attempts: int, outcome: Outcome, reason, error, delay=None) -> None:
        """An event to the parent, which prints it; a failure also as a line on stderr."""
        self.tell(self.event(event, attempt, attempts, outcome, reason, error))
        if event != "done":
            then = {"retry": "tried again" + (f" in {delay:.3g} s" if delay else ""), "dead": "quarantined",
                    "drop": "its client is told" if attempt.waited else "dropped", "release": "given back"}[event]
            number = attempts + (event == "release")   # the attempt that is given back does not count
            warn(f"{self.function_name()}: {attempt.handle}: attempt {number} of {self.settings.tries}: {error}: {then}")

    @staticmethod
    def event(event: str, attempt: Attempt, attempts: int, outcome: Outcome, reason=None, error=None) -> bytes:
        """An event as its line."""
        found: dict = {"event": event, "time": iso(time.time())}
        job.put(found, "function", attempt.assigned.function)
        job.put(found, "unique", attempt.unique)
        found.update(handle=attempt.handle, attempts=attempts, duration=round(outcome.duration, 6), exit=outcome.exit,
                     signal=outcome.signal, reason=reason, error=error, worker=os.getpid(),
                     host=HOST, server=attempt.server, extra=outcome.extra)
        return dump(found)

    def tell(self, *events: bytes) -> None:
        """Pass events on to the parent."""
        data = b"".join(events)
        try:
            while data:
                data = data[os.write(self.events_fd, data):]
        except BrokenPipeError:
            pass   # the parent is dead; the loop sees that

    def function_name(self) -> str:
        return self.settings.function.decode("utf-8", "replace")

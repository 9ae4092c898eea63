"""What becomes of a job: done, retried, held, set aside, dropped or given back. Durable first, then answered.

gm-delivery(7), rules 2 to 8.
"""

from __future__ import annotations

import copy
import time

from libgm import job, wire
from libgm.errors import CannotRun, Unavailable
from libgm.gearman.connection import Refused, ServerLost
from libgm.quarantine import fingerprint, jobs, starts
from libgm.quarantine.file import Store
from libgm.shell.lines import dump
from libgm.shell.messages import warn
from libgm.shell.signals import Control, Stopped
from libgm.shell.trouble import Trouble
from libgm.worker import orphans, verdict
from libgm.worker.attempt import Attempt
from libgm.worker.brake import Brake
from libgm.worker.outcome import Outcome
from libgm.worker.report import Reporter

LOST, HUNG = "its worker died with it", "hung: ended by gm-reap"
MAX_RELEASES = 10      # of one job, before it is taken for the reason of the signals
CAREFUL_JOBS, CAREFUL = 10, 60.0   # jobs, or seconds, for which a worker is careful after a machine went down
GIVE_UP = 3            # tries, with --until-empty, of what does not mend itself


class Settler:
    """Where a worker takes its successes and failures. store: set once it is open."""

    store: Store

    def __init__(self, settings, control: Control, reporter: Reporter):
        self.settings, self.control, self.reporter = settings, control, reporter
        self.brake = Brake(settings)
        self.trouble, self.unfit = Trouble(), Trouble()
        self.settled: list[int] = []   # runs whose failures are written and answered: their starts are to go
        self.careful = False           # starts are on disk before their jobs begin
        self.careful_until = 0.0       # time.monotonic()

    def take_care(self) -> None:
        """Be careful for a while where the machine went down with a worker (rule 6): a job may have done that."""
        self.careful = self.persist(lambda: starts.careful(self.store))
        self.careful_until = time.monotonic() + CAREFUL

    def end_care(self, runs: int) -> None:
        """After so many runs of this worker: the machine has not gone down again."""
        if self.careful and (runs >= CAREFUL_JOBS or time.monotonic() >= self.careful_until):
            self.careful = False
            self.persist(lambda: starts.mark_seen(self.store))

    def persist(self, write):
        """Call write until the file takes it: a job is not answered before. Raises Stopped when told to end meanwhile, and
        with --until-empty Unavailable, where nobody would mend it."""
        return self.trouble.outlast(write, self.control, retires=True, tries=GIVE_UP if self.settings.until_empty else None)

    def transact(self, durable: bool, *writes) -> None:
        """Run writes, each a (function, *arguments), in one transaction, as persist() does."""
        def write():
            with self.store.transaction(durable):
                for function, *arguments in writes:
                    function(self.store, *arguments)
        self.persist(write)

    # ---- before a run

    def turn_over(self, done: list, coming: list) -> list[int]:
        """Write in one transaction that jobs are done, each an (attempt, outcome), and the starts of attempts to come; then answer
        those that are done. The runs of those to come that another worker had in hand before."""
        def write() -> list[int]:
            with self.store.transaction(durable=self.careful and bool(coming)):
                starts.end(self.store, *self.settled, *(attempt.run for attempt, _ in done))
                if done:
                    starts.forget(self.store, *(attempt.identity for attempt, _ in done))
                wait = self.brake.turn_over(self.store, bool(done), bool(coming))
                if not coming:
                    return []
                coming[0].start_at = time.monotonic() + wait if wait else 0.0
                starts.begin(self.store, *coming)
                return starts.suspects(self.store, range(coming[0].run, coming[-1].run + 1))
        found = self.persist(write)
        self.settled.clear()
        for attempt, outcome in done:
            self.acknowledge(attempt, outcome, True)
        if done:
            self.reporter.tell(*(self.reporter.event("done", attempt, attempt.before + 1, outcome) for attempt, outcome in done))
        return found

    def look_back(self, attempt: Attempt) -> bool:
        """Count earlier starts of this job whose worker is dead (rule 6); False where that is the last of it."""
        past = self.persist(lambda: starts.past(self.store, attempt.identity))
        attempt.lost = bool(past and past.attempts)
        if past is None:
            return True
        orphans.end_orphans(self.store, past.runs)
        if past.next is not None and self.send_again(attempt, past.next):
            return False
        if past.settled:
            attempt.header.key = wire.new_key()
        elif past.key and not attempt.known:
            attempt.header.key = past.key
        attempt.before += past.attempts
        reason, error = ("hung", HUNG) if past.hung and not past.lost else ("lost", LOST)
        if past.released >= MAX_RELEASES:
            reason, error = "lost", f"released {past.released} times: each time its worker was told to stop"
        elif not past.attempts:
            return True
        elif attempt.before < self.settings.tries and not attempt.waited:
            self.reporter.emit("retry", attempt, attempt.before, Outcome(), reason, error)
            return True
        if attempt.waited:
            self.drop(attempt, Outcome(), reason, error)
        else:
            self.set_aside(attempt, Outcome(), attempt.before, reason, error)
        return False

    def send_again(self, attempt: Attempt, unique: bytes) -> bool:
        """A dead worker was about to send the job's retry under that wire unique: send that very one; whether the server took
        it."""
        found = wire.parse(attempt.assigned.function, unique)
        header = found[1] if found else attempt.header
        if not self.submit(attempt, attempt.assigned.function, unique, attempt.assigned.data, header.priority):
            return False
        self.transact(False, (starts.forget, attempt.identity))
        self.acknowledge(attempt, Outcome(), False, LOST)
        self.reporter.emit("retry", attempt, header.attempts, Outcome(), "lost", f"{LOST}, while it was sent again")
        return True

    def end_starts(self, attempts) -> None:
        """The starts of attempts that were not begun go, and those of failures that are answered."""
        runs = [*self.settled, *(attempt.run for attempt in attempts)]
        if runs:
            self.transact(False, (starts.end, *runs))
            self.settled.clear()

    def mark_released(self) -> None:
        """What ends this worker from now on is a release, no attempt (rule 7)."""
        try:
            with self.store.patience(1.0):
                starts.mark(self.store, self.store.process, "released")
        except Unavailable as error:
            warn(f"{error}: if this job is ended now, that counts as an attempt")

    def too_large(self, attempt: Attempt) -> None:
        """Quarantine a payload that no worker takes, here even with --via: its file is here (rule 10)."""
        error = f"payload of {attempt.spool.size} bytes: more than {job.MAX_PAYLOAD >> 20} MiB"
        if attempt.waited:
            self.drop(attempt, Outcome(), "rejected", error)
            return
        attempt.header.key = attempt.header.key or wire.new_key()
        self.persist(attempt.spool.keep)
        values = self.row(attempt, Outcome(), attempt.before, "rejected", error)
        values.update(payload_file=attempt.spool.path, payload_digest=attempt.spool.digest)
        self.transact(True, (jobs.set_aside, values), (starts.forget, attempt.identity))
        self.acknowledge(attempt, Outcome(), False)
        self.reporter.emit("dead", attempt, attempt.before, Outcome(), "rejected", error)

    # ---- after it

    def settle(self, attempt: Attempt, outcome: Outcome) -> bool:
        """See to what becomes of a job that was not done, then answer it, then tell of it; False where it is to go back."""
        judged, reason, error = verdict.judge(outcome, self.settings.exits, self.settings.timeout)
        mark = self.persist(lambda: starts.marked(self.store, attempt.run))
        if mark == "hung":
            judged, reason, error = "fail", "hung", HUNG
        elif mark == "released" and not self.control.stopping:
            self.persist(lambda: starts.give_back(self.store, self.store.process, attempt.run))
            self.reporter.emit("release", attempt, attempt.before, outcome, None, "released by gm-reap")
            return False
        hold = None
        if judged in ("fail", "retry") and mark != "hung":
            hold = self.persist(lambda: self.brake.failed(self.store, attempt.header, error))
        attempts = attempt.before + 1
        if judged == "drop" or attempt.waited:
            self.drop(attempt, outcome, reason, error)
        elif hold is not None:
            self.hold(attempt, outcome, hold, reason, error)
        elif judged == "dead" or attempts >= self.settings.tries:
            self.set_aside(attempt, outcome, attempts, reason, error)
        else:
            self.retry(attempt, outcome, attempts, reason, error)
        return True

    def drop(self, attempt: Attempt, outcome: Outcome, reason, error) -> None:
        """The job ends here: its counts, then the server's copy, go."""
        self.transact(False, (starts.end, attempt.run), (starts.forget, attempt.identity))
        self.acknowledge(attempt, outcome, False, error)
        self.reporter.emit("drop", attempt, attempt.before + 1, outcome, reason, error)

    def retry(self, attempt: Attempt, outcome: Outcome, attempts: int, reason, error) -> None:
        """To the end of the queue again (rule 2): at once, or by way of the file."""
        if outcome.delay is None:
            delay = verdict.delay(attempts, self.settings.delay, self.settings.max_delay)
        else:
            delay = min(outcome.delay, self.settings.max_delay)   # further off would be taken for a stepped clock
        if delay or not self.resend(attempt, attempts):
            values = self.row(attempt, outcome, attempts, reason, error)
            values.update(state="delayed", due=time.time() + delay)
            self.write(attempt, values)
        self.acknowledge(attempt, outcome, False, error)
        self.reporter.emit("retry", attempt, attempts, outcome, reason, error, delay)

    def resend(self, attempt: Attempt, attempts: int) -> bool:
        """Submit the job again where it came from; False where the server would not have it."""
        header, assigned = copy.copy(attempt.header), attempt.assigned
        header.attempts, header.sends = attempts, wire.next_sends(header.sends)
        header.first_failed = header.first_failed or int(time.time())
        unique, data = wire.pack(assigned.function, attempt.unique, header, attempt.data)
        self.persist(lambda: starts.will_send(self.store, attempt.run, unique))
        if not self.submit(attempt, assigned.function, unique, data, header.priority):
            return False
        self.transact(False, (starts.end, attempt.run), (starts.forget, attempt.identity))
        return True

    def hold(self, attempt: Attempt, outcome: Outcome, delay: float, reason, error) -> None:
        """The failure is put down to an outage: it does not count, and the job waits (rule 8)."""
        values, now = self.row(attempt, outcome, attempt.before, reason, error), time.time()
        values.update(state="delayed", due=now + delay, held=now, holds=attempt.header.holds + 1)
        self.write(attempt, values)
        self.acknowledge(attempt, outcome, False, error)
        self.reporter.emit("hold", attempt, attempt.before, outcome, reason, error, delay)

    def set_aside(self, attempt: Attempt, outcome: Outcome, attempts: int, reason: str, error: str) -> None:
        """Quarantine (rule 3): into the file, or as a job for a gm-collect elsewhere."""
        values = self.row(attempt, outcome, attempts, reason, error)
        if self.settings.via is None:
            self.write(attempt, values)
        elif not self.send_via(attempt, self.settings.via, values):
            return
        self.acknowledge(attempt, outcome, False, error)
        self.reporter.emit("dead", attempt, attempts, outcome, reason, error)

    def write(self, attempt: Attempt, values: dict) -> None:
        """Write the row of a failure, and that its start is settled."""
        self.transact(True, (jobs.set_aside, values), (starts.settle, attempt.run), (starts.forget, attempt.identity))
        self.settled.append(attempt.run)

    def send_via(self, attempt: Attempt, via: bytes, values: dict) -> bool:
        """Submit a dead job's record for a gm-collect; False where the server is lost, and will hand the job out again."""
        dead = dump(jobs.portable(values))
        if len(dead) > job.MAX_PAYLOAD:
            dead = dump(jobs.portable(values, coded=True))   # JSON's escapes may be six times the payload
        unique, dead = wire.pack(via, attempt.unique, wire.Header(key=wire.new_key(), priority=attempt.header.priority), dead)
        while not self.submit(attempt, via, unique, dead, attempt.header.priority):
            if attempt.assigned.lost:
                self.transact(False, (starts.end, attempt.run))
                return False
            self.control.wait(self.trouble.say(f"{via.decode('utf-8', 'replace')}: cannot be queued: trying again"))
            if self.control.stopping:
                raise Stopped
        self.transact(False, (starts.end, attempt.run), (starts.forget, attempt.identity))
        return True

    def submit(self, attempt: Attempt, function: bytes, unique: bytes, data: bytes, priority: str) -> bool:
        """Submit a job where an attempt came from; False where the server would not have it."""
        try:
            attempt.assigned.resubmit(function, unique, data, priority)
            return True
        except (Refused, ServerLost) as error:
            warn(f"{attempt.handle}: {error}")
            return False

    def row(self, attempt: Attempt, outcome: Outcome, attempts: int, reason: str, error: str) -> dict:
        """The row of a failure."""
        header, now, function = attempt.header, int(time.time()), attempt.assigned.function
        return jobs.row(
            key=wire.key_text(header.key), function=function, unique_=attempt.unique, data=attempt.data,
            priority=header.priority, reason=reason, error=error, stderr=outcome.stderr.decode("utf-8", "replace"),
            exit=outcome.exit, signal=outcome.signal, attempts=attempts, requeues=header.requeues, sends=header.sends,
            holds=header.holds, known_bad=int(header.known_bad), first_failed=header.first_failed or now, last_failed=now,
            servers=self.settings.server_list, server=attempt.server, handle=attempt.handle,
            fingerprint=fingerprint.fingerprint(function, reason, error))

    def acknowledge(self, attempt: Attempt, outcome: Outcome, done: bool, error: str | None = None) -> None:
        """Answer the server, which deletes its copy: what must survive is durable by now.

        A client that waits is told the end of stderr, or where there is none (a verdict in pipe mode) the error.
        """
        try:
            if done:
                attempt.assigned.complete(outcome.stdout)
            else:
                said = outcome.stderr or (error or "").encode("utf-8", "replace")
                if said:
                    attempt.assigned.warning(said)
                attempt.assigned.fail()
        except ServerLost as lost:
            warn(f"{attempt.handle}: {lost}: the server will hand the job out again")

    # ---- given back

    def give_back(self, attempt: Attempt, why: str) -> float:
        """The worker's own fault: the job goes back uncounted. The seconds to pause now, or CannotRun, as of pause_for()."""
        self.transact(False, (starts.end, attempt.run))
        self.reporter.emit("release", attempt, attempt.before, Outcome(), None, why)
        return self.pause_for(why)

    def pause_for(self, why: str) -> float:
        """The seconds to pause, COMMAND not being fit to run. Raises CannotRun where nobody would mend it meanwhile: with
        --until-empty, when that did not help twice."""
        if self.settings.until_empty and self.unfit.times + 1 >= GIVE_UP:
            raise CannotRun(f"{why}: for the third time: ending, the jobs stay in the queue")
        return self.unfit.say(f"{why}: pausing")

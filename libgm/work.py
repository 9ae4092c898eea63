"""A worker: takes one job at a time, runs it, and sees to what becomes of it before it answers (DESIGN, rules 1 to 9)."""

from __future__ import annotations

import os
import random
import select
import signal
import time

from . import job, policy, quarantine, reap, starts
from .cli import warn
from .errors import CannotRun, Error, Unavailable
from .lines import dump
from .runner import Outcome, run
from .store import Store
from .units import iso
from .serve import Worker
from .wire import Refused, ServerLost

RETIRED, EMPTY = 0, 10     # exit statuses of a worker: to be replaced; its queue is empty (--until-empty)
PAUSE_MAX = 30.0           # seconds between tries of what a person must mend (a full disk, a missing command)
HORIZON_SLACK = 60.0       # seconds beyond --max-delay before a due time is taken for a stepped clock
BIG = 1 << 20              # bytes: after a payload or result of this size a worker looks at its own memory
MEMORY = 26 << 10          # kB of resident memory over which it has itself replaced


class Settings:
    """What gm-work was asked to do: one attribute per option, named as the option, in bytes, seconds and parsed forms."""

    def __init__(self, **values):
        self.__dict__.update(values)


class Stopped(Exception):
    """The worker is to end now; the job in hand, if any, goes back to its server uncounted."""


class Control:
    """Signals as flags: TERM finishes the job in hand within the grace, a second one stops it; HUP retires; so
    does the death of the parent, which shows as the end of the pipe parent_fd. interrupt: INT counts as TERM; a
    worker ignores it, since the terminal's reaches the parent too, which sends TERM."""

    def __init__(self, grace: float, parent_fd: int, interrupt: bool = False):
        self.grace, self.parent_fd = grace, parent_fd
        self.terms, self.retired, self.until = 0, False, None
        self.on_term = lambda: None
        self.fd, wakeup = os.pipe()
        for fd in (self.fd, wakeup):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, self._term)
        signal.signal(signal.SIGHUP, self._retire)
        signal.signal(signal.SIGINT, self._term if interrupt else signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _term(self, *_) -> None:
        self.terms += 1

    def _retire(self, *_) -> None:
        self.retired = True

    def happened(self) -> None:
        """Act on what woke us: read the wake-up pipe; at the first TERM say so before anything else."""
        try:
            os.read(self.fd, 512)
        except BlockingIOError:
            pass
        if self.terms and self.until is None:
            self.until = time.monotonic() + self.grace
            self.on_term()
        if self.terms > 1:
            self.until = min(self.until, time.monotonic())

    def deadline(self) -> float | None:
        return self.until

    @property
    def stopping(self) -> bool:
        return self.terms > 0

    def wait(self, seconds: float) -> None:
        """Sleep, but wake for a signal and for the parent's death."""
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        poll.register(self.parent_fd, 0)
        for fd, _ in poll.poll(int(seconds * 1000)):
            if fd == self.parent_fd:
                self.retired = True
        self.happened()


def release_due(store: Store, settings: Settings) -> int:
    """Submit the delayed retries of workers with our server list that are due; how many. Claim, submit, remove."""
    from .submit import Submitter
    now = time.time()
    claimed = quarantine.claim_due(store, settings.server_list, now, now + settings.max_delay + HORIZON_SLACK)
    if not claimed:
        return 0
    accepted: list = []
    refused: list = []
    submitter = Submitter(settings.servers, on_accept=lambda found, handle, server: accepted.append(found),
                          on_refuse=lambda found, error: refused.append(error))
    lost = None
    try:
        for found in claimed:
            function, unique, data, priority = resubmission(found)
            submitter.submit(function, unique, data, priority, found)
        submitter.finish()
    except ServerLost as error:
        lost = error
    quarantine.remove_released(store, accepted)
    quarantine.unclaim(store, [found["id"] for found in claimed])
    if lost or refused:
        raise lost or refused[0]
    return len(accepted)


def resubmission(found: dict) -> tuple[bytes, bytes, bytes, str]:
    """(function, wire unique, enveloped payload, priority) of a delayed retry's row."""
    from .store import raw
    function, key = raw(found["function"]), found["key"]
    envelope = job.Envelope(key, raw(found["unique_"]), found["attempts"], found["requeues"], found["first_failed"],
                            found["priority"])
    return (function, job.wire_unique(function, key, "attempt", found["attempts"]),
            job.wrap(envelope, raw(found["data"])), found["priority"])


def run_releaser(settings: Settings, parent_fd: int) -> int:
    """The process that releases delayed retries on time while the workers are busy; ends with the parent."""
    control = Control(0, parent_fd)
    store = None
    trouble = Trouble()
    while not (control.stopping or control.retired):
        try:
            store = store or Store(settings.quarantine, create=True)
            while release_due(store, settings):
                pass
            trouble.over()
            pause = 1.0
        except Error as error:
            pause = trouble.say(f"delayed retries: {error}")
        control.wait(pause)
    if store:
        store.leave()
        store.close()
    return RETIRED


class Trouble:
    """A growing pause for trouble that lasts, said once until it changes or is over."""

    def __init__(self):
        self.text, self.seconds = None, 0.5

    def say(self, text: str) -> float:
        """The seconds to pause now, jittered."""
        if text != self.text:
            warn(text)
        self.text, self.seconds = text, min(PAUSE_MAX, self.seconds * 2)
        return self.seconds * random.uniform(0.8, 1.2)

    def over(self) -> None:
        if self.text is not None:
            warn("going on")
        self.__init__()


class Attempt:
    """A job in hand: what came over the wire, and what it is (rule 5)."""

    def __init__(self, assigned, settings: Settings):
        self.assigned = assigned
        self.envelope, self.data = job.unwrap(assigned.data)
        self.envelope = self.envelope or job.Envelope()
        self.identity = job.identity(assigned.function, assigned.unique, assigned.data)
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
            self.envelope.key = job.new_key(self.server.encode(), self.assigned.handle, self.unique, self.data)
        return self.envelope.key


class WorkerProcess:
    """The loop of one worker process, from its own connections to its exit status."""

    def __init__(self, settings: Settings, events_fd: int, parent_fd: int, brake: memoryview, name: str):
        self.settings, self.events_fd, self.name = settings, events_fd, name
        self.control = Control(settings.grace, parent_fd)
        self.brake = policy.Brake(settings.brake, brake)
        self.trouble = Trouble()
        self.runs = 0
        self.client_id = f"gm-work:{os.uname().nodename}:{os.getpid()}".encode()
        self.base_env = {**os.environ, "GM_FUNCTION": os.fsdecode(settings.function),
                         "GM_SERVERS": settings.server_list, "GM_QUARANTINE": os.path.realpath(settings.quarantine)}
        age = settings.max_age and settings.max_age * random.uniform(0.8, 1.2)
        self.expires = time.monotonic() + age if age else None

    # ---- life

    def main(self) -> int:
        """Work until told to stop, too old, or (--until-empty) out of work; an exit status."""
        try:
            self.store = self.persist(self.open_store)
            self.worker = Worker(self.settings.servers, self.settings.function, self.client_id)
            try:
                if self.settings.until_empty:
                    self.worker.connect()
                return self.loop()
            finally:
                self.worker.close()
                self.store.leave()
                self.store.close()
        except Stopped:
            return RETIRED

    def open_store(self) -> Store:
        store = Store(self.settings.quarantine, create=True)
        store.join("gm-work", self.settings.function, self.settings.server_list)
        starts.sweep(store)
        return store

    def loop(self) -> int:
        while True:
            self.control.happened()
            if self.over():
                self.worker.drain(5.0)
                return RETIRED
            assigned = self.worker.next(self.next_wait(), (self.control.fd, self.control.parent_fd))
            self.report_servers()
            if assigned is not None:
                self.handle(Attempt(assigned, self.settings))
            elif self.parent_gone():
                self.control.retired = True
            elif self.settings.until_empty and self.worker.idle:
                if not self.release_now():
                    self.worker.drain(5.0)
                    return EMPTY

    def next_wait(self) -> float | None:
        """Seconds to wait for a job: 0 asks just once, None is for ever."""
        if self.settings.until_empty:
            return 0
        return None if self.expires is None else max(0.05, self.expires - time.monotonic())

    def over(self) -> bool:
        settings = self.settings
        return bool(self.control.stopping or self.control.retired or
                    (settings.max_jobs and self.runs >= settings.max_jobs) or
                    (self.expires is not None and time.monotonic() >= self.expires))

    def parent_gone(self) -> bool:
        poll = select.poll()
        poll.register(self.control.parent_fd, 0)
        return bool(poll.poll(0))

    def report_servers(self) -> None:
        for news in self.worker.problems():
            warn(str(news))

    def release_now(self) -> int:
        """--until-empty has no releaser beside it: retries that are due are to be had now."""
        try:
            return release_due(self.store, self.settings)
        except Error as error:
            warn(f"delayed retries: {error}")
            return 0

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

    # ---- one job

    def handle(self, attempt: Attempt) -> None:
        self.runs += 1
        if self.taken_down(attempt):
            return
        assigned = attempt.assigned
        self.persist(lambda: starts.begin(self.store, self.runs, attempt.identity, assigned.function, attempt.unique,
                                          attempt.handle, attempt.server, attempt.before + 1))
        self.control.on_term = self.mark_released
        try:
            outcome = self.run(attempt)
        except OSError as error:
            self.give_back(attempt, f"{self.settings.argv[0]}: cannot run: {(error.strerror or str(error)).lower()}")
            return
        finally:
            self.control.on_term = lambda: None
        if outcome.stopped:
            self.emit("release", attempt, attempt.before, outcome, None, "told to stop")
            raise Stopped
        self.settle(attempt, outcome)
        if len(assigned.data) + len(outcome.stdout) > BIG and resident() > MEMORY:
            self.control.retired = True

    def mark_released(self) -> None:
        """What ends this worker from now on is a release, no attempt (rule 7)."""
        try:
            starts.mark(self.store, self.store.process, "released", self.runs)
        except Unavailable as error:
            warn(str(error))

    def taken_down(self, attempt: Attempt) -> bool:
        """Count earlier starts of this job whose owner is dead (rule 6); True where that was the last of it."""
        past = self.persist(lambda: starts.past(self.store, attempt.identity))
        if past is None:
            return False
        reap.end_orphans(self.store, past.owners)
        attempt.before += past.attempts
        error = f"hung: ended by gm-reap" if past.hung and not past.lost else "its worker died with it"
        reason = "hung" if past.hung and not past.lost else "lost"
        if past.released > policy.MAX_RELEASES:
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

    def run(self, attempt: Attempt) -> Outcome:
        settings = self.settings
        env = {**self.base_env, "GM_UNIQUE": os.fsdecode(attempt.unique), "GM_HANDLE": attempt.handle,
               "GM_ATTEMPT": str(attempt.before + 1), "GM_JOB_SERVER": attempt.server,
               "GM_RUN": f"{self.store.process}.{self.runs}"}
        return run(settings.argv, env, attempt.data, settings.timeout, settings.grace, self.control)

    def settle(self, attempt: Attempt, outcome: Outcome) -> None:
        """See to what becomes of the job, then answer it, then print its event (rules 2 to 4)."""
        verdict, reason, error = policy.judge(outcome, self.settings.exits, self.settings.timeout)
        mark = outcome.signal and starts.marked(self.store, self.runs)
        if mark == "hung":
            verdict, reason, error = "fail", "hung", "hung: ended by gm-reap"
        elif mark == "released" and not self.control.stopping:
            self.emit("release", attempt, attempt.before, outcome, None, "released by gm-reap")
            self.worker.release()   # the start stays, as a release
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
            self.pause(self.brake.failed(attempt.key), error)

    def pause(self, seconds: float, why: str | None) -> None:
        """The brake: hold no job for so long, and let gm-status show it."""
        if not seconds:
            return
        warn(f"{self.function_name()}: {self.settings.brake} different jobs failed in a row: pausing {seconds:g} s")
        self.show_pause(time.time() + seconds, why)
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
        self.transact(False, (starts.end, self.runs), (starts.forget, attempt.identity))
        self.acknowledge(attempt, outcome, event == "done")
        self.emit(event, attempt, attempt.before + 1, outcome, reason, error)

    def retry(self, attempt: Attempt, outcome: Outcome, attempts: int, reason, error) -> None:
        """To the end of the queue again (rule 2): at once, or by way of the file."""
        envelope, assigned = attempt.envelope, attempt.assigned
        envelope.key, envelope.unique, envelope.attempts = attempt.key, attempt.unique, attempts
        envelope.first_failed = envelope.first_failed or int(time.time())
        delay = policy.delay(attempts, self.settings.delay, self.settings.max_delay)
        ends = ((starts.end, self.runs), (starts.forget, attempt.identity))
        sent = not delay and self.send(attempt, assigned.function, job.wrap(envelope, attempt.data), "attempt", attempts)
        if not sent:
            values = self.death(attempt, outcome, attempts, reason, error)
            values.update(state="delayed", due=time.time() + delay)
            ends = ((quarantine.set_aside, values), *ends)
        self.transact(not sent, *ends)
        self.acknowledge(attempt, outcome, False)
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
        ends = ((starts.end, self.runs), (starts.forget, attempt.identity))
        via = self.settings.via
        if via is not None:
            dead = dump(quarantine.portable(values))
            while not self.send(attempt, via, dead, "via", attempts, attempt.envelope.requeues):
                if attempt.assigned.lost:
                    return   # the server hands it out again; its start was ended below or counts
                self.control.wait(self.trouble.say(f"{via.decode('utf-8', 'replace')}: cannot be queued: trying again"))
                if self.control.stopping:
                    raise Stopped
            self.transact(False, *ends)
        else:
            self.transact(True, (quarantine.set_aside, values), *ends)
        self.acknowledge(attempt, outcome, False)
        self.emit("dead", attempt, attempts, outcome, reason, error)

    def death(self, attempt: Attempt, outcome: Outcome, attempts: int, reason: str, error: str) -> dict:
        """The row of a failure."""
        envelope, now, function = attempt.envelope, int(time.time()), attempt.assigned.function
        return quarantine.row(
            key=attempt.key, function=function, unique_=attempt.unique, data=attempt.data, priority=envelope.priority,
            reason=reason, error=error, stderr=outcome.stderr.decode("utf-8", "replace"), exit=outcome.exit,
            signal=outcome.signal, attempts=attempts, requeues=envelope.requeues,
            first_failed=envelope.first_failed or now, last_failed=now, servers=self.settings.server_list,
            server=attempt.server, handle=attempt.handle, fingerprint=policy.fingerprint(function, reason, error))

    def acknowledge(self, attempt: Attempt, outcome: Outcome, done: bool) -> None:
        """Answer the server, which deletes its copy: whatever must survive is durable by now."""
        try:
            if done:
                attempt.assigned.complete(outcome.stdout)
            else:
                if outcome.stderr:
                    attempt.assigned.warning(outcome.stderr)
                attempt.assigned.fail()
        except ServerLost as error:
            warn(f"{attempt.handle}: {error}: it will be seen again")

    def give_back(self, attempt: Attempt, why: str) -> None:
        """The worker's own fault: the job goes back uncounted, and the worker pauses."""
        self.transact(False, (starts.end, self.runs))
        self.emit("release", attempt, attempt.before, Outcome(), None, why)
        self.worker.release()
        self.control.wait(self.trouble.say(f"{why}: pausing"))

    def emit(self, event: str, attempt: Attempt, attempts: int, outcome: Outcome, reason, error, delay=None) -> None:
        """An event to the parent, which prints it; a failure also as a line on stderr."""
        found: dict = {"event": event, "time": iso(time.time())}
        job.put(found, "function", attempt.assigned.function)
        job.put(found, "unique", attempt.unique)
        found.update(handle=attempt.handle, attempts=attempts, duration=round(outcome.duration, 6), exit=outcome.exit,
                     signal=outcome.signal, reason=reason, error=error, worker=os.getpid(),
                     host=os.uname().nodename, server=attempt.server, extra=outcome.extra)
        line = dump(found)
        try:
            while line:
                line = line[os.write(self.events_fd, line):]
        except BrokenPipeError:
            pass   # the parent is dead; the loop sees that
        if event != "done":
            then = {"retry": "tried again" + (f" in {delay:.3g} s" if delay else ""), "dead": "quarantined",
                    "drop": "dropped", "release": "given back"}[event]
            warn(f"{self.function_name()}: {attempt.handle}: attempt {attempts} of {self.settings.tries}: "
                 f"{error}: {then}")

    def function_name(self) -> str:
        return self.settings.function.decode("utf-8", "replace")


def resident() -> int:
    """This process's resident memory in kB."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 10

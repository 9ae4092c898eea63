"""The loop of a worker: jobs are fetched, have their starts written, are given to COMMAND, and answered.

A job goes from the server's hands into worker.jobs (fetched), .ready (its start is written), command.given (the first of them is
the one that COMMAND is on), .done (its start is there still, and the server not told). Starts are ended and written for many
jobs in one transaction, while COMMAND runs. A failure is settled at once and alone.
"""

from __future__ import annotations

import collections
import time

from libgm.errors import Error
from libgm.gearman.worker import Worker
from libgm.quarantine import pauses, processes, starts
from libgm.shell.messages import warn
from libgm.shell.signals import Control, Stopped
from libgm.worker import orphans
from libgm.worker.attempt import Attempt
from libgm.worker.command import Command, Unfit
from libgm.worker.memory import outgrown
from libgm.worker.outcome import Outcome
from libgm.worker.pace import Pace
from libgm.worker.retries import release_due
from libgm.worker.settle import Settler
from libgm.worker.verdict import judge

RETIRED, EMPTY = 0, 10   # exit statuses of a worker: to be replaced; its queue is empty (--until-empty)
ASKED = 4 << 20          # bytes of payloads to ask for, by their mean size,
HELD = 16 << 20          # and to have in hand before no more are received
COMPANY = 0.002          # seconds that an answer waits for others, to be settled with them
LOOK = 1.0               # seconds between two looks at whether the function is paused,
LOOK_BRAKED = 0.25       # and at whether an outage is over, while a job waits for that
AGAIN = 0.25             # seconds before a suspect asks again whether it may run
CAREFUL_JOBS, CAREFUL = 10, 60.0   # jobs, or seconds, for which a worker is careful after a machine went down
BIG = 1 << 20            # bytes: after a payload or result of this size a worker looks at its own memory


class Loop:
    """The jobs in a worker's hand, from its servers to its command and back. expires: time.monotonic() of the worker's age."""

    def __init__(self, settings, control: Control, worker: Worker, settler: Settler, command: Command, pace: Pace,
                 expires: float | None):
        self.settings, self.control, self.worker, self.settler = settings, control, worker, settler
        self.command, self.pace, self.expires = command, pace, expires
        self.ready: collections.deque[Attempt] = collections.deque()
        self.suspects: collections.deque[Attempt] = collections.deque()   # a dead worker had these in hand
        self.done: list[tuple[Attempt, Outcome]] = []
        self.done_at = 0.0                 # time.monotonic() of the first of these
        self.alone: Attempt | None = None  # a suspect that runs, or is the next to run
        self.suspects_at = 0.0             # time.monotonic() when one may try to run
        self.number = self.runs = 0        # of the last start; how many were begun
        self.noted = 0                     # run that the file of locks says we are on
        self.full = False                  # so much is in hand that no more is received
        self.size = 0.0                    # mean bytes of a payload
        self.paused: pauses.Pause | None = None
        self.looked = 0.0                  # time.monotonic() of the last look at that
        self.careful_until = time.monotonic() + CAREFUL
        self.stopped = False               # the job in hand was told to end, for its release

    @property
    def store(self):
        return self.settler.store

    @property
    def window(self) -> int:
        """How many jobs to have in hand."""
        return 1 if self.settler.brake.outage or self.settler.careful else self.pace.window

    @property
    def next(self) -> Attempt | None:
        """The job that is begun next."""
        return self.ready[0] if self.ready else self.alone

    # ---- life

    def run(self) -> int:
        """Until told to end, too old, or (--until-empty) out of work; an exit status. Raises Stopped."""
        self.settler.careful = self.settler.persist(lambda: starts.careful(self.store))
        try:
            while True:
                if not self.command.given and (self.closing() or (self.over() and not self.next and not self.suspects)):
                    return self.wind_up(RETIRED)
                self.turn()
                if self.settings.until_empty and self.out_of_work():
                    return self.wind_up(EMPTY)
        finally:
            self.command.end()
            self.pace.on(None)

    def closing(self) -> bool:
        """Whether nothing more is to be begun."""
        return bool(self.control.stopping or self.control.retired or
                    (self.expires is not None and time.monotonic() >= self.expires))

    def over(self) -> bool:
        """Whether no more jobs are to be fetched."""
        return self.closing() or bool(self.settings.max_jobs and self.runs >= self.settings.max_jobs)

    def out_of_work(self) -> bool:
        if self.command.given or self.next or self.suspects or self.worker.jobs:
            return False
        if self.paused:
            return True
        if self.worker.down and not self.worker.connection_to_handler_map:
            raise self.worker.down_error()
        return self.worker.idle and not self.release_now()

    def release_now(self) -> int:
        """--until-empty has no releaser beside it: retries that are due are to be had now."""
        try:
            released = release_due(self.store, self.settings)
        except Error as error:
            warn(f"delayed retries: {error}")
            return 0
        if released:
            self.worker.ask_again()
        return released

    def wind_up(self, status: int) -> int:
        """Settle what is done, give the rest back, see the answers to their end, and let COMMAND clean up; status."""
        self.hand_back()
        self.worker.drain(5.0)
        self.settler.turn_over([], [])
        self.worker.close()
        self.command.finish()
        return status

    # ---- once round

    def turn(self) -> None:
        """Begin what can be begun, wait for something to happen, see to it."""
        self.look()
        try:
            self.command.start()
            self.feed()
            self.prepare()
            self.feed()
        except Unfit as error:
            self.unfit(error)
        self.worker.window = self.wanted()
        wake = {self.control.fd: 1, self.control.parent_fd: 1, **self.command.watch()}
        waiting = len(self.worker.jobs)
        woken = self.worker.attend(self.patience(), wake, not self.full)
        if self.full or len(self.worker.jobs) > waiting:
            self.full = self.held() >= HELD
        for news in self.worker.problems():
            warn(str(news))
        if self.control.fd in woken:
            self.control.happened()
        if self.control.parent_fd in woken:
            self.control.retired = True
        self.hear(woken)
        if self.done and self.settle_now():
            self.settle_done()

    def settle_now(self) -> bool:
        """Whether what is done waits for no more company: for jobs that are done soon, or for the starts of those that come."""
        if time.monotonic() - self.done_at > COMPANY or len(self.done) * 2 > self.window > 1:
            return True
        return not (self.command.given or self.ready or self.worker.asking())

    def look(self) -> None:
        """Give back what is not to be begun now, where the function is paused or its brake is on."""
        now, brake = time.monotonic(), self.settler.brake
        if now - self.looked >= LOOK or (self.waits_for_the_brake(now) and now - self.looked >= LOOK_BRAKED):
            self.looked = now
            self.paused = self.settler.persist(lambda: pauses.find(self.store, self.settings.function, time.time()))
            if brake.outage:
                self.settler.persist(lambda: brake.look(self.store))
                if not brake.outage and self.next:
                    self.next.start_at = 0.0
        waiting = len(self.ready) + len(self.worker.jobs) + bool(self.alone)
        if waiting and not self.command.given and (self.paused or (brake.outage and waiting > 1)):
            self.hand_back()

    def waits_for_the_brake(self, now: float) -> bool:
        return self.next is not None and self.next.start_at > now

    def wanted(self) -> int:
        """Jobs to have fetched or asked for: in whole handfuls, not one by one."""
        if not self.command.ready() or self.paused or self.over():
            return 0
        window = self.window
        free = window - len(self.ready) - len(self.command.given) - (len(self.suspects) >> 3)
        if free * 2 < window:
            return 0
        free = min(free, max(1, int(ASKED / max(self.size, 1.0))))
        if self.settings.max_jobs:
            free = min(free, self.settings.max_jobs - self.runs - len(self.ready) - len(self.suspects))
        return free

    def held(self) -> int:
        """Bytes of payloads in hand."""
        return sum(len(assigned.data) for assigned in self.worker.jobs if isinstance(assigned.data, bytes)) + \
            sum(len(attempt.data) for jobs in (self.ready, self.command.given, self.suspects) for attempt in jobs)

    def patience(self) -> float:
        """Seconds until something is due by the clock."""
        now = time.monotonic()
        due = [self.command.due(now), self.control.deadline() if self.command.given and not self.stopped else None]
        if self.done:
            due.append(self.done_at + COMPANY)
        if self.expires is not None and self.expires > now:   # after that it is the job in hand that is waited for
            due.append(self.expires)
        if self.waits_for_the_brake(now):
            due += [self.next.start_at, self.looked + LOOK_BRAKED]
        if self.paused:
            due.append(self.looked + LOOK)
        if self.suspects:
            due.append(self.suspects_at)
        return max(0.0, min((at for at in due if at is not None), default=now + 60) - now)

    # ---- to COMMAND

    def prepare(self) -> None:
        """Write the starts of what was fetched, once what is ready runs low; with the same transaction settle what is done."""
        fetched, command = self.worker.jobs, self.command
        if not fetched or not command.ready() or self.alone or self.paused or self.closing() or \
                2 * (len(self.ready) + len(command.given)) > self.window:
            return
        coming = []
        while fetched:
            self.number += 1
            attempt = Attempt(fetched.popleft(), self.number, self.settings.foreground)
            if attempt.spool is None:
                coming.append(attempt)
            else:
                self.settler.too_large(attempt)
        if not coming:
            return
        self.size += (sum(len(attempt.data) for attempt in coming) / len(coming) - self.size) * 0.3
        suspects = self.settle_done(coming)
        self.settler.end_starts(attempt for attempt in coming if attempt.run in suspects)
        for attempt in coming:
            (self.suspects if attempt.run in suspects else self.ready).append(attempt)

    def feed(self) -> None:
        """Give COMMAND what it may have, as far as it takes it. Raises Unfit."""
        command = self.command
        if not command.ready() or self.paused or self.closing() or (self.alone and command.given):
            return
        if self.suspects and not self.alone:
            self.choose_suspect()
        if self.waits_for_the_brake(time.monotonic()):
            return
        if self.alone and not self.ready:
            if not command.given:
                self.begin(self.alone)
            return
        room = command.room(1 if self.alone else self.settler.brake.ahead(self.window))
        lost = []
        while room > 0 and self.ready:
            attempt = self.ready.popleft()
            if attempt.assigned.lost:
                lost.append(attempt)   # its server hands it out again
                continue
            self.begin(attempt)
            room -= 1
        self.settler.end_starts(lost)
        command.flush()

    def begin(self, attempt: Attempt) -> None:
        """Give COMMAND a job. Raises Unfit."""
        if not self.command.given:
            self.note(attempt)
        self.runs += 1
        try:
            self.command.give(attempt)
        except Unfit:
            self.ready.appendleft(attempt)
            self.runs -= 1
            raise
        if attempt is self.alone:
            self.command.flush()

    def choose_suspect(self) -> None:
        """Let the first suspect be the next to run, alone: if it is a killer, it is the one that counts."""
        now, attempt = time.monotonic(), self.suspects[0]
        if now < self.suspects_at:
            return
        if attempt.lost is None and not self.settler.look_back(attempt):
            self.suspects.popleft()
            return
        if attempt.lost and not processes.try_suspect(self.store):   # another runs on this machine
            self.suspects_at = now + AGAIN
            self.suspects.rotate(-1)
            return
        self.suspects.popleft()
        self.settler.turn_over([], [attempt])
        self.alone = attempt

    def note(self, attempt: Attempt | None) -> None:
        """Write which job COMMAND is on from now on."""
        run = attempt.run if attempt else 0
        if run != self.noted:
            self.noted = run
            sync = attempt is not None and (attempt is self.alone or self.settler.careful)
            self.settler.persist(lambda: starts.note(self.store, run, sync))
            self.pace.on(time.monotonic() if attempt else None)

    # ---- from COMMAND

    def hear(self, woken: list[int]) -> None:
        """See to the jobs that have ended, and to a stop that cannot wait for the job in hand."""
        command, before = self.command, self.command.began
        try:
            ended = command.attend(woken)
        except Unfit as error:
            self.unfit(error)
            return
        if ended:
            self.pace.add(time.monotonic() - before, len(ended))
            if not self.ready:
                self.worker.window = self.wanted()
                self.worker.ask()   # the server takes as long to answer as the worker to clear up
            for attempt, outcome in ended:
                self.finish(attempt, outcome)
            if command.given or not self.ready:
                self.note(command.given[0] if command.given else None)
            if command.gone:
                self.hand_back()
        stop = self.control.deadline()
        if stop is not None and command.given and not self.stopped and time.monotonic() >= stop:
            self.stopped = True
            command.stop()

    def finish(self, attempt: Attempt, outcome: Outcome) -> None:
        """See to what becomes of a job that has ended. Raises Stopped where it was ended for our end."""
        if attempt is self.alone:
            self.alone = None
            if attempt.lost:
                processes.end_suspect(self.store)
        if outcome.forced:
            orphans.end_orphans(self.store, {(self.store.process, attempt.run), (self.store.process, starts.PIPE)})
        if outcome.stopped:
            self.settle_done()
            self.settler.reporter.emit("release", attempt, attempt.before, outcome, None, "told to stop")
            self.settler.end_starts([*self.command.given, *self.ready])
            self.worker.drain(1.0)
            raise Stopped
        if judge(outcome, self.settings.exits, self.settings.timeout)[0] == "done":
            self.settler.unfit.over()
            self.done_at = self.done_at if self.done else time.monotonic()
            self.done.append((attempt, outcome))
            if attempt.waited:
                self.settle_done()
        else:
            self.settle_done()
            self.note(attempt)   # what ends us now is its doing
            if not self.settler.settle(attempt, outcome):
                self.hand_back()
            self.worker.send()
            self.worker.ask_again()   # a server that had no job may have this one again
        self.watch_memory(len(attempt.data) + len(outcome.stdout), outcome.overflow)
        if self.settler.careful and (self.runs >= CAREFUL_JOBS or time.monotonic() >= self.careful_until):
            self.settler.careful = False
            self.settler.persist(lambda: starts.mark_seen(self.store))

    def watch_memory(self, size: int, overflow: bool) -> None:
        """After a job of so many bytes: memory that Python does not give back is given back by another worker."""
        if (size > BIG or overflow) and outgrown():
            self.control.retired = True

    def settle_done(self, coming: list[Attempt] | None = None) -> list[int]:
        """Settle what is done, with the starts of what comes next; the runs among those that are suspects."""
        done, self.done = self.done, []
        if not (done or coming):
            return []
        suspects = self.settler.turn_over(done, coming or [])
        self.worker.send()
        return suspects

    # ---- ends

    def hand_back(self) -> None:
        """Give back, uncounted, all that COMMAND is not on."""
        self.settle_done()
        rest = [*(self.command.take_back() if self.command.gone else []), *self.ready]
        self.settler.end_starts(rest + ([self.alone] if self.alone else []))
        self.ready.clear()
        if self.alone and self.alone.lost:
            processes.end_suspect(self.store)
        self.alone = None
        if rest or self.suspects or self.worker.asking():
            self.suspects.clear()
            self.worker.release()

    def unfit(self, error: Unfit) -> None:
        """COMMAND cannot run, or ended through no job's doing: what is in hand goes back uncounted, and the worker pauses."""
        self.settle_done()
        first = next(iter([*self.command.given, *self.ready]), None)
        pause = 0.0
        try:
            if error.tried:
                warn(f"{error}: starting it again")
            elif first:
                pause = self.settler.give_back(first, str(error))
            else:
                pause = self.settler.pause_for(str(error))
        finally:
            self.hand_back()
        self.note(None)
        self.command.start_at = time.monotonic() + pause

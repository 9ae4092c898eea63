"""The loop of a worker: jobs are fetched, have their starts written, are given to COMMAND, and answered.

A job goes from the server's hands into worker.jobs (fetched), hand.ready (its start is written), command.given (the first of them
is the one that COMMAND is on), hand.done (its start is there still, and the server not told). Starts are ended and written for
many jobs in one transaction, while COMMAND runs. A failure is settled at once and alone.
"""

from __future__ import annotations

import select
import time

from libgm.gearman.worker import Worker
from libgm.quarantine import pauses, starts
from libgm.shell.messages import warn
from libgm.shell.signals import Control, Stopped
from libgm.worker import orphans
from libgm.worker.attempt import Attempt
from libgm.worker.command import Command, Unfit
from libgm.worker.hand import COMPANY, Hand
from libgm.worker.memory import outgrown
from libgm.worker.outcome import Outcome
from libgm.worker.pace import Pace
from libgm.worker.settle import Settler
from libgm.worker.verdict import judge

ASKED = 4 << 20          # bytes of payloads to ask for, by their mean size,
HELD = 16 << 20          # and to have in hand before no more are received
LOOK = 1.0               # seconds between two looks at whether the function is paused,
LOOK_BRAKED = 0.25       # and at whether an outage is over, while a job waits for that
BIG = 1 << 20            # bytes: after a payload or result of this size a worker looks at its own memory


class Loop:
    """The jobs in a worker's hand, from its servers to its command and back. expires: time.monotonic() of the worker's age."""

    def __init__(self, settings, control: Control, worker: Worker, settler: Settler, command: Command, pace: Pace,
                 expires: float | None):
        self.settings, self.control, self.worker, self.settler = settings, control, worker, settler
        self.store, self.command, self.pace, self.brake = settler.store, command, pace, settler.brake
        self.expires = float("inf") if expires is None else expires
        self.hand = Hand(settler)
        self.runs = 0                      # how many were begun
        self.noted = 0                     # run that the file of locks says the worker is on
        self.full = False                  # so much is in hand that no more is received
        self.paused: pauses.Pause | None = None
        self.looked = 0.0                  # time.monotonic() of the last look at that
        self.trouble: Unfit | None = None  # COMMAND could not be started, or ended by itself
        self.closing = False               # nothing more is to be begun
        self.stopped = False               # the job in hand was told to end, for its release

    # ---- its end

    def must_close(self) -> bool:
        """Whether nothing more is to be begun."""
        return self.control.until is not None or self.control.retired or time.monotonic() >= self.expires

    def over(self) -> bool:
        """Whether no more jobs are to be fetched."""
        return self.closing or bool(self.settings.max_jobs and self.runs >= self.settings.max_jobs)

    def empty(self) -> bool:
        """Whether no job is in hand."""
        return not (self.command.given or self.hand or self.worker.jobs)

    def finished(self) -> bool:
        """Whether the worker is to end, and nothing that it must end keeps it."""
        self.closing = self.must_close()
        return not self.command.given and (self.closing or (self.over() and not self.hand))

    def wind_up(self) -> None:
        """Settle what is done, give the rest back, see the answers to their end, and let COMMAND clean up."""
        self.hand_back()
        self.worker.drain(None, self.deadline)
        self.settler.end_starts([])
        self.worker.close(self.deadline)
        self.command.finish()

    def end(self) -> None:
        """End COMMAND, whatever the end of the worker is, and all that its job left."""
        runs = {starts.PIPE, *(attempt.run for attempt in self.command.given)}
        if self.command.end():
            orphans.end_orphans(self.store, {(self.store.process, run) for run in runs})
        self.pace.on(None)

    def deadline(self) -> float | None:
        """time.monotonic() by which a worker that was told to stop must end, None while it was not."""
        self.control.happened()
        return self.control.deadline()

    # ---- once round

    def turn(self) -> None:
        """Begin what can be begun, wait for something to happen, see to it."""
        self.look()
        self.start()
        self.feed()
        if self.worker.jobs:
            self.prepare()
            self.feed()
        if self.trouble:
            self.unfit(self.trouble)
        self.worker.window = self.wanted()
        wake = self.command.watch()
        wake[self.control.fd] = wake[self.control.parent_fd] = select.POLLIN
        waiting = len(self.worker.jobs)
        woken = self.worker.attend(self.patience(), wake, not self.full)
        if self.full or len(self.worker.jobs) > waiting:
            self.full = self.held() >= HELD
        if self.control.fd in woken:
            self.control.happened()
        if self.control.parent_fd in woken:
            self.control.retired = True
        self.closing = self.must_close()
        self.hear(woken)
        if self.trouble:
            self.unfit(self.trouble)
        if self.hand.due(self.window, bool(self.command.given or self.hand.ready or self.worker.asking())):
            self.hand.settle()

    def look(self) -> None:
        """Look whether the function is paused or in an outage, and give back what is not to be begun therefore."""
        now = time.monotonic()
        if now - self.looked >= LOOK or (self.hand.waits(now) and now - self.looked >= LOOK_BRAKED):
            self.looked = now
            self.paused = self.settler.persist(lambda: pauses.find(self.store, self.settings.function, time.time()))
            if self.brake.outage:
                self.settler.persist(lambda: self.brake.look(self.store))
                if not self.brake.outage and self.hand.next:
                    self.hand.next.start_at = 0.0
        if (self.paused or self.brake.outage) and not self.command.given:
            waiting = len(self.hand.ready) + len(self.worker.jobs) + bool(self.hand.suspects.chosen)
            if waiting > (0 if self.paused else 1):
                self.hand_back()

    @property
    def window(self) -> int:
        """How many jobs to have in hand."""
        return 1 if self.brake.outage or self.settler.careful else self.pace.window

    def wanted(self) -> int:
        """Jobs to have fetched or asked for: more in whole handfuls, not one by one."""
        if self.paused or not self.command.ready() or self.over():
            return 0
        coming = len(self.worker.jobs) + self.worker.outstanding()
        window, ready, waiting = self.window, len(self.hand.ready), len(self.hand.suspects.waiting)
        free = window - coming - ready - len(self.command.given) - (waiting >> 3)
        if free * 2 < window:
            return coming
        wanted = min(coming + free, max(1, int(ASKED / max(self.hand.size, 1.0))))
        if self.settings.max_jobs:
            wanted = min(wanted, self.settings.max_jobs - self.runs - ready - waiting)
        return wanted

    def held(self) -> int:
        """Bytes of payloads in hand, those that are not just fetched by their mean size."""
        return sum(len(assigned.data) for assigned in self.worker.jobs if isinstance(assigned.data, bytes)) + \
            int(self.hand.size * (len(self.hand.ready) + len(self.command.given)))

    def patience(self) -> float:
        """Seconds until something is due by the clock."""
        now = time.monotonic()
        at = min(now + 60, self.command.due(now) or now + 60)
        if self.hand.done:
            at = min(at, self.hand.done_at + COMPANY)
        if self.command.start_at > now:
            at = min(at, self.command.start_at)
        if self.expires > now:   # after that it is the job in hand that is waited for
            at = min(at, self.expires)
        if self.control.until is not None and self.command.given and not self.stopped:
            at = min(at, self.control.until)
        if self.hand.waits(now):
            at = min(at, self.hand.next.start_at, self.looked + LOOK_BRAKED)
        if self.paused:
            at = min(at, self.looked + LOOK)
        if self.hand.suspects.waiting and not self.hand.suspects.chosen:
            at = min(at, self.hand.suspects.at)
        return max(0.0, at - now)

    # ---- to COMMAND

    def start(self) -> None:
        """Start COMMAND, where it is not there."""
        if self.closing:
            return
        try:
            self.command.start()
        except Unfit as error:
            self.trouble = error

    def prepare(self) -> None:
        """Write the starts of what was fetched, once what is ready runs low, and all that was asked for is here or it runs out."""
        left = len(self.hand.ready) + len(self.command.given)
        if 2 * left > self.window or (4 * left > self.window and self.worker.outstanding()) or \
                self.hand.suspects.chosen or self.paused or self.closing or not self.command.ready():
            return
        self.hand.prepare(self.worker.jobs)

    def feed(self) -> None:
        """Give COMMAND what it may have, as far as it takes it."""
        command, hand, suspects = self.command, self.hand, self.hand.suspects
        if not hand or self.paused or self.closing or self.trouble or (suspects.chosen and command.given) or not command.ready():
            return
        suspects.choose()
        if hand.waits(time.monotonic()):
            return
        if suspects.chosen and not hand.ready:
            if not command.given:
                self.begin(suspects.chosen)
        else:
            room = command.room(1 if suspects.chosen else self.brake.ahead(self.window))
            while room > 0 and hand.ready and not self.trouble:
                attempt = hand.ready.popleft()
                if attempt.assigned.lost:   # its server hands it out again
                    self.settler.end_starts([attempt])
                    continue
                self.begin(attempt)
                room -= 1
            if hand.ready and not self.trouble:
                self.prepare_next(hand.ready[0])
        command.flush()

    def prepare_next(self, attempt: Attempt) -> None:
        """Let COMMAND prepare for the job that it is given next."""
        try:
            self.command.prepare(attempt)
        except Unfit as error:
            self.trouble = error

    def begin(self, attempt: Attempt) -> None:
        """Give COMMAND a job."""
        if not self.command.given:
            self.note(attempt)
        try:
            self.command.give(attempt)
            self.runs += 1
        except Unfit as error:
            self.trouble = error
            if attempt is not self.hand.suspects.chosen:
                self.hand.ready.appendleft(attempt)

    def note(self, attempt: Attempt | None) -> None:
        """Write which job COMMAND is on from now on."""
        run = attempt.run if attempt else 0
        if run != self.noted:
            self.noted = run
            sync = attempt is not None and (attempt is self.hand.suspects.chosen or self.settler.careful)
            self.settler.persist(lambda: starts.note(self.store, run, sync))
            self.pace.on(time.monotonic() if attempt else None)

    # ---- from COMMAND

    def hear(self, woken: list[int]) -> None:
        """See to the jobs that have ended, and to a stop that cannot wait for the job in hand."""
        command, before = self.command, self.command.began
        try:
            ended = command.attend(woken)
        except Unfit as error:
            self.trouble = error
            return
        if ended:
            took = time.monotonic() - before
            if not self.hand.ready:
                self.worker.window = self.wanted()
                self.worker.grab()   # the server takes as long to answer as the worker to clear up
            for attempt, outcome in ended:
                self.hand.suspects.ended(attempt)
                if not command.given and self.judge(outcome) == "done":
                    self.feed()   # the next one begins before this one is cleared up
                outcome.collect()
                self.finish(attempt, outcome)
            self.pace.add(took, len(ended))
            self.settler.unfit.over()
            if command.given or not self.hand.ready:
                self.note(command.given[0] if command.given else None)
            if command.gone:
                self.hand_back()
        if self.control.until is not None and command.given and not self.stopped and time.monotonic() >= self.control.until:
            self.stopped = True
            command.stop()

    def finish(self, attempt: Attempt, outcome: Outcome) -> None:
        """See to what becomes of a job that has ended. Raises Stopped where it was ended for our end."""
        if outcome.forced:
            orphans.end_orphans(self.store, {(self.store.process, attempt.run), (self.store.process, starts.PIPE)})
        if outcome.stopped:
            self.hand.settle()
            self.settler.reporter.emit("release", attempt, attempt.before, outcome, None, "told to stop")
            self.settler.end_starts([*self.command.given, *self.hand.ready])
            raise Stopped
        if self.judge(outcome) == "done":
            self.hand.put_done(attempt, outcome)
            if attempt.waited:
                self.hand.settle()
        else:
            self.hand.settle()
            self.note(attempt)   # what ends us now is its doing
            if not self.settler.settle(attempt, outcome):
                self.hand_back()
            self.worker.send()
            self.worker.ask_again()   # a server that had no job may have this one again
        self.watch_memory(len(attempt.data) + len(outcome.stdout), outcome.overflow)
        self.settler.end_care(self.runs)

    def judge(self, outcome: Outcome) -> str:
        return judge(outcome, self.settings.exits, self.settings.timeout)[0]

    def watch_memory(self, size: int, overflow: bool) -> None:
        """After a job of so many bytes: memory that Python does not give back is given back by another worker."""
        if (size > BIG or overflow) and outgrown():
            self.control.retired = True

    # ---- ends of what is in hand

    def hand_back(self) -> None:
        """Give back, uncounted, all that COMMAND is not on."""
        self.hand.settle()
        rest = [*(self.command.take_back() if self.command.gone else []), *self.hand.take_back()]
        if rest:
            self.settler.end_starts(rest)
        if rest or self.worker.asking():
            self.worker.release(self.deadline)

    def unfit(self, error: Unfit) -> None:
        """COMMAND cannot run, or ended through no job's doing: what is in hand goes back uncounted, and the worker pauses."""
        self.trouble = None
        self.hand.settle()
        first = next(iter([*self.command.given, *self.hand.ready]), self.hand.suspects.chosen)
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

"""A worker: takes one job at a time, runs it, and sees to its fate before it takes the next (DESIGN, rules 1 to 9)."""

from __future__ import annotations

import os
import random
import select
import time

from libgm.errors import Error, Unavailable, reason
from libgm.gearman.worker import Worker
from libgm.quarantine import payloads, starts
from libgm.quarantine.file import Store
from libgm.shell.messages import warn
from libgm.shell.signals import Control, Stopped
from libgm.worker import verdict
from libgm.worker.brake import Brake
from libgm.worker.memory import outgrown
from libgm.worker.retries import release_due
from libgm.worker.run import Outcome, run
from libgm.worker.settle import Attempt, Fate

RETIRED, EMPTY = 0, 10     # exit statuses of a worker: to be replaced; its queue is empty (--until-empty)
BIG = 1 << 20              # bytes: after a payload or result of this size a worker looks at its own memory
SOON = 0.25                # seconds that the answer to a job waits for the next one, where the server is slow to say
BUSY = 10.0                # seconds to wait for another writer before a worker looks whether it was told to stop


class Settings:
    """What gm-work was asked to do: one attribute per option, named as the option, in bytes, seconds and parsed forms."""

    def __init__(self, **values):
        self.__dict__.update(values)


class WorkerProcess:
    """The loop of one worker process, from its own connections to its exit status."""

    def __init__(self, settings: Settings, events_fd: int, parent_fd: int, brake: memoryview):
        self.settings = settings
        self.control = Control(settings.grace, parent_fd)
        self.fate = Fate(settings, self.control, Brake(settings.brake, brake), events_fd, self.over)
        self.runs = 0
        self.done: list = []       # the job before, an (attempt, outcome): it is answered while the next one runs
        self.client_id = f"gm-work:{os.uname().nodename}:{os.getpid()}".encode()
        self.base_env = {**os.environ, "GM_FUNCTION": os.fsdecode(settings.function),
                         "GM_SERVERS": settings.server_list, "GM_QUARANTINE": os.path.realpath(settings.quarantine)}
        age = settings.max_age and settings.max_age * random.uniform(0.8, 1.2)
        self.expires = time.monotonic() + age if age else None

    def main(self) -> int:
        """Work until told to stop, too old, or (--until-empty) out of work; an exit status."""
        try:
            self.store = self.fate.store = self.fate.persist(self.open_store)
            self.worker = Worker(self.settings.servers, self.settings.function, self.client_id, self.spool)
            try:
                if self.settings.until_empty:
                    self.worker.connect()
                return self.loop()
            finally:
                self.worker.close()
                self.store.part()
        except Stopped:
            return RETIRED

    def open_store(self) -> Store:
        store = Store(self.settings.quarantine, create=True, busy=BUSY)
        try:
            store.join("gm-work", self.settings.function, self.settings.server_list)
            starts.sweep(store)
            payloads.sweep(store)
        except Unavailable:
            store.close()
            raise
        return store

    def spool(self, handle: bytes, function: bytes, unique: bytes, length: int) -> payloads.Spool:
        """Where a payload goes that is too large for memory (rule 10)."""
        return payloads.Spool(self.store, length)

    def loop(self) -> int:
        while True:
            self.control.happened()
            if self.over():
                self.settle_done()
                self.worker.drain(5.0)
                return RETIRED
            assigned = self.worker.soon(SOON) if self.done else None
            if assigned is None:
                self.settle_done()
                assigned = self.worker.next(self.next_wait(), (self.control.fd, self.control.parent_fd))
            self.report_servers()
            if assigned is not None:
                self.runs += 1
                self.handle(Attempt(assigned, self.runs, self.settings))
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
            released = release_due(self.store, self.settings)
        except Error as error:
            warn(f"delayed retries: {error}")
            return 0
        if released:
            self.worker.ask_again()
        return released

    def settle_done(self) -> None:
        """Answer the job before, where no other waits."""
        done, self.done = self.done, []
        if done:
            self.fate.turn_over(done, [])
            self.fate.answer_done()

    def handle(self, attempt: Attempt) -> None:
        """Run a job and see to its fate. Raises Stopped when it was stopped with us.

        Where the server has more, the end of a job that is done is written with the start of the next, and it is
        answered as soon as that runs: one transaction less, and the rest costs no time.
        """
        fate = self.fate
        if attempt.spool is not None:
            self.settle_done()
            fate.too_large(attempt)
            return
        done, self.done = self.done, []
        if not fate.begin(attempt, done):
            return
        self.control.on_term = fate.mark_released
        try:
            outcome = self.run(attempt)
        except OSError as error:
            fate.answer_done()
            self.control.wait(fate.give_back(attempt, self.cannot_run(error)))
            return
        finally:
            self.control.on_term = lambda: None
        if outcome.stopped:
            fate.emit("release", attempt, attempt.before, outcome, None, "told to stop")
            raise Stopped
        if verdict.judge(outcome, self.settings.exits, self.settings.timeout)[0] == "done" and not attempt.waited:
            self.done = [(attempt, outcome)]
            fate.unfit.over()
        else:
            fate.settle(attempt, outcome)
        self.watch_memory(len(attempt.data) + len(outcome.stdout), outcome.overflow)

    def cannot_run(self, error: OSError) -> str:
        return f"{self.settings.argv[0]}: cannot run: {reason(error)}"

    def watch_memory(self, size: int, overflow: bool) -> None:
        """After a job of so many bytes: memory that Python does not give back is given back by another worker."""
        if (size > BIG or overflow) and outgrown():
            self.control.retired = True

    def run(self, attempt: Attempt) -> Outcome:
        settings = self.settings
        env = {**self.base_env, "GM_UNIQUE": os.fsdecode(attempt.unique), "GM_HANDLE": attempt.handle,
               "GM_ATTEMPT": str(attempt.before + 1), "GM_JOB_SERVER": attempt.server,
               "GM_RUN": f"{self.store.tag}.{self.store.process}.{attempt.run}"}
        return run(settings.argv, env, attempt.data, settings.timeout, settings.grace, self.control, self.fate.answer_done,
                   self.ask)

    def ask(self, status: int) -> None:
        """A job has ended with that status of waitpid(): where it is done, ask for the next one before all else, since
        the server takes as long to answer as we to clear up."""
        if status == 0 and self.settings.exits.get(0) == "done" and not self.over():
            self.worker.ask()

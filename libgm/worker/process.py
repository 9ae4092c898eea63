"""The process of a worker: its file, its servers, its command; from its start to its exit status."""

from __future__ import annotations

import contextlib
import os
import random
import time

from libgm.errors import Error, Replaced, Unavailable
from libgm.gearman.worker import Worker
from libgm.quarantine import payloads, processes, starts
from libgm.quarantine.file import Store
from libgm.shell.messages import warn
from libgm.shell.signals import Control, Stopped
from libgm.worker.loop import Loop
from libgm.worker.pace import Pace
from libgm.worker.report import Reporter
from libgm.worker.retries import release_due
from libgm.worker.settings import EMPTY, REPLACED, RETIRED, Settings
from libgm.worker.settle import Settler

BUSY = 10.0          # seconds to wait for another writer before a worker looks whether it was told to stop


class WorkerProcess:
    """A worker. events_fd: the pipe to its parent; parent_fd: becomes readable when that is dead; pace: shared with the others."""

    store: Store

    def __init__(self, settings: Settings, events_fd: int, parent_fd: int, pace: Pace):
        self.settings, self.pace = settings, pace
        self.control = Control(settings.grace, parent_fd)
        self.settler = Settler(settings, self.control, Reporter(settings, events_fd))

    def main(self) -> int:
        """Work until told to stop, too old, or (--until-empty) out of work; an exit status."""
        settings = self.settings
        age = settings.max_age and settings.max_age * random.uniform(0.8, 1.2)
        expires = time.monotonic() + age if age else None
        try:
            self.store = self.settler.store = self.settler.persist(self.open_store)
            client_id = f"gm-work:{os.uname().nodename}:{os.getpid()}".encode()
            self.worker = Worker(settings.servers, settings.function, client_id, self.spool)
            loop = Loop(settings, self.control, self.worker, self.settler, self.command(), self.pace, expires)
            try:
                if settings.until_empty:
                    self.worker.connect()
                self.control.on_term = self.settler.mark_released
                self.settler.take_care()
                return self.work(loop)
            except Unavailable:   # a job whose end cannot be written down is run again, uncounted
                with contextlib.suppress(Unavailable):
                    starts.note(self.store, 0)
                raise
            finally:
                loop.end()
                self.worker.close(loop.deadline)
                processes.part(self.store)
        except Replaced:
            return REPLACED
        except Stopped:
            return RETIRED

    def work(self, loop: Loop) -> int:
        """Go round until the end; an exit status. Raises Stopped."""
        while True:
            if loop.finished():
                loop.wind_up()
                return RETIRED
            loop.turn()
            if self.settings.until_empty and self.out_of_work(loop):
                loop.wind_up()
                return EMPTY

    def out_of_work(self, loop: Loop) -> bool:
        """Whether there is nothing to be had now."""
        if not loop.empty():
            return False
        if loop.paused:
            return True
        if self.worker.down and not self.worker.connection_to_handler_map:
            raise self.worker.down_error()
        return self.worker.idle and not self.release_now()

    def release_now(self) -> int:
        """Release the retries that are due, as no releaser runs beside a --until-empty; how many."""
        try:
            released = release_due(self.store, self.settings)
        except Replaced:
            raise
        except Error as error:
            warn(f"delayed retries: {error}")
            return 0
        if released:
            self.worker.ask_again()
        return released

    def open_store(self) -> Store:
        settings = self.settings
        store = Store(settings.quarantine, create=True, busy=BUSY)
        try:
            processes.join(store, "gm-work", settings.function, settings.server_list)
            starts.sweep(store)
            payloads.sweep(store)
        except Unavailable:
            store.close()
            raise
        return store

    def spool(self, handle: bytes, function: bytes, unique: bytes, length: int) -> payloads.Spool:
        """The file of a payload that is too large for memory (gm-delivery(7), rule 10)."""
        return payloads.Spool(self.store, function, unique, length)

    def command(self):
        """COMMAND, and the environment that all its jobs see."""
        env = {**os.environb, b"GM_FUNCTION": self.settings.function, b"GM_SERVERS": self.settings.server_list.encode(),
               b"GM_QUARANTINE": os.fsencode(self.store.path), b"GM_RUN": f"{self.store.tag}.{self.store.process}".encode()}
        if self.settings.pipe:
            from libgm.worker.pipe import PipeCommand as kind
        else:
            from libgm.worker.run import ProcessPerJob as kind
        return kind(self.settings, env, self.control)

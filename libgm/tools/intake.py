"""How gm-collect and gm-drain take jobs out of a queue into the quarantine file: a batch per transaction."""

from __future__ import annotations

import os

from libgm.gearman.worker import LIMIT, Worker
from libgm.quarantine import processes
from libgm.quarantine.file import Store
from libgm.quarantine.payloads import Spool
from libgm.shell.lines import Output
from libgm.shell.signals import Control
from libgm.shell.trouble import Trouble

BATCH_BYTES = 16 << 20


class Intake:
    """Takes jobs of a function into the file at path. A batch is durable before any of it is answered.

    .worker asks the servers for jobs, once open() was called.
    """

    def __init__(self, servers: list, function: bytes, path: str, output: Output):
        self.servers, self.function, self.path, self.output = servers, function, path, output
        self.trouble = Trouble()

    def open(self, tool: str, limit: int = LIMIT) -> None:
        """Open the file, this process entered in it under the name of the tool. limit: as of connection.Connection."""
        self.control = Control(0.0, interrupt=True)
        self.store = Store(self.path, create=True)
        processes.join(self.store, tool, self.function)
        self.worker = Worker(self.servers, self.function, f"{tool}:{os.uname().nodename}:{os.getpid()}".encode(),
                             lambda handle, function, unique, length: Spool(self.store, function, unique, length), limit)

    def batch(self, wait: float | None, most: int) -> list:
        """The jobs that are here now, at most so many, waiting for the first of them as Worker.next() does."""
        assigned = self.worker.next(wait, (self.control.fd,))
        batch, size = [], 0
        while assigned is not None:
            batch.append(assigned)
            size += len(assigned.data)
            if len(batch) >= most or size > BATCH_BYTES:
                break
            assigned = self.worker.ready()
        return batch

    def send_answers(self) -> None:
        """Send the answers to their end, until a signal to stop."""
        self.worker.drain(None, self.stop_at)

    def stop_at(self) -> float | None:
        """When sending answers must end: at a signal to stop; time.monotonic(), or None."""
        self.control.happened()
        return self.control.deadline()

"""What gm-at does: jobs kept in the quarantine file until their time; gm-work releases them (worker/retries.py)."""

from __future__ import annotations

from libgm import job, wire
from libgm.errors import BadRecord
from libgm.quarantine import audit, jobs, processes
from libgm.shell.messages import warn
from libgm.tools.batch import Batch
from libgm.units import counted, iso


class Scheduled:
    """A job that is to be kept: its line number, the job."""

    __slots__ = ("line", "job", "size")

    def __init__(self, line: int, made: job.Job):
        self.line, self.job, self.size = line, made, len(made.data)


class At(Batch):
    """when: epoch seconds at which jobs are due that have no time of their own. servers: the list as text, sorted."""

    done_to, creates = "kept", True

    def __init__(self, path: str, strict: bool, output, when: float, servers: str):
        super().__init__(path, strict, output)
        self.when, self.servers, self.latest = when, servers, 0.0

    def run_source(self, source) -> int:
        """Keep the jobs of a job_source.Source; the exit status."""
        self.source = source
        return self.run()

    def read(self) -> None:
        for _, line, made in self.source:
            self.take(Scheduled(line, made))

    def process(self, batch: list) -> int:
        rows = [self.row(item) for item in batch]
        with self.store.transaction():
            for values in rows:
                values["id"] = jobs.set_aside(self.store, values)
                values["revision"] = 1
            audit.write_down(self.store, "at", rows)
        self.done += len(batch)
        for item, values in zip(batch, rows):
            self.latest = max(self.latest, values["due"])
            record: dict = {"line": item.line, "id": values["id"]}
            job.put(record, "function", item.job.function)
            job.put(record, "unique", item.job.unique)
            record["due"] = iso(values["due"])
            self.output.emit(record)
        return len(batch)

    def row(self, item: Scheduled) -> dict:
        """The row of a job that never failed: it has a key, so that it is one job whatever interrupts its release."""
        made = item.job
        if made.wire_unique is not None:
            raise BadRecord("a job with a wire unique is put back at once: use gm-submit")
        return jobs.row(state="delayed", key=wire.key_text(wire.new_key()), function=made.function, unique_=made.unique,
                        data=made.data, priority=made.priority, servers=self.servers,
                        due=self.when if made.due is None else made.due)

    def summary(self) -> str:
        until = f" until {iso(self.latest)}" if self.done else ""
        return f"{counted(self.done, 'job')} {self.done_to}{until}; {counted(jobs.count(self.store, 'delayed'), 'delayed job')}"

    def end(self) -> None:
        """Say it where nobody is there to release the jobs."""
        if self.done and not processes.releasers(self.store, self.servers):
            warn(f"no gm-work runs with this file and {self.servers}: the jobs wait until one does")

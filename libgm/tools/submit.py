"""What gm-submit does: jobs in, submissions out, a record per accepted job."""

from __future__ import annotations

from libgm import job
from libgm.errors import NO, OK, BadRecord, Error, Strict, Usage
from libgm.shell.lines import Output, ReaderGone
from libgm.shell.messages import summarize, warn
from libgm.shell.progress import Progress
from libgm.units import counted

TYPE_CHECKING = False   # as mypy reads it; the client is imported when there is a job
if TYPE_CHECKING:
    from libgm.gearman import client

WINDOW, WAITED = 1000, 64   # submissions that are not acknowledged yet; jobs whose results are waited for


class Submission:
    """servers: a list of servers as typed. wait: in the foreground, results are printed. strict: a bad line ends it."""

    def __init__(self, servers: str, wait: bool, strict: bool, output: Output):
        self.servers, self.wait, self.strict, self.output = servers, wait, strict, output
        self.status, self.accepted, self.failed, self.refused = OK, 0, 0, False
        self.submitter: client.Submitter | None = None
        self.progress = Progress("jobs", quiet=output.quiet)

    def run(self, source) -> int:
        """Submit the jobs of a job_source.Source; the exit status."""
        try:
            try:
                for where, line, made in source:
                    self.submit(where, line, made)
                self.settle()
            except Strict:
                self.settle(last=True)
            self.output.close()
            if self.submitter is not None:
                summarize(self.output, self.summary())
        except ReaderGone:
            self.finish_unread()
            return NO
        except Usage:
            raise
        except KeyboardInterrupt:
            self.output.flush()
            if self.wait and self.submitter is not None and self.submitter.outstanding:
                warn(f"no result yet of {counted(self.submitter.outstanding, 'job')}: cancelled, unless a worker has begun it")
            raise
        except Error as error:
            self.output.flush()
            unknown = self.submitter.outstanding if self.wait and self.submitter is not None else 0
            warn(f"{error}" + (f": {counted(self.accepted, 'job')} accepted before that" if self.accepted else "") +
                 (f": of {unknown} the result is not known" if unknown else ""))
            return error.status
        finally:
            self.progress.close()
            if self.submitter is not None:
                self.submitter.close()
        return self.status

    def summary(self) -> str:
        jobs = counted(self.accepted, "job")
        return f"{jobs} submitted" if not self.wait else f"{jobs} ended; {self.failed} failed"

    def bad(self, error: BadRecord) -> None:
        """Report what is no job. Raises Strict where that ends it."""
        warn(str(error))
        self.status = NO
        if self.strict:
            raise Strict

    def submit(self, where: str, number: int, made: job.Job) -> None:
        self.check_refused()
        if self.submitter is None:
            from libgm.gearman import address, client
            self.submitter = client.Submitter(address.parse_servers(self.servers), wait=self.wait,
                                              window=WAITED if self.wait else WINDOW, on_accept=self.on_accept,
                                              on_refuse=self.on_refuse, on_result=self.on_result)
        unique, data = made.on_wire(self.wait)
        due = None if made.wire_unique is None else made.due   # gearmand's own delay wakes nobody: gm-at is for new jobs
        self.submitter.submit(made.function, unique, data, made.priority, (where, number, made), due, made.unique)

    def settle(self, last: bool = False) -> None:
        """Before a wait, and as the last thing: everything sent is acknowledged, everything acknowledged is printed.

        Raises Strict where the server has refused a job, unless this is the last.
        """
        if self.submitter is not None:
            self.submitter.finish()
        self.output.flush()
        if not last:
            self.check_refused()

    def check_refused(self) -> None:
        if self.refused and self.strict:
            raise Strict

    def on_accept(self, item: tuple, handle: bytes, server) -> None:
        self.accepted += 1
        self.progress.add()
        if self.output.quiet and not self.wait:
            return
        record = accepted_record(item, handle, server)
        if self.wait:
            item[2].data = record   # what is printed with the result
        else:
            self.output.emit(record)

    def on_refuse(self, item: tuple, error: Error) -> None:
        warn(f"{item[0]}:{item[1]}: {error}")
        self.status, self.refused = NO, True

    def on_result(self, item: tuple, ok: bool, result: bytes, warning: bytes, seconds: float) -> None:
        record = item[2].data
        if ok:
            job.put(record, "result", result)
        else:
            from libgm.worker.verdict import last_line
            record["error"] = last_line(warning) or "failed"
            self.status = NO
            self.failed += 1
        record["duration"] = round(seconds, 6)
        self.output.emit(record)
        self.output.flush()

    def finish_unread(self) -> None:
        """The reader of our records has gone: no more input, but what is in flight is seen through."""
        self.output.quiet = True
        try:
            if self.submitter is not None:
                self.submitter.finish()
        except Error as error:
            warn(str(error))
        warn(f"standard output: its reader has gone: stopped after {counted(self.accepted, 'job')}")


def accepted_record(item: tuple, handle: bytes, server) -> dict:
    """The record of an accepted job: item is its (where, line number, job.Job)."""
    _, number, made = item
    record: dict = {"line": number}
    job.put(record, "function", made.function)
    job.put(record, "unique", made.unique)
    record["handle"] = handle.decode("utf-8", "replace")
    record["server"] = str(server)
    return record

"""gm-submit: payloads or records in, submissions out, a record per accepted job."""

from __future__ import annotations

import itertools
import os

from libgm import job
from libgm.errors import NO, OK, BadRecord, Error, Strict, Usage, reason
from libgm.shell.lines import Input, Output, ReaderGone, records, stdin_or_usage
from libgm.shell.messages import warn
from libgm.shell.progress import Progress


class Submission:
    """A run of gm-submit.

    servers: a list as typed. function: of every job, None where the input is records. unique: of the only job.
    unique_data: make uniques from payloads. wait: submit in the foreground, and print results. strict: stop at the first
    bad line. quiet: print no records. Raises Usage.
    """

    def __init__(self, servers: str, function: str | None, priority: str, unique: str | None = None,
                 unique_data: bool = False, wait: bool = False, strict: bool = False, quiet: bool = False):
        if priority not in job.PRIORITIES:
            raise Usage(f"--priority: {priority!r} is not one of {', '.join(job.PRIORITIES)}")
        if unique is not None and unique_data:
            raise Usage("--unique and --unique-data: only one of them")
        if unique is not None and not function:
            raise Usage("--unique: a record has its own: set .unique")
        self.servers, self.priority, self.unique_data, self.wait, self.strict = servers, priority, unique_data, wait, strict
        self.output = Output(quiet=quiet)
        self.progress = Progress("jobs", quiet=quiet)
        self.accepted, self.submitter, self.refused, self.status = 0, None, False, OK
        self.made = os.urandom(8).hex().encode()   # the beginning of uniques that are made up; a count is their end
        self.count = 0
        try:
            self.function = None if function is None else job.check_function(os.fsencode(function))
            self.unique = None if unique is None else self.check_unique(os.fsencode(unique))
        except BadRecord as error:
            raise Usage(str(error)) from None

    def run(self, files: list[str], null: bool = False) -> int:
        """Submit the files, each a payload, or else the lines of standard input. Return the exit status.

        null: payloads on standard input end in NUL.
        """
        try:
            try:
                for where, line, made in self.jobs(files, null):
                    self.submit(where, line, made)
                self.settle()
            except Strict:
                self.settle(last=True)
            self.output.close()
        except ReaderGone:
            self.finish_unread()
            return NO
        except Usage:
            raise
        except KeyboardInterrupt:
            if self.wait and self.submitter is not None and self.submitter.outstanding:
                self.output.flush()
                warn(f"{self.submitter.outstanding} jobs were waited for: what no worker has begun of them is gone")
            raise
        except Error as error:
            self.output.flush()
            unknown = self.submitter.outstanding if self.wait and self.submitter is not None else 0
            warn(f"{error}" + (f": {self.accepted} jobs were accepted before that" if self.accepted else "") +
                 (f": of {unknown} the result is not known" if unknown else ""))
            return error.status
        finally:
            self.progress.close()
        return self.status

    def jobs(self, files: list[str], null: bool):
        """Yield (where, line number, job.Job) of each input."""
        if self.function is None:
            stdin_or_usage("give FUNCTION, or job records on standard input")
            for where, record in records(Input(waiting=self.settle), self.bad):
                try:
                    yield where, int(where.rpartition(":")[2]), self.from_record(record)
                except BadRecord as error:
                    self.bad(BadRecord(f"{where}: {error}"))
        elif files:
            if self.unique is not None and len(files) > 1:
                raise Usage("--unique: names one job, and there are several files")
            for number, name in enumerate(files, 1):
                try:
                    yield name, number, self.from_payload(self.read(name))
                except BadRecord as error:
                    self.bad(BadRecord(f"{name}: {error}"))
        else:
            stdin_or_usage("give FILE, or payloads on standard input")
            source = Input(null=null, waiting=self.settle)
            if self.unique is not None:   # submit nothing before it is known to be the only line
                source = list(itertools.islice(source, 2))
                if len(source) > 1:
                    raise Usage("--unique: names one job, and there is a second line (a FILE, or -, is one payload)")
            for number, line in source:
                try:
                    yield "stdin", number, self.from_payload(line)
                except BadRecord as error:
                    self.bad(BadRecord(f"stdin:{number}: {error}"))

    def read(self, name: str) -> bytes:
        """The bytes of a file; - is standard input. Raises BadRecord."""
        try:
            if name == "-":
                with open(0, "rb", closefd=False) as file:
                    return file.read()
            with open(name, "rb") as file:
                return file.read()
        except OSError as error:
            raise BadRecord(f"cannot read: {reason(error)}") from None

    def from_payload(self, data: bytes) -> job.Job:
        if self.unique is not None:
            unique = self.unique
        elif self.unique_data:
            unique = job.digest(20, data).encode()
        else:
            self.count += 1
            unique = b"%s-%d" % (self.made, self.count)
        return self.checked(job.Job(self.function, unique, data, self.priority))

    def from_record(self, record: dict) -> job.Job:
        if record.get("id") is not None:
            raise BadRecord(f"job {record['id']} is quarantined: use gm-requeue, or delete .id to submit a copy")
        made = job.Job.from_record(record)
        if self.unique_data:
            made.unique = job.digest(20, made.data).encode()
        wire = "envelope" in record   # from gm-salvage: it goes back into a queue as it was
        self.check_unique(made.unique, wire)
        return self.checked(made, wire)

    def check_unique(self, unique: bytes, wire: bool = False) -> bytes:
        """unique itself. wire: it is already a wire unique. Raises BadRecord."""
        job.check_unique(unique)
        if self.wait and len(unique) > job.MAX_UNIQUE - len(job.WAITED):
            raise BadRecord(f"unique of {len(unique)} bytes: at most {job.MAX_UNIQUE - len(job.WAITED)} with --wait")
        if not (self.wait or wire):
            job.check_unwaited(unique)
        return unique

    def checked(self, made: job.Job, wire: bool = False) -> job.Job:
        """The job as it is sent. Raises BadRecord."""
        if made.envelope is not None:
            made.data = job.wrap(made.envelope, made.data)
        elif not wire:
            made.data = job.plain(made.data)
        if not made.data and not self.wait:
            raise BadRecord("empty payload: it would stop gearmand from starting again")
        return made

    def bad(self, error: BadRecord) -> None:
        """Report a bad input. Raises Strict with --strict."""
        warn(str(error))
        self.status = NO
        if self.strict:
            raise Strict

    def submit(self, where: str, number: int, made: job.Job) -> None:
        self.check_refused()
        if self.submitter is None:
            from libgm.gearman import address, client
            self.submitter = client.Submitter(address.parse_servers(self.servers), wait=self.wait,
                                              window=64 if self.wait else 1000, on_accept=self.on_accept,
                                              on_refuse=self.on_refuse, on_result=self.on_result)
        unique = made.unique + job.WAITED if self.wait else made.unique
        self.submitter.submit(made.function, unique, made.data, made.priority, (where, number, made), made.due)

    def settle(self, last: bool = False) -> None:
        """Wait until every job sent is acknowledged, and print what is acknowledged: before a wait for input, and at the end.

        Raises Strict with --strict where the server has refused a job, unless this is the end.
        """
        if self.submitter is not None:
            self.submitter.finish()
        self.output.flush()
        if not last:
            self.check_refused()

    def check_refused(self) -> None:
        if self.refused and self.strict:
            raise Strict

    def accepted_record(self, item: tuple, handle: bytes, server) -> dict:
        _, number, made = item
        record: dict = {"line": number}
        job.put(record, "function", made.function)
        job.put(record, "unique", made.unique)
        record["handle"] = handle.decode("utf-8", "replace")
        record["server"] = str(server)
        return record

    def on_accept(self, item: tuple, handle: bytes, server) -> None:
        self.accepted += 1
        self.progress.add()
        record = self.accepted_record(item, handle, server)
        if self.wait:
            item[2].data = record   # printed with the result
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
        record["duration"] = round(seconds, 6)
        self.output.emit(record)
        self.output.flush()

    def finish_unread(self) -> None:
        """The reader of the records exited: take no more input, finish what is in flight."""
        self.output.quiet = True
        try:
            if self.submitter is not None:
                self.submitter.finish()
        except Error as error:
            warn(str(error))
        warn(f"standard output: its reader has gone: stopped after {self.accepted} jobs")

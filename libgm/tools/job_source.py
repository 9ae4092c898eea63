"""Where gm-submit and gm-at take jobs from: payload lines, files, job records."""

from __future__ import annotations

import itertools
import os

from libgm import job
from libgm.errors import BadRecord, Usage, reason
from libgm.shell.lines import Input, records, stdin_or_usage
from libgm.shell.messages import warn

UTF_16 = (b"\xff\xfe", b"\xfe\xff")   # how a text in UTF-16 begins


class Source:
    """The jobs that a command line names; iteration yields (where, line number, job.Job).

    function: bytes, or None where a line is a job record. files: one payload each, - is standard input; without, a line is a
    payload. unique: of the only job, or None. unique_data: uniques are digests of the payloads. empty: whether a payload may
    be empty. waiting() is called before a read blocks; bad(BadRecord) is called for what is no job.
    """

    def __init__(self, function: bytes | None, files: list[str], unique: bytes | None = None, unique_data: bool = False,
                 priority: str = "normal", null: bool = False, empty: bool = False, waiting=lambda: None, bad=lambda error: None):
        self.function, self.files, self.unique, self.unique_data = function, files, unique, unique_data
        self.priority, self.null, self.empty, self.waiting, self.bad = priority, null, empty, waiting, bad
        self.made, self.count = os.urandom(8).hex().encode(), 0   # uniques that are made up: one beginning, then a count
        self.looked = False   # at whether payload lines are of another system
        if unique is not None and unique_data:
            raise Usage("--unique and --unique-data: only one of them")
        if unique is not None and function is None:
            raise Usage("--unique: a record has its own: set .unique")
        if unique is not None and len(files) > 1:
            raise Usage("--unique: names one job, and there are several files")
        try:
            if function is not None:
                job.check_new_function(function)
            if unique is not None:
                job.check_unique(unique)
        except BadRecord as error:
            raise Usage(str(error)) from None

    def __iter__(self):
        if self.function is None:
            return self._records()
        return self._files() if self.files else self._lines()

    def _records(self):
        stdin_or_usage("give FUNCTION, or job records on standard input")
        for where, record in records(Input(waiting=self.waiting), self.bad):
            try:
                yield where, int(where.rpartition(":")[2]), self._from_record(record)
            except BadRecord as error:
                self.bad(BadRecord(f"{where}: {error}"))

    def _files(self):
        for number, name in enumerate(self.files, 1):
            try:
                yield name, number, self._from_payload(read(name))
            except BadRecord as error:
                self.bad(BadRecord(f"{name}: {error}"))

    def _lines(self):
        stdin_or_usage("give FILE, or payloads on standard input")
        lines = iter(Input(null=self.null, waiting=self.waiting))
        if self.unique is not None:   # nothing is submitted before it is known to be the only one
            first = list(itertools.islice(lines, 2))
            if len(first) > 1:
                raise Usage("--unique: names one job, and there is a second line (a FILE, or -, is one payload)")
            lines = iter(first)
        for number, line in lines:
            if not self.looked:
                self._look(number, line)
            try:
                yield "stdin", number, self._from_payload(line)
            except BadRecord as error:
                self.bad(BadRecord(f"stdin:{number}: {error}"))

    def _look(self, number: int, line: bytes) -> None:
        """Warn once of payload lines that are hardly meant as they are; they are taken verbatim all the same."""
        if number == 1 and line.startswith(UTF_16):
            self.looked = True
            warn("stdin: looks like UTF-16: payloads are its bytes (iconv -f utf-16 -t utf-8 makes text of it)")
        elif (number == 1 and line.strip() == b"[") or line.startswith(b"[{"):
            self.looked = True
            warn(f"stdin:{number}: looks like a JSON array: each line is a payload (jq -c '.[]' makes a line of each element)")
        elif line.endswith(b"\r"):
            self.looked = True
            warn(f"stdin:{number}: lines end in CR LF: each payload ends in CR (tr -d '\\r' removes them)")

    def _from_payload(self, data: bytes) -> job.Job:
        assert self.function is not None
        made = job.Job(self.function, self.unique or self._made_unique(data), data, self.priority)
        made.given = self.unique is not None
        return self._checked(made)

    def _made_unique(self, data: bytes) -> bytes:
        if self.unique_data:
            return job.digest(20, data).encode()
        self.count += 1
        return b"%s-%d" % (self.made, self.count)

    def _from_record(self, record: dict) -> job.Job:
        if record.get("id") is not None:
            raise BadRecord(f"job {record['id']} is quarantined: use gm-requeue, or delete .id to submit a copy")
        made = job.Job.from_record(record)
        if self.unique_data and made.wire_unique is None:
            made.unique, made.given = job.digest(20, made.data).encode(), False
        return self._checked(made)

    def _checked(self, made: job.Job) -> job.Job:
        if not made.data and not self.empty:
            raise BadRecord("empty payload: it would stop gearmand from starting again")
        return made


def read(name: str) -> bytes:
    """The bytes of a file; - is standard input. Raises BadRecord."""
    try:
        if name == "-":
            with open(0, "rb", closefd=False) as file:
                return file.read()
        with open(name, "rb") as file:
            return file.read()
    except OSError as error:
        raise BadRecord(f"cannot read: {reason(error)}") from None

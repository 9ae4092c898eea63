"""What a Python handler for gm-work imports. gm-python(1) is its manual.

    from libgm.python import Drop, Quarantine, Retry     # to raise in a handler
"""

from __future__ import annotations

import json
import sys

from libgm import job
from libgm.errors import BadRecord
from libgm.job import PRIORITIES, get


class Verdict(Exception):
    """Raised in a handler: what becomes of the job."""

    verdict = ""
    delay: float | None = None


class Retry(Verdict):
    """Try the job again, after `delay` seconds if it is given. It counts as a failed attempt. Raises ValueError, TypeError."""

    verdict = "retry"

    def __init__(self, why: str = "to be tried again", delay: float | None = None):
        super().__init__(why)
        if delay is not None:
            self.delay = float(delay)
            if not 0 <= self.delay < float("inf"):
                raise ValueError(f"delay is not a number of seconds: {delay}")


class Quarantine(Verdict):
    """Quarantine the job at once: another attempt cannot succeed."""

    verdict = "dead"


class Drop(Verdict):
    """Forget the job: neither retry nor keep it."""

    verdict = "drop"


class Job:
    """A job, as a handler is called with it.

    data: the payload in bytes. function, unique, handle: text. attempts: the number of this attempt, from 1. record: the
    whole record.
    """

    def __init__(self, record: dict, say, submit):
        """say(answer) writes an answer to gm-work; submit(function, unique, data, priority) returns a handle."""
        self.record, self._say, self._submit = record, say, submit
        self.data = get(record, "data") or b""
        self.function, self.unique, self.handle = (record.get(name) for name in ("function", "unique", "handle"))
        self.attempts = record.get("attempts", 1)
        self._log: list[str] = []
        self._extra: dict = {}

    @property
    def text(self) -> str:
        """The payload as text. Raises UnicodeDecodeError."""
        return self.data.decode()

    @property
    def json(self):
        """The value of the payload's JSON. Raises ValueError."""
        return json.loads(self.data)

    def log(self, *words: object) -> None:
        """Write a line to the job's stderr, which its record keeps if it fails."""
        line = " ".join(map(str, words))
        self._log.append(line)
        print(line, file=sys.stderr, flush=True)

    def extra(self, **values: object) -> None:
        """Add values to the job's event. gm-tally makes statistics of numbers."""
        self._extra.update(values)

    def submit(self, function: str, data: object, unique: str | None = None, priority: str = "normal") -> str:
        """Submit another job and wait until a server has accepted it; its handle. Call it when this job's work is safe.

        data: bytes or str as they are, anything else as JSON. unique: a digest of data by default, so that a second run
        of this job adds no second copy to the queue. Raises BadRecord, ValueError or TypeError for data that is no JSON,
        and Error if no server accepts the job.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            data = (data if isinstance(data, str) else json.dumps(data, sort_keys=True, allow_nan=False)).encode()
        data = bytes(data)
        if not data:
            raise BadRecord("empty payload: it would stop gearmand from starting again")
        if priority not in PRIORITIES:
            raise BadRecord(f"priority is not one of {', '.join(PRIORITIES)}")
        made = job.Job(job.check_new_function(function.encode()), job.check_unique((unique or job.digest(20, data)).encode()),
                       data, priority)
        made.given = unique is not None
        return self._submit(made)

    def progress(self, done: int, of: int) -> None:
        """Tell a waiting client how far the job is."""
        self._say({"progress": [done, of]})

    def partial(self, data: bytes | str) -> None:
        """Send a part of the result to a waiting client."""
        self._say(coded("partial", data.encode() if isinstance(data, str) else bytes(data)))


def coded(name: str, data: bytes) -> dict:
    """data under name if it is text, else under name_b64."""
    found: dict = {}
    job.put(found, name, data)
    return found

"""A Python callable as COMMAND of gm-work --pipe: records in, answers out. gm-python(1) is its manual.

    from libgm.python import Drop, Quarantine, Retry     # to raise in a handler
"""

from __future__ import annotations

import json
import os
import sys
import time

from libgm.errors import BadRecord, Error
from libgm.job import PRIORITIES, check_function, check_unique, check_unwaited, digest, get, plain

CHUNK = 1 << 18
LAST_LINES = 50       # of a traceback and log that an answer carries


class Verdict(Exception):
    """Raised in a handler: what is to become of the job."""

    verdict = ""


class Retry(Verdict):
    """Try the job again, after delay seconds, or as gm-work would wait; it counts as a failed attempt."""

    verdict = "retry"

    def __init__(self, why: str = "to be tried again", delay: float | None = None):
        super().__init__(why)
        self.delay = delay


class Quarantine(Verdict):
    """Trying again is no use: set the job aside at once."""

    verdict = "dead"


class Drop(Verdict):
    """The job is of no use to anybody: neither retried nor kept."""

    verdict = "drop"


class NotLoaded(Error):
    """The module or the callable cannot be had: no job's fault."""


class Job:
    """What a handler is given.

    data: the payload in bytes; function, unique, handle: text; attempts: the number of this attempt, from 1; record: the
    whole record.
    """

    def __init__(self, record: dict, say):
        self.record, self._say, self._log = record, say, []
        self.data = get(record, "data") or b""
        self.function, self.unique, self.handle = (record.get(name) for name in ("function", "unique", "handle"))
        self.attempts = record.get("attempts", 1)
        self._extra: dict = {}

    @property
    def text(self) -> str:
        """The payload as text. Raises UnicodeDecodeError."""
        return self.data.decode()

    @property
    def json(self):
        """The payload, read as JSON. Raises ValueError."""
        return json.loads(self.data)

    def log(self, *words: object) -> None:
        """A line for the job's stderr, which its record keeps where it fails."""
        line = " ".join(map(str, words))
        self._log.append(line)
        print(line, file=sys.stderr, flush=True)

    def extra(self, **values: object) -> None:
        """Values for the job's event: numbers go into gm-tally's statistics."""
        self._extra.update(values)

    def submit(self, function: str, data: object, unique: str | None = None, priority: str = "normal") -> str:
        """Submit another job, and wait until a server has it; its handle. To be called when this job's own work is safe.

        data: bytes or str as they are, all else as JSON. unique: a digest of data, so that a repeat of this job adds no
        second copy to the queue. Raises BadRecord, and Error where no server takes it: this job is tried again.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            data = (data if isinstance(data, str) else json.dumps(data, sort_keys=True)).encode()
        data = bytes(data)
        if not data:
            raise BadRecord("empty payload: it would stop gearmand from starting again")
        if priority not in PRIORITIES:
            raise BadRecord(f"priority is not one of {', '.join(PRIORITIES)}")
        wire_unique = check_unwaited(check_unique((unique or digest(20, data)).encode()))
        return _submitted(check_function(function.encode()), wire_unique, plain(data), priority)

    def progress(self, done: int, of: int) -> None:
        """Tell whoever waits for the job how far it is."""
        self._say({"progress": [done, of]})

    def partial(self, data: bytes | str) -> None:
        """Send a part of the result to whoever waits for the job."""
        self._say(coded("partial", data.encode() if isinstance(data, str) else bytes(data)))


_submitter = None   # of this process, its connections kept


def _submitted(*what) -> str:
    """Submit (function, unique, data, priority) and wait for its handle. Raises Error."""
    global _submitter
    from libgm.gearman import address, client
    from libgm.shell import places
    if _submitter is None:
        _submitter = client.Submitter(address.parse_servers(places.servers({})),
                                      on_accept=lambda answers, handle, server: answers.append(handle),
                                      on_refuse=lambda answers, error: answers.append(error))
    answers: list = []
    try:
        _submitter.submit(*what, answers)
        _submitter.finish()
    except Error:
        _submitter.close()   # with what it would send again
        _submitter = None
        raise
    if isinstance(answers[0], Error):
        raise answers[0]
    return answers[0].decode()


def coded(name: str, data: bytes) -> dict:
    """data under name where it is text, else under name_b64."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        from base64 import b64encode
        return {name + "_b64": b64encode(data).decode()}


def result_of(value: object) -> dict:
    """The answer for what a handler returned: bytes and str as they are, None as nothing, all else as JSON."""
    if value is None:
        return {"ok": True}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"ok": True, **coded("result", bytes(value))}
    text = value if isinstance(value, str) else json.dumps(value)
    text.encode()   # a lone surrogate is no text
    return {"ok": True, "result": text}


def failure_of(error: BaseException, log: list[str]) -> dict:
    """The answer for what a handler raised: its last line is the error, the traceback the end of stderr."""
    if isinstance(error, Verdict):
        answer = {"ok": False, "error": printable(str(error)), "verdict": error.verdict}
        if getattr(error, "delay", None) is not None:
            answer["delay"] = error.delay
        lines = log
    elif isinstance(error, BadRecord):
        answer, lines = {"ok": False, "error": str(error)}, log
    else:
        import traceback
        trace = error.__traceback__.tb_next if error.__traceback__ else None   # without our own frame
        lines = log + "".join(traceback.format_exception(type(error), error, trace)).splitlines()
        answer = {"ok": False, "error": printable(lines[-1])}
    if lines:
        answer["stderr"] = printable("\n".join(lines[-LAST_LINES:]))
    return answer


def printable(text: str) -> str:
    """text without lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def load(name: str, module: str | None = None):
    """The object that MODULE:NAME (or NAME of a module) names; the current directory comes first. Raises NotLoaded."""
    import importlib
    place, colon, path = name.rpartition(":")
    place = place or module or ""
    if not (place and path):
        raise NotLoaded(f"{name}: not MODULE:CALLABLE")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(place)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:   # whatever its import raises is no job's fault
        import traceback
        if not isinstance(error, (ModuleNotFoundError, AttributeError)):
            traceback.print_exc()
        raise NotLoaded(f"{name}: {type(error).__name__}: {error}") from None
    if not callable(found):
        raise NotLoaded(f"{name}: not callable")
    return found


class Speaker:
    """The pipe to gm-work, on descriptors of its own: what a handler reads from 0 is empty, what it prints goes to stderr."""

    def __init__(self):
        self.input, self.output = os.dup(0), os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self.encode = json.JSONEncoder(separators=(",", ":"), default=str, allow_nan=False).encode

    def say(self, answer: dict) -> None:
        """Write an answer. Raises ValueError or TypeError where it holds what is no JSON."""
        data = memoryview(self.encode(answer).encode() + b"\n")
        while data:
            data = data[os.write(self.output, data):]

    def lines(self):
        """The lines that come in, until their end."""
        parts: list[bytes] = []
        while True:
            chunk = os.read(self.input, CHUNK)
            if not chunk:
                break
            parts.append(chunk)
            if b"\n" in chunk:
                *whole, rest = b"".join(parts).split(b"\n")
                yield from whole
                parts = [rest]
        rest = b"".join(parts)
        if rest:
            yield rest


def work(handler, setup, teardown, speaker: Speaker) -> bool:
    """Set up, answer every record that comes in, clean up; whether all of them went well. Raises NotLoaded."""
    try:
        state = setup() if setup else None
    except Exception as error:
        raise NotLoaded(f"{setup.__name__}: {type(error).__name__}: {error}") from None
    try:
        return serve(handler if state is None else lambda job: handler(job, state), speaker)
    finally:
        if teardown:
            teardown() if state is None else teardown(state)


def serve(handler, speaker: Speaker) -> bool:
    """Answer every record with what handler(job) returns or raises; whether none of them failed."""
    good = True
    for line in speaker.lines():
        if not line.strip():
            continue
        job, began = None, time.monotonic()
        try:
            job = Job(read(line), speaker.say)
            answer = result_of(handler(job))
            speaker.say(timed({**answer, "extra": job._extra} if job._extra else answer, job, began))
        except BrokenPipeError:
            return False
        except (Exception, SystemExit) as error:   # sys.exit() in a handler ends its job, not the others'
            good = False
            speaker.say(timed(failure_of(error, job._log if job else []), job, began))
    return good


def timed(answer: dict, job: Job | None, began: float) -> dict:
    """The answer to a job of gm-work's with what it took: gm-work may read several answers at once."""
    return {**answer, "duration": round(time.monotonic() - began, 6)} if job and job.handle else answer


def read(line: bytes) -> dict:
    """The record of a line. Raises BadRecord."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise BadRecord("not a JSON object")
    return record

"""gm-python: a Python callable as COMMAND of gm-work --pipe, records in, answers out."""

from __future__ import annotations

import json
import os
import sys
import time

from libgm.errors import BadRecord, Error
from libgm.job import Job as Submission
from libgm.python import Job, Verdict, coded
from libgm.shell.lines import Input, decoder

LAST_LINES = 50       # of a traceback and log that an answer carries


class NotLoaded(Error):
    """The module or the callable cannot be loaded, which is no job's fault."""


class Sender:
    """Submits the jobs of Job.submit(). It connects at the first one and keeps the connections."""

    def __init__(self):
        self.client = None

    def submit(self, made: Submission) -> str:
        """Submit a job and wait for its handle. Raises Error."""
        answers: list = []
        try:
            client = self.connected()
            client.submit(made.function, *made.on_wire(), made.priority, answers, name=made.unique)
            client.finish()
        except Error:
            if self.client is not None:
                self.client.close()   # it would send the job again
                self.client = None
            raise
        if isinstance(answers[0], Error):
            raise answers[0]
        return answers[0].decode()

    def connected(self):
        if self.client is None:
            from libgm.gearman import address, client
            from libgm.shell import places
            self.client = client.Submitter(address.parse_servers(places.servers({})),
                                           on_accept=lambda answers, handle, server: answers.append(handle),
                                           on_refuse=lambda answers, error: answers.append(error))
        return self.client


def result_of(value: object) -> dict:
    """The answer for a handler's return value: bytes and str as they are, None as nothing, anything else as JSON.

    Raises ValueError or TypeError if JSON cannot express the value.
    """
    if value is None:
        return {"ok": True}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"ok": True, **coded("result", bytes(value))}
    text = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
    text.encode()   # a lone surrogate is no text
    return {"ok": True, "result": text}


def failure_of(error: BaseException, log: list[str]) -> dict:
    """The answer for a handler's exception: its own line is the error, the traceback ends stderr."""
    if isinstance(error, Verdict):
        answer: dict = {"ok": False, "error": printable(str(error)), "verdict": error.verdict}
        if error.delay is not None:
            answer["delay"] = error.delay
        lines = log
    elif isinstance(error, BadRecord):
        answer, lines = {"ok": False, "error": str(error)}, log
    else:
        import traceback
        trace = error.__traceback__.tb_next if error.__traceback__ else None   # without our own frame
        lines = log + "".join(traceback.format_exception(type(error), error, trace)).splitlines()
        answer = {"ok": False, "error": printable(exception_line(error))}
    if lines:
        answer["stderr"] = printable("\n".join(lines[-LAST_LINES:]))
    return answer


def exception_line(error: BaseException) -> str:
    """The type and message of an exception on one line, as a traceback has it before notes and grouped exceptions."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = next((line for line in str(error).splitlines() if line.strip()), "")
    except Exception:   # its __str__ is the handler's
        text = "<exception str() failed>"
    return f"{name}: {text}" if text else name


def printable(text: str) -> str:
    """text without lone surrogates."""
    return text.encode("utf-8", "replace").decode()


def load(name: str, module: str | None = None):
    """The object named MODULE:NAME, or NAME of module. The current directory is searched first. Raises NotLoaded."""
    import importlib
    where, _, path = name.rpartition(":")
    where = where or module or ""
    if not (where and path):
        raise NotLoaded(f"{name}: not MODULE:CALLABLE")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(where)
        for part in path.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:   # an import may raise anything
        import traceback
        if not isinstance(error, (ModuleNotFoundError, AttributeError)):
            traceback.print_exc()
        raise NotLoaded(f"{name}: {exception_line(error)}") from None
    if not callable(found):
        raise NotLoaded(f"{name}: not callable")
    return found


class Pipe:
    """The pipe to gm-work, moved to other descriptors: what a handler reads from 0 is empty, what it prints goes to stderr.

    .input: the lines.Input of the records.
    """

    def __init__(self):
        self.input, self.output = Input(os.dup(0)), os.dup(1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        os.dup2(2, 1)
        sys.stdout = sys.stderr
        self.encode = json.JSONEncoder(separators=(",", ":"), default=str, allow_nan=False).encode

    def say(self, answer: dict) -> None:
        """Write an answer. Raises ValueError or TypeError if JSON cannot express it."""
        data = memoryview(self.encode(answer).encode() + b"\n")
        while data:
            data = data[os.write(self.output, data):]


def work(handler, setup, teardown, pipe: Pipe) -> bool:
    """Set up, answer each record, clean up; whether all jobs went well. Raises NotLoaded."""
    try:
        state = setup() if setup else None
    except (Exception, SystemExit) as error:
        raise NotLoaded(f"{getattr(setup, '__name__', setup)}: {exception_line(error)}") from None
    try:
        return serve(handler if state is None else lambda job: handler(job, state), pipe)
    finally:
        if teardown:
            teardown() if state is None else teardown(state)


def serve(handler, pipe: Pipe) -> bool:
    """Answer each record with what handler(job) returns or raises; whether all jobs went well."""
    good, sender = True, Sender()
    for _, line in pipe.input:
        if not line.strip():
            continue
        job, began = None, time.monotonic()
        try:
            job = Job(read(line), pipe.say, sender.submit)
            answer = result_of(handler(job))
            pipe.say(timed({**answer, "extra": job._extra} if job._extra else answer, job, began))
        except BrokenPipeError:
            return False
        except (Exception, SystemExit) as error:   # sys.exit() in a handler ends its job, not the others'
            good = False
            pipe.say(timed(failure_of(error, job._log if job else []), job, began))
    return good


def timed(answer: dict, job: Job | None, began: float) -> dict:
    """The answer, with the duration of a job from gm-work, which may read several answers at once."""
    return {**answer, "duration": round(time.monotonic() - began, 6)} if job and job.handle else answer


def read(line: bytes) -> dict:
    """The record of a line. Raises BadRecord."""
    try:
        record = decoder()(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"not JSON: {error}") from None
    if not isinstance(record, dict):
        raise BadRecord("not a JSON object")
    return record

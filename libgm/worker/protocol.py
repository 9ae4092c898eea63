"""The lines between gm-work --pipe and its COMMAND: a record for each job, an answer to each. gm-work(1), PIPE MODE."""

from __future__ import annotations

import json

from libgm import job
from libgm.errors import Error
from libgm.shell.lines import refuse
from libgm.worker.outcome import MAX_EXTRA, MAX_OUTPUT, Outcome, finite, last_line, tail

VERDICTS = ("retry", "dead", "drop")
quoted = json.encoder.encode_basestring
decode = json.JSONDecoder(parse_constant=refuse, parse_float=finite).decode


class Broken(Error):
    """COMMAND broke the protocol: nothing that it says afterwards can be trusted."""


def line_of(attempt) -> bytes:
    """The record of an attempt for COMMAND: function, unique, handle, attempts (the number of this one), priority, data."""
    fields = [field("function", attempt.assigned.function), field("unique", attempt.unique),
              '"handle":%s,"attempts":%d,"priority":"%s"' % (quoted(attempt.handle), attempt.before + 1,
                                                            attempt.header.priority),
              field("data", attempt.data)]
    return ("{" + ",".join(fields) + "}\n").encode()


def field(name: str, value: bytes) -> str:
    """A field of a record that is bytes, as JSON."""
    try:
        return f'"{name}":{quoted(value.decode())}'
    except UnicodeDecodeError:
        found: dict = {}
        job.put(found, name, value)
        (name, text), = found.items()
        return f'"{name}":"{text}"'


def parse(line: bytes) -> dict:
    """A line of COMMAND as an object. Raises Broken."""
    try:
        found = decode(line.decode())
    except (ValueError, RecursionError) as error:
        raise Broken(f"its answer is not JSON: {line[:60].decode('utf-8', 'replace')!r}: {error}"[:300]) from None
    if not isinstance(found, dict):
        raise Broken(f"its answer is not a JSON object: {line[:60].decode('utf-8', 'replace')!r}")
    return found


def take_bytes(answer: dict, name: str) -> bytes:
    """The bytes under name or name_b64; none where both are absent. Raises Broken."""
    try:
        return job.get(answer, name) or b""
    except job.BadRecord as error:
        raise Broken(f"its answer: {error}") from None


def outcome_of(answer: dict, said: bytes) -> Outcome:
    """The outcome that an answer tells of. said: what COMMAND wrote to stderr meanwhile. Raises Broken."""
    outcome = Outcome()
    if answer["ok"] is True:
        outcome.verdict, outcome.stdout = "done", take_bytes(answer, "result")
        if len(outcome.stdout) > MAX_OUTPUT:
            outcome.stdout, outcome.overflow = b"", True
        return outcome
    if answer["ok"] is not False:
        raise Broken("its answer: ok is neither true nor false")
    verdict, delay = answer.get("verdict"), answer.get("delay")
    if verdict is not None and verdict not in VERDICTS:
        raise Broken(f"its answer: verdict is not one of {', '.join(VERDICTS)}")
    if delay is not None and (type(delay) not in (int, float) or not 0 <= delay < 1e12):
        raise Broken("its answer: delay is not a number of seconds")
    error = take_bytes(answer, "error")
    outcome.verdict, outcome.delay = verdict or "fail", delay
    outcome.stderr = tail(take_bytes(answer, "stderr") or said or (error if b"\n" in error.strip() else b""))
    outcome.error = last_line(error) or last_line(outcome.stderr) or "failed without saying why"
    return outcome


def take_extra(extra: dict, new: object) -> None:
    """Add an answer's `extra` (None: it has none) to what a job has told before. Raises Broken."""
    if new is None:
        return
    if not isinstance(new, dict):
        raise Broken("its answer: extra is not an object")
    extra.update(new)
    if len(extra) > 64 and len(str(extra)) > MAX_EXTRA:
        raise Broken(f"its answer: extra over {MAX_EXTRA >> 10} kB")


def pass_on(assigned, answer: dict) -> None:
    """Pass on to the waiting client what COMMAND tells of the running job. Raises Broken."""
    progress = answer.get("progress")
    if progress is not None:
        if not (isinstance(progress, list) and len(progress) == 2 and
                all(type(number) is int and 0 <= number < 1 << 63 for number in progress)):
            raise Broken("its answer: progress is not two whole numbers")
    partial = take_bytes(answer, "partial")
    if progress is None and not {"partial", "partial_b64", "extra"} & set(answer):
        raise Broken("its answer: none of ok, progress, partial, extra")
    if not assigned.lost:
        if progress is not None:
            assigned.status(*progress)
        if partial:
            assigned.partial(partial)

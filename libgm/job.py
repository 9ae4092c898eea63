"""The record: a job as JSON and as bytes, its envelope, its identity. Pure; gm-job(5) is its manual."""

from __future__ import annotations

import os
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from functools import lru_cache
from hashlib import blake2b

from libgm.errors import BadRecord
from libgm.units import epoch

MAX_UNIQUE = 63        # bytes; gearmand misbehaves at 64 (GEARMAND.md)
MAX_ENVELOPE = 2048    # bytes of the envelope's line; longer is payload
MAX_ATTEMPTS = 1_000_000
MAX_PAYLOAD = 64 << 20  # bytes a worker takes into memory (DESIGN, rule 10)
PRIORITIES = ("high", "normal", "low")
MARK = b"%gm1 "
WAITED = b"~w"         # ends the wire unique of a job whose client waits (rule 9)


def put(record: dict, name: str, value: bytes | None) -> None:
    """Set record[name] to the text of value, or record[name_b64] where value is not UTF-8."""
    if value is None:
        record[name] = None
        return
    try:
        record[name] = value.decode()
    except UnicodeDecodeError:
        record[name + "_b64"] = b2a_base64(value, newline=False).decode()


def get(record: dict, name: str) -> bytes | None:
    """The bytes under name or name_b64; None where both are absent or null. Raises BadRecord."""
    text, coded = record.get(name), record.get(name + "_b64")
    if text is not None and coded is not None:
        raise BadRecord(f"both {name} and {name}_b64")
    value = text if coded is None else coded
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadRecord(f"{name} is not a string" + (": quote it, or use .data|tojson in jq" if name == "data" else ""))
    try:
        if coded is None:
            return value.encode()
        data = coded.encode("ascii")
        found = a2b_base64(data)
        # binascii skips what is not base64; only the whole alphabet round-trips
        if b2a_base64(found, newline=False).rstrip(b"=") != data.strip().rstrip(b"="):
            raise ValueError
        return found
    except UnicodeEncodeError:
        raise BadRecord(f"{name} holds a lone surrogate" if coded is None else f"{name}_b64 is not base64") from None
    except (Base64Error, ValueError):
        raise BadRecord(f"{name}_b64 is not base64") from None


def check_function(function: bytes | None) -> bytes:
    """function itself, where a Gearman server and its admin lines can carry it. Raises BadRecord."""
    if not function:
        raise BadRecord("no function")
    if b"\0" in function or b"\n" in function or b"\r" in function:
        raise BadRecord("function holds a NUL or a newline")
    if len(function) > 512:
        raise BadRecord(f"function of {len(function)} bytes: at most 512")
    return function


def check_unique(unique: bytes) -> bytes:
    """unique itself, 1 to 63 bytes without NUL. Raises BadRecord."""
    if not 1 <= len(unique) <= MAX_UNIQUE:
        raise BadRecord(f"unique of {len(unique)} bytes: 1 to {MAX_UNIQUE}")
    if b"\0" in unique or b"\n" in unique or b"\r" in unique:
        raise BadRecord("unique holds a NUL or a newline")
    return unique


def new_unique() -> bytes:
    return os.urandom(12).hex().encode()


def check_unwaited(unique: bytes) -> bytes:
    """unique itself, where it marks no job that a client waits for. Raises BadRecord."""
    if unique.endswith(WAITED):
        raise BadRecord("unique ends in ~w, which marks jobs whose client waits")
    return unique


def digest(size: int, *parts: bytes) -> str:
    """size bytes of BLAKE2b over the parts, each with its length before it, as hex digits."""
    return _digest(size, *parts).hex()


def _digest(size: int, *parts: bytes) -> bytes:
    state = blake2b(digest_size=size)
    for part in parts:
        state.update(b"%d:" % len(part))
        state.update(part)
    return state.digest()


def new_key(server: bytes, handle: bytes, function: bytes, unique: bytes, data: bytes) -> str:
    """The key a job gets when gm-work first fails it (rule 5): the same for whoever is handed it again.

    Handles restart with their server: the function keeps apart what else would be one job.
    """
    return digest(16, server, handle, function, unique, data)


def wire_unique(function: bytes, key: str, *step: object) -> bytes:
    """The unique under which a step (attempt, requeue nonce, via) of a job travels (rule 5): 41 bytes."""
    return b"~" + digest(20, function, key.encode(), *(str(part).encode() for part in step)).encode()


def identity(function: bytes, unique: bytes, data: bytes) -> bytes:
    """What tells that a start was of this very job (rule 6); all as on the wire."""
    return _digest(16, function, unique, data)


class Envelope:
    """What gearmang counts in front of a payload.

    key (32 hex digits, or None before the first failure), unique (bytes, the job's own, or None),
    attempts made, requeues, first_failed (epoch seconds or None), priority.
    """

    __slots__ = ("key", "unique", "attempts", "requeues", "first_failed", "priority")

    def __init__(self, key=None, unique=None, attempts=0, requeues=0, first_failed=None, priority="normal"):
        self.key, self.unique, self.attempts = key, unique, attempts
        self.requeues, self.first_failed, self.priority = requeues, first_failed, priority

    def line(self) -> str:
        """The envelope as a JSON object in ASCII; fields at their defaults are left out, but attempts. Written out, since an
        encoder takes several times as long, for each job."""
        line = f'{{"attempts":{self.attempts}'
        if self.key is not None:
            line += f',"key":"{self.key}"'
        if self.unique is not None:
            try:
                line += f',"unique":{quoter()(self.unique.decode())}'
            except UnicodeDecodeError:
                line += f',"unique_b64":"{b2a_base64(self.unique, newline=False).decode()}"'
        if self.requeues:
            line += f',"requeues":{self.requeues}'
        if self.first_failed is not None:
            line += f',"first_failed":{self.first_failed}'
        if self.priority != "normal":
            line += f',"priority":"{self.priority}"'
        return line + "}"

    def record(self) -> dict:
        """line() as an object."""
        import json
        return json.loads(self.line())

    @classmethod
    def from_record(cls, fields: object) -> "Envelope":
        """Raises BadRecord for anything that record() cannot have written."""
        if not isinstance(fields, dict) or not set(fields) <= ENVELOPE_FIELDS:
            raise BadRecord("envelope: not one of gearmang's")
        key, unique, priority = fields.get("key"), get(fields, "unique"), fields.get("priority", "normal")
        if key is not None and not (isinstance(key, str) and len(key) == 32 and not key.strip("0123456789abcdef")):
            raise BadRecord("envelope: key is not 32 hex digits")
        if unique is not None and (len(unique) > MAX_UNIQUE or b"\0" in unique):
            raise BadRecord("envelope: unique is out of range")
        if priority not in PRIORITIES:
            raise BadRecord("envelope: no such priority")
        counts = [fields.get(name, 0) for name in ("attempts", "requeues")]
        if any(type(count) is not int or not 0 <= count <= MAX_ATTEMPTS for count in counts):
            raise BadRecord("envelope: a count is out of range")
        first = fields.get("first_failed")
        if first is not None and (type(first) is not int or not 0 <= first < 1 << 40):
            raise BadRecord("envelope: first_failed is out of range")
        return cls(key, unique, counts[0], counts[1], first, priority)


ENVELOPE_FIELDS = {"key", "unique", "unique_b64", "attempts", "requeues", "first_failed", "priority"}


def wrap(envelope: Envelope, data: bytes) -> bytes:
    """The payload with its envelope in front."""
    return b"%s%s\n%s" % (MARK, envelope.line().encode(), data)


@lru_cache(None)
def quoter():
    """What makes a text a JSON string in ASCII."""
    from json.encoder import encode_basestring_ascii
    return encode_basestring_ascii


def plain(data: bytes) -> bytes:
    """A payload as it is submitted: where it would be taken for an envelope, an empty one stands in front."""
    return wrap(Envelope(), data) if data.startswith(MARK) and unwrap(data)[0] is not None else data


def unwrap(data: bytes) -> tuple[Envelope | None, bytes]:
    """(envelope, payload); (None, data) where what stands in front is not an envelope (rule 1)."""
    if not data.startswith(MARK + b"{"):
        return None, data
    end = data.find(b"\n", 0, MAX_ENVELOPE)
    if end < 0:
        return None, data
    import json
    try:
        return Envelope.from_record(json.loads(data[len(MARK):end])), data[end + 1:]
    except (ValueError, RecursionError, BadRecord):
        return None, data


class Job:
    """A job to be submitted: function, unique, data (bytes), priority, envelope (Envelope or None), due (epoch seconds,
    of a job that waits in gearmand for its time)."""

    __slots__ = ("function", "unique", "data", "priority", "envelope", "due")

    def __init__(self, function, unique, data, priority="normal", envelope=None, due=None):
        self.function, self.unique, self.data = function, unique, data
        self.priority, self.envelope, self.due = priority, envelope, due

    @classmethod
    def from_record(cls, record: dict) -> "Job":
        """A record's job; unique is made up where it is absent. Raises BadRecord."""
        function = check_function(get(record, "function"))
        unique = get(record, "unique")
        data = get(record, "data")
        if data is None:
            raise BadRecord("no data")
        priority = record.get("priority") or "normal"
        if priority not in PRIORITIES:
            raise BadRecord(f"priority is not one of {', '.join(PRIORITIES)}")
        envelope, due = record.get("envelope"), None
        if "envelope" in record and record.get("due") is not None:   # as it stood in a queue
            try:
                due = int(epoch(record["due"]))
            except (ValueError, TypeError, AttributeError, OverflowError):
                raise BadRecord("due is not an ISO 8601 time") from None
        return cls(function, new_unique() if unique is None else check_unique(unique), data, priority,
                   None if envelope is None else Envelope.from_record(envelope), due)

"""The record: a job as JSON and as bytes. Pure; gm-job(5) is its manual."""

from __future__ import annotations

import os
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64

from libgm import wire
from libgm.errors import BadRecord
from libgm.units import epoch
from libgm.wire import MAX_UNIQUE, PRIORITIES

MAX_ATTEMPTS = 1_000_000
MAX_PAYLOAD = 64 << 20  # bytes that a worker takes into memory (gm-delivery(7), rule 10)
MAX_FUNCTION = 512      # bytes


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
    """The bytes under name or name_b64; None where both are absent. A field that is there is meant: null is no string.
    Raises BadRecord."""
    coded = name + "_b64" in record
    if name not in record and not coded:
        return None
    if name in record and coded:
        raise BadRecord(f"both {name} and {name}_b64")
    value = record[name + "_b64" if coded else name]
    if not isinstance(value, str):
        raise BadRecord(f"{name} is not a string" + (": quote it, or use .data|tojson in jq" if name == "data" else ""))
    try:
        if not coded:
            return value.encode()
        data = value.encode("ascii")
        found = a2b_base64(data)
        # binascii skips what is not base64; only the whole alphabet round-trips
        if b2a_base64(found, newline=False).rstrip(b"=") != data.strip().rstrip(b"="):
            raise ValueError
        return found
    except UnicodeEncodeError:
        raise BadRecord(f"{name}_b64 is not base64" if coded else f"{name} holds a lone surrogate") from None
    except (Base64Error, ValueError):
        raise BadRecord(f"{name}_b64 is not base64") from None


def check_function(function: bytes | None) -> bytes:
    """function itself, where a Gearman server can hold it. Raises BadRecord."""
    if not function:
        raise BadRecord("no function")
    if b"\0" in function:
        raise BadRecord("function holds a NUL")
    if len(function) > MAX_FUNCTION:
        raise BadRecord(f"function of {len(function)} bytes: at most {MAX_FUNCTION}")
    return function


def check_new_function(function: bytes | None) -> bytes:
    """check_function() for a new job: a newline in a name breaks the status lines of its server for everybody."""
    function = check_function(function)
    if b"\n" in function or b"\r" in function:
        raise BadRecord("function holds a newline")
    return function


def check_unique(unique: bytes) -> bytes:
    """unique itself, 1 to 63 bytes without NUL. Raises BadRecord."""
    if not 1 <= len(unique) <= MAX_UNIQUE:
        raise BadRecord(f"unique of {len(unique)} bytes: 1 to {MAX_UNIQUE}")
    if b"\0" in unique:
        raise BadRecord("unique holds a NUL")
    return unique


def new_unique() -> bytes:
    return os.urandom(12).hex().encode()


def digest(size: int, *parts: bytes) -> str:
    """size bytes of BLAKE2b over the parts, each with its length before it, as hex digits."""
    from hashlib import blake2b
    state = blake2b(digest_size=size)
    for part in parts:
        state.update(b"%d:" % len(part))
        state.update(part)
    return state.hexdigest()


def identity(function: bytes, unique: bytes, data: bytes) -> bytes:
    """What tells that a start was of this very job (gm-delivery(7), rule 6); all as on the wire."""
    from hashlib import blake2b
    state = blake2b(b"%d:%b%d:%b%d:" % (len(function), function, len(unique), unique, len(data)), digest_size=16)
    state.update(data)   # as digest(), in one step: it is made for each job
    return state.digest()


class Job:
    """A job to be submitted.

    function, unique, data: bytes. given: whether its submitter chose the unique. wire_unique: the unique under which the
    job stood in a queue and is put back, or None. due: epoch seconds until which gearmand or gm-at keeps it, or None.
    """

    __slots__ = ("function", "unique", "data", "priority", "given", "wire_unique", "due")

    def __init__(self, function: bytes, unique: bytes | None, data: bytes, priority: str = "normal",
                 wire_unique: bytes | None = None, due: int | None = None):
        self.function, self.data, self.priority, self.wire_unique, self.due = function, data, priority, wire_unique, due
        self.given = unique is not None
        self.unique = new_unique() if unique is None else unique

    def on_wire(self, waited: bool = False) -> tuple[bytes, bytes]:
        """(unique, payload) to submit. waited: a client waits for the result.

        A unique that was given goes as given, unless a worker would misread it or its payload; one that was made up carries
        the priority, which Gearman does not tell a worker.
        """
        if self.wire_unique is not None:
            return self.wire_unique, self.data
        if waited or (self.priority != "normal" and not self.given) or wire.misread(self.function, self.unique, self.data):
            return wire.pack(self.function, self.unique, wire.Header(priority=self.priority, waited=waited), self.data)
        return self.unique, self.data

    @classmethod
    def from_record(cls, record: dict) -> Job:
        """The job of a record; its unique is made up where it is absent. Raises BadRecord."""
        stood = get(record, "wire_unique")
        function = get(record, "function")
        function = check_new_function(function) if stood is None else check_function(function)
        unique, data = get(record, "unique"), get(record, "data")
        if data is None:
            raise BadRecord("no data")
        priority = text_field(record, "priority", "normal")
        if priority not in PRIORITIES:
            raise BadRecord(f"priority is not one of {', '.join(PRIORITIES)}")
        if stood is not None:
            check_unique(stood)
            if record.get("envelope") is not None:
                data = wire.wrapped(record["envelope"], data)
        elif unique is not None:
            check_unique(unique)
        return cls(function, unique if stood is None else stood, data, priority, stood, due_of(record))


def text_field(record: dict, name: str, default: str) -> str:
    """A field that is text: the default where it is absent. Raises BadRecord for null, and for anything else that is no text."""
    value = record.get(name, default)
    if not isinstance(value, str):
        raise BadRecord(f"{name} is not a string")
    return value


def due_of(record: dict) -> int | None:
    """Epoch seconds of a record's `due`; None where it is absent or null. Raises BadRecord."""
    if record.get("due") is None:
        return None
    try:
        return int(epoch(record["due"]))
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise BadRecord("due is not an ISO 8601 time") from None

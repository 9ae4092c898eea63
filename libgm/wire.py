"""The wire unique: what gearmang knows of a job, carried in the unique that the job travels under. Pure.

gm-delivery(7), rule 1. A wire unique is `~`, 22 characters of base 85 (141 bits: the header and a check), then the job's own
unique: up to 40 bytes as they are, or up to 63 hexadecimal digits packed. Whatever does not fit travels in an envelope, a
line `%gm1 {json}` in front of the payload. Everything that is not in its canonical form with a right check is a plain unique.
The check guards against accident, not against forgery.
"""

from __future__ import annotations

import os
from binascii import a2b_base64, b2a_base64
from functools import lru_cache
from hashlib import blake2b

from libgm.errors import BadRecord

MAX_UNIQUE = 63          # bytes; gearmand misbehaves at 64: it cuts the unique and puts a NUL in front of the payload
MAX_RAW = 40             # bytes of an own unique that a wire unique carries as they are
MAX_ENVELOPE = 2048      # bytes of the envelope's line; a longer line is payload
MARK = b"%gm1 "
PRIORITIES = ("high", "normal", "low")
ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$()*+,.:;<=>?@[]^`{|}&"[:85]
DIGITS = 22              # characters of base 85 that hold 141 bits
KEY_BITS, CHECK_BITS = 48, 16
SENDS = 1 << 12          # numbers of sending, before they begin at 0 again
MAX_HOLDS = 63           # holds that are counted

RAW, HEX, HEX_UPPER, ENVELOPE = range(4)   # forms in which the own unique is carried
# Fields of the header from the lowest bit up: name, bits. `odd`: of an odd number of hexadecimal digits.
FIELDS = (("key", KEY_BITS), ("first_failed", 32), ("attempts", 10), ("requeues", 9), ("sends", 12), ("holds", 6),
          ("priority", 2), ("known_bad", 1), ("waited", 1), ("form", 3), ("odd", 1))
BITS = sum(bits for _, bits in FIELDS)
CHUNKS = {1: 1, 2: 2, 3: 2, 4: 3, 5: 4, 6: 4, 7: 5, 8: 5}   # hexadecimal digits -> characters of base 85
_PAIRS = [bytes((high, low)) for high in ALPHABET for low in ALPHABET]
_VALUES = {character: value for value, character in enumerate(ALPHABET)}


class Header:
    """What gearmang knows of a job.

    key: 48 random bits, 0 before the job is first started. first_failed: epoch seconds, or None. attempts: runs that failed.
    requeues. sends: how often gearmang has handed the job to a server, modulo SENDS. holds: failures that the brake did not
    count. priority: high, normal or low. known_bad: it failed twice with a success of the function in between. waited: a
    client waits for its result.
    """

    __slots__ = ("key", "first_failed", "attempts", "requeues", "sends", "holds", "priority", "known_bad", "waited")

    def __init__(self, key: int = 0, first_failed: int | None = None, attempts: int = 0, requeues: int = 0, sends: int = 0,
                 holds: int = 0, priority: str = "normal", known_bad: bool = False, waited: bool = False):
        self.key, self.first_failed, self.attempts, self.requeues = key, first_failed, attempts, requeues
        self.sends, self.holds, self.priority, self.known_bad, self.waited = sends, holds, priority, known_bad, waited

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Header) and all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    def __repr__(self) -> str:
        return "Header(" + ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__) + ")"

    def fields(self) -> dict:
        """The header as an object of JSON; fields at their defaults are left out."""
        found: dict = {"key": key_text(self.key)} if self.key else {}
        for name in ("attempts", "requeues", "sends", "holds", "first_failed"):
            if getattr(self, name):
                found[name] = getattr(self, name)
        if self.priority != "normal":
            found["priority"] = self.priority
        for name in ("known_bad", "waited"):
            if getattr(self, name):
                found[name] = True
        return found


def new_key() -> int:
    """A key for a job that has none: 48 random bits, never 0."""
    return int.from_bytes(os.urandom(KEY_BITS // 8), "big") or 1


def key_text(key: int) -> str:
    """A key as records and the quarantine file have it: 12 hexadecimal digits."""
    return f"{key:012x}"


def key_value(text: str) -> int:
    """key_text() undone; of the 32 digits of a key from before wire uniques the first 12."""
    return int(text[:KEY_BITS // 4], 16)


def later(sends: int, other: int) -> bool:
    """Whether a number of sending comes after another one; numbers begin at 0 again."""
    return 0 < (sends - other) % SENDS < SENDS // 2


def next_sends(sends: int) -> int:
    return (sends + 1) % SENDS


# ---- packing


def pack(function: bytes, own: bytes, header: Header, data: bytes) -> tuple[bytes, bytes]:
    """(wire unique, payload on the wire) of a job: the payload as it is, but where an envelope is needed.

    own: the job's own unique, 0 to 63 bytes without NUL. A payload that begins with NUL needs an envelope under a wire unique
    of 63 bytes, where a worker takes that NUL for the end of a longer unique.
    """
    form, odd, body = _pack_own(own)
    number = None if form == ENVELOPE else _number(header, form, odd)
    if number is not None and not (len(body) == MAX_RAW and data.startswith(b"\0")):
        return _unique(function, number, body), data
    number = _number(Header(key=header.key, sends=header.sends), ENVELOPE, 0)
    assert number is not None
    return _unique(function, number, b""), MARK + _envelope(own, header) + b"\n" + data


def unpack(function: bytes, unique: bytes, data: bytes) -> tuple[bytes, Header, bytes]:
    """(own unique, header, payload) of a job as it came over the wire. data: the payload, or its first MAX_ENVELOPE bytes.

    A plain unique is the own unique of a job that gearmang knows nothing of. The envelope is read where the wire unique says
    so; also under a plain unique and one of an older gearmang, as long as NEWS says that these are read.
    """
    found = parse(function, unique)
    if found is not None and found[0] is not None:
        return found[0], found[1], data
    if data.startswith(MARK):
        inside = _unwrap(data)
        if inside is not None:
            own, header, payload = inside
            return unique if own is None else own, header, payload
    return unique, Header(), data


def parse(function: bytes, unique: bytes) -> tuple[bytes | None, Header] | None:
    """(own unique, header) that a wire unique carries: own is None where the envelope has both. None for a plain unique."""
    if not 1 + DIGITS <= len(unique) <= MAX_UNIQUE or unique[:1] != b"~":
        return None
    try:
        number, body = _decode(unique[1:1 + DIGITS]), unique[1 + DIGITS:]
        check, number = number >> BITS, number & ((1 << BITS) - 1)
        if check != _check(function, number, body):
            return None
        values, rest = {}, number
        for name, bits in FIELDS:
            values[name], rest = rest & ((1 << bits) - 1), rest >> bits
        form, odd = values.pop("form"), values.pop("odd")
        own = _unpack_own(form, odd, body)
        if values["priority"] > 2 or (own is not None and _pack_own(own) != (form, odd, body)):
            return None
    except (KeyError, ValueError):
        return None
    header = Header(**{**values, "first_failed": values["first_failed"] or None, "priority": PRIORITIES[values["priority"]],
                       "known_bad": bool(values["known_bad"]), "waited": bool(values["waited"])})
    return own, header


def misread(function: bytes, unique: bytes, data: bytes) -> bool:
    """Whether a worker would take a plain unique for a wire unique, or the beginning of its payload for something else."""
    return (unique.startswith(b"~") and parse(function, unique) is not None
            or data.startswith(MARK) and _unwrap(data) is not None
            or data.startswith(b"\0") and len(unique) == MAX_UNIQUE)


def _number(header: Header, form: int, odd: int) -> int | None:
    """The header as one number; None where a field does not fit."""
    number = shift = 0
    for value, (_, bits) in zip((header.key, header.first_failed or 0, header.attempts, header.requeues, header.sends,
                                 min(header.holds, MAX_HOLDS), PRIORITIES.index(header.priority), header.known_bad,
                                 header.waited, form, odd), FIELDS):
        if value >> bits:
            return None
        number |= value << shift
        shift += bits
    return number


def _unique(function: bytes, number: int, body: bytes) -> bytes:
    return b"~" + _encode(number | _check(function, number, body) << BITS, DIGITS) + body


def _check(function: bytes, number: int, body: bytes) -> int:
    state = blake2b(b"%d:" % len(function) + function + number.to_bytes(16, "big") + body, digest_size=2, person=b"gm-wire")
    return int.from_bytes(state.digest(), "big")


def _encode(number: int, digits: int) -> bytes:
    """A number in base 85, the highest digit first."""
    found = []
    for _ in range(digits // 2):
        number, rest = divmod(number, 7225)
        found.append(_PAIRS[rest])
    if digits % 2:
        number, rest = divmod(number, 85)
        found.append(ALPHABET[rest:rest + 1])
    assert not number
    return b"".join(reversed(found))


def _decode(text: bytes) -> int:
    """Raises KeyError for what is not base 85."""
    number = 0
    for character in text:
        number = number * 85 + _VALUES[character]
    return number


def _pack_own(own: bytes) -> tuple[int, int, bytes]:
    """(form, odd, body) of an own unique."""
    if len(own) <= MAX_RAW:
        return RAW, 0, own
    for form, digits in ((HEX, b"0123456789abcdef"), (HEX_UPPER, b"0123456789ABCDEF")):
        if not own.strip(digits):
            groups = (own[at:at + 8] for at in range(0, len(own), 8))
            return form, len(own) % 2, b"".join(_encode(int(group, 16), CHUNKS[len(group)]) for group in groups)
    return ENVELOPE, 0, b""


def _unpack_own(form: int, odd: int, body: bytes) -> bytes | None:
    """The own unique; None where it stands in the envelope. Raises ValueError, KeyError for what nobody packs."""
    if form == RAW:
        return body
    if form == ENVELOPE and not body:
        return None
    if form not in (HEX, HEX_UPPER):
        raise ValueError
    digits = []
    for at in range(0, len(body), 5):
        group = body[at:at + 5]
        counts = [count for count, size in CHUNKS.items() if size == len(group)]
        whole = at + 5 < len(body)
        count = 8 if whole else next(count for count in counts if len(counts) == 1 or count % 2 == odd)
        digits.append(f"{_decode(group):0{count}x}")
    own = "".join(digits)
    return (own if form == HEX else own.upper()).encode()


# ---- the envelope


@lru_cache(None)
def _quoter():
    from json.encoder import encode_basestring_ascii
    return encode_basestring_ascii


def _envelope(own: bytes, header: Header) -> bytes:
    """The envelope's object, in ASCII on one line."""
    import json
    found = header.fields()
    try:
        found["unique"] = own.decode()
    except UnicodeDecodeError:
        found["unique_b64"] = b2a_base64(own, newline=False).decode()
    return json.dumps(found, separators=(",", ":")).encode()


def _unwrap(data: bytes) -> tuple[bytes | None, Header, bytes] | None:
    """(own unique or None, header, payload) of a payload with an envelope; None where what stands in front is none."""
    if not data.startswith(MARK + b"{"):
        return None
    end = data.find(b"\n", 0, MAX_ENVELOPE)
    if end < 0:
        return None
    import json
    try:
        return (*header_of(json.loads(data[len(MARK):end])), data[end + 1:])
    except (ValueError, RecursionError, BadRecord):
        return None


def _own(fields: dict) -> bytes | None:
    text, coded = fields.get("unique"), fields.get("unique_b64")
    try:
        return a2b_base64(coded) if coded is not None else None if text is None else text.encode()
    except (ValueError, TypeError, AttributeError):
        raise BadRecord("envelope: unique is not a string") from None


def wrapped(fields: object, data: bytes) -> bytes:
    """A payload with the envelope of that object in front. Raises BadRecord where it is none of gearmang's."""
    header_of(fields)
    import json
    return MARK + json.dumps(fields, separators=(",", ":")).encode() + b"\n" + data


ENVELOPE_FIELDS = {"key", "unique", "unique_b64", "attempts", "requeues", "sends", "holds", "first_failed", "priority",
                   "known_bad", "waited"}


def header_of(fields: object) -> tuple[bytes | None, Header]:
    """(own unique or None, header) of an envelope's object, also of an older gearmang. Raises BadRecord for any other."""
    if not isinstance(fields, dict) or not set(fields) <= ENVELOPE_FIELDS:
        raise BadRecord("envelope: not one of gearmang's")
    own, key = _own(fields), fields.get("key")
    if key is not None and not (isinstance(key, str) and len(key) in (12, 32) and not key.strip("0123456789abcdef")):
        raise BadRecord("envelope: key is not 12 hex digits")
    if own is not None and (len(own) > MAX_UNIQUE + 1 or b"\0" in own):
        raise BadRecord("envelope: unique is out of range")
    if fields.get("priority", "normal") not in PRIORITIES:
        raise BadRecord("envelope: no such priority")
    for name, most in (("attempts", 1 << 30), ("requeues", 1 << 30), ("sends", SENDS - 1), ("holds", 1 << 30),
                       ("first_failed", 1 << 40)):
        count = fields.get(name)
        if count is not None and (type(count) is not int or not 0 <= count <= most):
            raise BadRecord(f"envelope: {name} is out of range")
    if any(type(fields.get(name, False)) is not bool for name in ("known_bad", "waited")):
        raise BadRecord("envelope: a mark is neither true nor false")
    known = {name: fields[name] for name in Header.__slots__ if fields.get(name) is not None and name != "key"}
    return own, Header(key_value(key) if key else 0, **known)

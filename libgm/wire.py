"""The wire unique: what gearmang knows of a job, carried in the unique that the job travels under. Pure.

gm-delivery(7), rule 1. A wire unique is `~`, 22 characters of base 85 (140 bits: the header and a check), then the job's own
unique: up to 40 bytes as they are, or up to 63 hexadecimal digits packed. Whatever does not fit travels in an envelope, a
line `%gm1 {json}` in front of the payload. Everything that is not in its canonical form with a right check is a plain unique.
The check guards against accident, not against forgery.
"""

from __future__ import annotations

import os
import struct
from binascii import a2b_base64, b2a_base64, crc32

from libgm.errors import BadRecord

MAX_UNIQUE = 63          # bytes; gearmand misbehaves at 64: it cuts the unique and puts a NUL in front of the payload
MAX_RAW = 40             # bytes of an own unique that a wire unique carries as they are
MAX_ENVELOPE = 2048      # bytes of the envelope's line; a longer line is payload
MARK = b"%gm1 "
PRIORITIES = ("high", "normal", "low")
ALPHABET = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$()*+,.:;<=>?@[]^`{|}&"[:85]
DIGITS = 22              # characters of base 85: four words of 32 bits, then 12 bits
KEY_BITS = 48
SENDS = 1 << 12          # numbers of sending, before they begin at 0 again
MAX_HOLDS = 63           # holds that are counted

RAW, HEX, HEX_UPPER, ENVELOPE = range(4)   # forms in which the own unique is carried
# The header, for its check: key; first failure; attempts (10 bits), requeues (9), sends (12); holds (6), priority (2), known
# bad, waited, form (2).
FIELDS = struct.Struct(">QIIH")
_TO_DIGITS = ALPHABET.ljust(256, b"\0")
_FROM_DIGITS = bytes.maketrans(ALPHABET, bytes(range(85)))
_PRIORITY = {name: number for number, name in enumerate(PRIORITIES)}
_SALT = crc32(b"gm-wire")


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
    of 63 bytes, where a worker takes that NUL for the end of a longer unique. An empty one needs an envelope unless a client
    waits: kept in a store it would stop gearmand from starting again.
    """
    form, body = _pack_own(own)
    if (form != ENVELOPE and (data or header.waited) and not (len(body) == MAX_RAW and data[:1] == b"\0")
            and header.attempts < 1 << 10 and header.requeues < 1 << 9 and (header.first_failed or 0) < 1 << 32):
        return _unique(function, header, form, body), data
    unique = _unique(function, Header(key=header.key, sends=header.sends), ENVELOPE, b"")
    return unique, MARK + _envelope(own, header) + b"\n" + data


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
    if unique[:1] != b"~" or not 1 + DIGITS <= len(unique) <= MAX_UNIQUE:
        return None
    head, body = unique[1:1 + DIGITS], unique[1 + DIGITS:]
    words = _decode(head[:20])
    if not words or head[20:].translate(None, ALPHABET):
        return None
    high, low = head[20:].translate(_FROM_DIGITS)
    marks, (top, middle, first, counts) = high * 85 + low, words
    key, form = top << 16 | middle >> 16, marks & 3
    if (marks >> 12 or counts >> 31
            or middle & 0xFFFF != crc32(body, crc32(FIELDS.pack(key, first, counts, marks), crc32(function, _SALT))) & 0xFFFF):
        return None
    own = _unpack_own(form, body)
    priority = marks >> 4 & 3
    if (own is None and (form != ENVELOPE or body)) or priority > 2:
        return None
    header = Header(key, first or None, counts >> 21, counts >> 12 & 0x1FF, counts & 0xFFF, marks >> 6, PRIORITIES[priority],
                    bool(marks & 8), bool(marks & 4))
    if form == ENVELOPE and header != Header(key=key, sends=header.sends):
        return None
    return own, header


def misread(function: bytes, unique: bytes, data: bytes) -> bool:
    """Whether a worker would take a plain unique for a wire unique, or the beginning of its payload for something else."""
    return ((unique.startswith(b"~") and parse(function, unique) is not None)
            or (data.startswith(MARK) and _unwrap(data) is not None)
            or (data.startswith(b"\0") and len(unique) == MAX_UNIQUE))


def _unique(function: bytes, header: Header, form: int, body: bytes) -> bytes:
    key, first = header.key, header.first_failed or 0
    counts = header.attempts << 21 | header.requeues << 12 | header.sends
    marks = (min(header.holds, MAX_HOLDS) << 6 | _PRIORITY[header.priority] << 4 | header.known_bad << 3 | header.waited << 2
             | form)
    check = crc32(body, crc32(FIELDS.pack(key, first, counts, marks), crc32(function, _SALT))) & 0xFFFF
    return b"~" + _encode((key >> 16, (key & 0xFFFF) << 16 | check, first, counts), divmod(marks, 85)) + body


def _encode(words, more=()) -> bytes:
    """Words of 32 bits in base 85, five characters each, the highest digit first; then more digits."""
    digits: list[int] = []
    for word in words:
        word, fifth = divmod(word, 85)
        word, fourth = divmod(word, 85)
        word, third = divmod(word, 85)
        digits += *divmod(word, 85), third, fourth, fifth
    digits += more
    return bytes(digits).translate(_TO_DIGITS)


def _decode(text: bytes) -> list[int]:
    """The words of a text of whole words; none where it is not of _encode()."""
    if text.translate(None, ALPHABET):
        return []
    words = [(((a * 85 + b) * 85 + c) * 85 + d) * 85 + e for a, b, c, d, e in
             struct.iter_unpack("5B", text.translate(_FROM_DIGITS))]
    return [] if max(words) >> 32 else words


def _pack_own(own: bytes) -> tuple[int, bytes]:
    """(form, body) of an own unique. Hexadecimal digits are packed as a number, with a 1 in front of them."""
    if len(own) <= MAX_RAW:
        return RAW, own
    form = HEX if not own.strip(b"0123456789abcdef") else HEX_UPPER if not own.strip(b"0123456789ABCDEF") else ENVELOPE
    if form == ENVELOPE:
        return form, b""
    digits = b"1" + own
    number = bytes.fromhex(digits.rjust((len(digits) + 7) // 8 * 8, b"0").decode())
    return form, _encode(struct.unpack(f">{len(number) // 4}I", number))


def _unpack_own(form: int, body: bytes) -> bytes | None:
    """The own unique; None where it stands in the envelope, or the body is not of _pack_own()."""
    if form == RAW:
        return body
    words = _decode(body) if form != ENVELOPE and body and not len(body) % 5 else None
    if not words or not words[0]:
        return None
    digits = struct.pack(f">{len(words)}I", *words).hex().lstrip("0")
    if digits[0] != "1" or len(digits) <= 1 + MAX_RAW or (form == HEX_UPPER and digits.isdigit()):
        return None
    return (digits[1:] if form == HEX else digits[1:].upper()).encode()


# ---- the envelope


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

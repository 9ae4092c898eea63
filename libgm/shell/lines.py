"""Lines in and out: JSON lines, payload lines, and text made safe for a terminal."""

from __future__ import annotations

import os
import select
from functools import lru_cache

from libgm.errors import BadRecord, Error, Usage, reason

CHUNK = 1 << 18


class ReaderGone(Error):
    """The reader of standard output has gone away."""


# Code points that a terminal acts on, or that change or hide the text around them: controls, Unicode's category Cf and its
# Default_Ignorable_Code_Points, line separators, surrogates.
UNSAFE = ((0x00, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x34F, 0x34F), (0x600, 0x605), (0x61C, 0x61C), (0x6DD, 0x6DD),
          (0x70F, 0x70F), (0x890, 0x891), (0x8E2, 0x8E2), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180F),
          (0x200B, 0x200F), (0x2028, 0x202E), (0x2060, 0x206F), (0x3164, 0x3164), (0xD800, 0xDFFF), (0xFE00, 0xFE0F),
          (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB), (0x110BD, 0x110BD), (0x110CD, 0x110CD), (0x13430, 0x1343F),
          (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF))


def unsafe(point: int) -> bool:
    """Whether a code point is UNSAFE."""
    return any(first <= point <= last for first, last in UNSAFE)


def safe(text: str) -> str:
    """text with its UNSAFE characters escaped, for terminals and messages."""
    if text.isascii() and text.isprintable():
        return text
    return unsafe_characters().sub(lambda found: ascii(found[0])[1:-1], text)   # \n, \x1b, \u200b, \U000e0041


@lru_cache(None)
def unsafe_characters():
    import re
    return re.compile("[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in UNSAFE) + "]")


class Input:
    """The lines of a descriptor: yields (number, line without its end).

    null: lines end in NUL. waiting() is called before a read blocks, and again every `tick` seconds while it does.
    Raises Error.
    """

    def __init__(self, fd: int = 0, null: bool = False, waiting=lambda: None, tick: float | None = None):
        self.fd, self.end, self.waiting, self.tick = fd, b"\0" if null else b"\n", waiting, tick

    def __iter__(self):
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        number, parts = 0, []
        while True:
            while not poll.poll(0):
                self.waiting()
                if self.tick is None or poll.poll(self.tick * 1000):
                    break
            try:
                chunk = os.read(self.fd, CHUNK)
            except BlockingIOError:
                poll.poll()
                continue
            except OSError as error:
                raise Error(f"standard input: cannot read: {reason(error)}") from None
            if not chunk:
                break
            if self.end not in chunk:
                parts.append(chunk)
                continue
            parts.append(chunk)
            lines = b"".join(parts).split(self.end)
            parts = [lines.pop()]
            for line in lines:
                number += 1
                yield number, line
        rest = b"".join(parts)
        if rest:
            yield number + 1, rest


def records(source, report):
    """(where, record) of each JSON line of standard input. A line that is no object goes to report(BadRecord) and is skipped."""
    decode = decoder()
    for number, line in source:
        if not line.strip():
            continue
        where = f"stdin:{number}"
        try:
            record = decode(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            if not isinstance(record, dict):
                raise BadRecord(f"{where}: not a JSON object{layout_hint(line)}")
        except BadRecord as error:
            report(error)
            continue
        except (ValueError, RecursionError) as error:
            report(BadRecord(f"{where}: not JSON: {error}{layout_hint(line)}"))
            continue
        yield where, record


def layout_hint(line: bytes) -> str:
    """How to turn JSON that is not one object per line into that, where it is seen from a line."""
    if line.lstrip().startswith(b"["):
        return " (an array? jq -c '.[]' makes a line of each element)"
    return " (a record over several lines? jq -c keeps it on one)" if line.strip() == b"{" else ""


@lru_cache(None)
def decoder():
    """A function from a JSON text to its value. It raises ValueError, also for what only Python takes for JSON."""
    import json
    return json.JSONDecoder(parse_constant=refuse, parse_float=finite).decode


def refuse(constant: str):
    """Refuse NaN and Infinity, which Python's json takes though they are no JSON. Raises ValueError."""
    raise ValueError(f"{constant} is not a JSON number")


def finite(text: str) -> float:
    """A JSON number as a float. 1e400 would become Infinity, which is no JSON. Raises ValueError."""
    number = float(text)
    if number - number != 0:
        raise ValueError(f"{text} is out of range")
    return number


def stdin_or_usage(what: str = "give operands, or lines on standard input") -> None:
    """Raise Usage if standard input is a terminal: no tool waits there in silence."""
    try:
        terminal = os.isatty(0)
    except OSError:
        terminal = False
    if terminal:
        raise Usage(what)


def dump(record: dict) -> bytes:
    """A record as one JSON line."""
    try:
        return encoder(False)(record).encode() + b"\n"
    except UnicodeEncodeError:
        return encoder(True)(record).encode() + b"\n"


@lru_cache(None)
def encoder(ascii: bool):
    """A function from an object to its JSON on one line. It is kept, since json.dumps() makes an encoder for each call."""
    import json
    return json.JSONEncoder(separators=(",", ":"), ensure_ascii=ascii).encode


def escaped(data: bytes) -> bytes:
    """JSON lines in printable ASCII: \\u escapes mean the same, and a terminal does not act on them."""
    import re
    return re.sub(r"[^\n -~]", lambda found: "".join(
        f"\\u{unit[0]:02x}{unit[1]:02x}" for unit in zip(*[iter(found[0].encode("utf-16-be", "surrogatepass"))] * 2)),
        data.decode("utf-8", "replace")).encode()


class Output:
    """Standard output, buffered. Raises ReaderGone, or Error if a write, flush or close fails.

    quiet: write nothing. acts: the tool changes things, and a person at a terminal sees no records but a summary (see
    messages.summarize), unless json asks for the records.
    """

    LIMIT = 1 << 16

    def __init__(self, fd: int = 1, quiet: bool = False, acts: bool = False, json: bool = False):
        self.fd = fd
        self.parts: list[bytes] = []
        self.size = 0
        self.terminal = os.isatty(fd)
        self.summarized = acts and self.terminal and not quiet
        self.quiet = quiet or (self.summarized and not json)

    def emit(self, record: dict) -> None:
        """Write a record as a JSON line."""
        if not self.quiet:
            self.write_lines(dump(record))

    def write_lines(self, data: bytes) -> None:
        """Write whole JSON lines."""
        self.write(escaped(data) if self.terminal else data)

    def write(self, data: bytes) -> None:
        """Write bytes as they are."""
        if self.quiet:
            return
        self.parts.append(data)
        self.size += len(data)
        if self.size >= self.LIMIT:
            self.flush()

    def flush(self) -> None:
        """Hand everything written so far to the system."""
        if not self.parts:
            return
        data = memoryview(b"".join(self.parts))
        self.parts, self.size = [], 0
        try:
            while data:
                try:
                    data = data[os.write(self.fd, data):]
                except BlockingIOError:
                    poll = select.poll()
                    poll.register(self.fd, select.POLLOUT)
                    poll.poll()
        except OSError as error:
            raise write_error(error) from None

    def close(self) -> None:
        """Flush for the last time. A failure of close() itself, as on a full disk elsewhere, counts too."""
        self.flush()
        if self.fd == 1:
            try:
                os.close(os.dup(1))
            except OSError as error:
                raise write_error(error) from None


def write_error(error: OSError) -> Error:
    """The error to raise for a failed write to standard output."""
    if isinstance(error, BrokenPipeError):
        return ReaderGone("standard output: its reader has gone")
    return Error(f"standard output: cannot write: {reason(error)}")

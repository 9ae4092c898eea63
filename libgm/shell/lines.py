"""Lines in and out: JSON lines, payload lines, and text made safe for a terminal."""

from __future__ import annotations

import os
import select
from functools import lru_cache

from libgm.errors import BadRecord, Error, Usage, reason

CHUNK = 1 << 18


class ReaderGone(Error):
    """The reader of standard output has gone away."""


def unsafe(point: int) -> bool:
    """Whether a terminal would act on a code point."""
    return (point < 32 or 127 <= point < 160 or 0x200E <= point <= 0x200F or 0x2028 <= point <= 0x202E or
            0x2066 <= point <= 0x2069 or 0xD800 <= point < 0xE000 or point == 0xFEFF)


def safe(text: str) -> str:
    """text with the characters escaped that a terminal would act on: control, bidirectional, line separators."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(char if not unsafe(ord(char)) else
                   {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char) or
                   (f"\\x{ord(char):02x}" if ord(char) < 256 else f"\\u{ord(char):04x}") for char in text)


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


def records(source, report, name: str = "stdin"):
    """(where, record) of each JSON line. A line that is no object goes to report(BadRecord) and is skipped."""
    import json
    decode = json.JSONDecoder(parse_constant=refuse).decode
    for number, line in source:
        if not line.strip():
            continue
        where = f"{name}:{number}"
        try:
            record = decode(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            if not isinstance(record, dict):
                raise BadRecord(f"{where}: not a JSON object")
        except BadRecord as error:
            report(error)
            continue
        except (ValueError, RecursionError) as error:
            hint = " (a record over several lines? jq -c keeps it on one)" if line.strip() in (b"{", b"[") else ""
            report(BadRecord(f"{where}: not JSON: {error}{hint}"))
            continue
        yield where, record


def refuse(constant: str):
    """Refuse NaN and Infinity, which Python's json takes though they are no JSON. Raises ValueError."""
    raise ValueError(f"{constant} is not a JSON number")


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
    """Standard output, buffered. Raises ReaderGone, or Error if a write, flush or close fails."""

    LIMIT = 1 << 16

    def __init__(self, fd: int = 1, quiet: bool = False):
        self.fd, self.quiet = fd, quiet
        self.parts: list[bytes] = []
        self.size = 0
        self.terminal = os.isatty(fd)

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

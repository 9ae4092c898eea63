"""Reading a message as it comes: its headers as text, the images in it as bytes, or why it cannot be read."""

from __future__ import annotations

import binascii
import email
import re
from email import errors
from email.header import decode_header
from email.message import Message

MAX_PARTS, MAX_LEVELS = 10_000, 100
BROKEN = {   # what the parser notes of a message that is not all there
    errors.NoBoundaryInMultipartDefect: "multipart without a boundary",
    errors.StartBoundaryNotFoundDefect: "its boundary does not occur",
    errors.CloseBoundaryNotFoundDefect: "truncated: no closing boundary",
}
NAMES = re.compile(r"\.(jpe?g|png|gif|webp|bmp|tiff?)$", re.IGNORECASE)
UUENCODED = re.compile(rb"^begin [0-7]{3,4} (?P<name>.+?)\r?\n(?P<lines>.*?)^end\s*$", re.MULTILINE | re.DOTALL)
DATA_URL = re.compile(rb"data:image/[\w.+-]+;base64,([A-Za-z0-9+/=\s]+)")


class Unreadable(Exception):
    """Why nothing in this message can be trusted, in a line."""


def read(raw: bytes) -> tuple[dict[str, str], list[bytes]]:
    """({"subject", "from"}, the images in their order, each once). Raises Unreadable."""
    if not raw.strip():
        raise Unreadable("empty")
    try:
        message = email.message_from_bytes(raw)
    except RecursionError:
        raise Unreadable(f"nested too deeply: over {MAX_LEVELS} levels") from None
    if not message.keys():
        raise Unreadable("no header: not a message")
    images: dict[bytes, None] = {}
    for part in parts(message):
        for data in images_of(part):
            images[data] = None
    return {"subject": words(message["Subject"]), "from": words(message["From"])}, list(images)


def parts(message: Message):
    """Each part that is no container, in the order of the message. Raises Unreadable."""
    found, todo = 0, [(message, 0)]
    while todo:
        part, level = todo.pop()
        found += 1
        if found > MAX_PARTS:
            raise Unreadable(f"too many parts: over {MAX_PARTS}")
        if level > MAX_LEVELS:
            raise Unreadable(f"nested too deeply: over {MAX_LEVELS} levels")
        for defect in part.defects:
            if type(defect) in BROKEN:
                raise Unreadable(BROKEN[type(defect)])
        if part.get_content_type() == "message/partial":
            raise Unreadable("message/partial: a fragment of a message")
        if part.is_multipart():
            todo += [(inner, level + 1) for inner in reversed(part.get_payload())]
        else:
            yield part


def images_of(part: Message) -> list[bytes]:
    """The images that a part is, or has in its text."""
    kind, data = part.get_content_type(), part.get_payload(decode=True)
    if kind.startswith("image/") or (kind == "application/octet-stream" and NAMES.search(file_name(part))):
        return [data]
    if kind == "text/plain":
        return [uudecoded(match["lines"]) for match in UUENCODED.finditer(data) if NAMES.search(match["name"].decode("latin-1"))]
    if kind == "text/html":
        return [binascii.a2b_base64(match) for match in DATA_URL.findall(data)]
    return []


def file_name(part: Message) -> str:
    return part.get_filename() or ""


def uudecoded(lines: bytes) -> bytes:
    try:
        return b"".join(binascii.a2b_uu(line) for line in lines.splitlines() if line.strip())
    except binascii.Error:
        return b""


def words(header) -> str:
    """A header as text, as far as it goes: what cannot be decoded shows as U+FFFD."""
    if header is None:
        return ""
    try:
        pieces = decode_header(header)
    except (ValueError, errors.HeaderParseError):
        pieces = [(str(header), None)]
    text = "".join(piece if isinstance(piece, str) else decoded(piece, charset) for piece, charset in pieces)
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


def decoded(data: bytes, charset: str | None) -> str:
    try:
        return data.decode("utf-8" if charset in (None, "unknown-8bit") else charset, "replace")
    except LookupError:
        return data.decode("utf-8", "replace")

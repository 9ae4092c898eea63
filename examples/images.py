"""Image files that the examples make, among them the ones that no decoder should be trusted with."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image, PngImagePlugin


def encoded(picture: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def bomb(side: int) -> bytes:
    """A PNG of side x side black pixels, well under a megabyte as a file."""
    row, packer = b"\0" * (side // 8 + 2), zlib.compressobj(9)
    rows = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
            + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def wordy_png(picture: bytes, size: int) -> bytes:
    """A PNG with a compressed text chunk that unpacks to size bytes."""
    words = PngImagePlugin.PngInfo()
    words.add_text("Comment", "word " * (size // 5), zip=True)
    with Image.open(io.BytesIO(picture)) as opened:
        return encoded(opened, "PNG", pnginfo=words)


def slow_jpeg(scans: int) -> bytes:
    """A JPEG of a few hundred kilobytes that takes a decoder minutes: progressive, its last scan many times over."""
    data = encoded(Image.new("L", (6000, 6000), 128), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * scans + data[-2:]

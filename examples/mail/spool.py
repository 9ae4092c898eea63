"""Files that a stage leaves behind: a file is safe before the stage goes on.

A file is named by its content or by the message it belongs to, and is there whole or not at all; to keep it twice is
to keep it once. So every stage may run again, and two may run at once.
"""

from __future__ import annotations

import os
from hashlib import sha256


def digest(data: bytes) -> str:
    return sha256(data).hexdigest()


def keep(path: str, data: bytes) -> None:
    """Make the file path (folder/name) with this content, durably, unless it is there."""
    folder, name = os.path.split(path)
    if not os.path.exists(path):
        made = os.path.join("tmp", f"{name}.{os.getpid()}")
        with open(made, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(made, path)
    there = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(there)
    finally:
        os.close(there)


def load(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()

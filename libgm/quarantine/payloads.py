"""A payload too large for memory: written to a file beside the quarantine file while it streams in (DESIGN, rule 10)."""

from __future__ import annotations

import itertools
import os
import re

from libgm import job
from libgm.quarantine.file import Store

HEAD = job.MAX_ENVELOPE + len(job.MARK)   # bytes at the front that may be an envelope
_numbers = itertools.count(1)


class Spool:
    """The file of a payload: .write(bytes) as they come, .keep() makes it durable; what was not kept is removed.

    length: bytes that will come. .size is the payload's without its .envelope (job.Envelope or None). Named after the
    process that writes it, so that sweep() can tell what a dead one has left. Raises OSError.
    """

    def __init__(self, store: Store, length: int):
        self.path = f"{store.path}-payload-{store.process}.{next(_numbers)}"
        self.size = self.left = length
        self.envelope, self.head, self.kept, self.fd = None, bytearray(), True, -1
        mode = os.stat(store.path).st_mode & 0o666
        self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        self.kept = False
        os.fchmod(self.fd, mode)   # whatever the umask is

    def write(self, data) -> None:
        self.left -= len(data)
        if self.head is not None:
            self.head += data
            if len(self.head) < HEAD and self.left:
                return
            self.envelope, data = job.unwrap(bytes(self.head))
            self.size -= len(self.head) - len(data)
            self.head = None
        data = memoryview(data)
        while data:
            data = data[os.write(self.fd, data):]

    def keep(self) -> None:
        """It is whole, and its file stays."""
        os.fsync(self.fd)
        folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
        self.kept = True

    def __len__(self) -> int:
        return self.size

    def __del__(self):
        if self.fd >= 0:
            os.close(self.fd)
        if not self.kept:
            remove(self.path)


def remove(path: str) -> None:
    """Remove the file of a payload, where it is."""
    try:
        os.unlink(path)
    except OSError:
        pass   # another has, or may: sweep() comes by again


def owner(store: Store, name: str) -> int | None:
    """The id of the process that wrote a file of that name beside the quarantine file; None where it is no Spool's."""
    found = re.fullmatch(re.escape(os.path.basename(store.path)) + r"-payload-(\d+)\.\d+", name)
    return found and int(found[1])


def unnamed(store: Store, name: str) -> bool:
    """Whether no row names that file; the quarantine file's folder may have moved since one did."""
    return store.execute("SELECT 1 FROM job WHERE payload_file LIKE '%/' || ?", (name,)).fetchone() is None


def discard(store: Store, path: str) -> None:
    """Remove the payload of a row that has gone, where it is one of ours and no other row's."""
    name = os.path.basename(path)
    if owner(store, name) is not None and unnamed(store, name):
        remove(store.beside(name))


def sweep(store: Store) -> None:
    """Remove what dead processes have left of payloads that no row names."""
    for name in os.listdir(os.path.dirname(store.path)):
        process = owner(store, name)
        if process is not None and not store.lives(process) and unnamed(store, name):
            remove(store.beside(name))

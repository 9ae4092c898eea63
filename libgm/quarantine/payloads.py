"""Payloads too large for memory: each in a file beside the quarantine file, written as it streams in.

gm-delivery(7), rule 10.
"""

from __future__ import annotations

import itertools
import os
import re
from hashlib import blake2b

from libgm import wire
from libgm.errors import Unavailable, reason
from libgm.quarantine import processes
from libgm.quarantine.file import Store

DIGEST = 16   # bytes of a payload's digest
_numbers = itertools.count(1)


class Spool:
    """The file of a payload: .write(bytes) as they come; .keep() makes it durable, else it is removed in the end.

    function, unique: as on the wire. length: bytes that will come. Then .own and .header are the job's, .head is the payload
    on the wire up to the end of an envelope, .size and .digest are of the payload without it. The file is named after the
    process that writes it, so that sweep() can tell what a dead one has left. Raises OSError.
    """

    def __init__(self, store: Store, function: bytes, unique: bytes, length: int):
        self.path = f"{store.path}-payload-{store.process}.{next(_numbers)}"
        self.function, self.unique = function, unique
        self.size = self.left = length
        self.own, self.header, self.kept, self.fd = unique, wire.Header(), True, -1
        self.head, self.whole, self.state = bytearray(), False, blake2b(digest_size=DIGEST)
        mode = os.stat(store.path).st_mode & 0o666
        self.fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        self.kept = False
        os.fchmod(self.fd, mode)   # whatever the umask is

    def write(self, data) -> None:
        self.left -= len(data)
        if not self.whole:
            self.head += data
            if len(self.head) < wire.MAX_ENVELOPE and self.left:
                return
            self.whole = True
            self.own, self.header, data = wire.unpack(self.function, self.unique, bytes(self.head))
            self.size -= len(self.head) - len(data)
            del self.head[wire.MAX_ENVELOPE:]
        self.state.update(data)
        data = memoryview(data)
        while data:
            data = data[os.write(self.fd, data):]

    @property
    def digest(self) -> str:
        """Of the payload, as hexadecimal digits."""
        return self.state.hexdigest()

    def keep(self) -> None:
        """Make it durable. It stays. Raises Unavailable."""
        try:
            os.fsync(self.fd)
            folder = os.open(os.path.dirname(self.path), os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise Unavailable(f"{self.path}: cannot write: {reason(error)}") from None
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


def digest_of(path: str) -> str:
    """The digest of a payload's file. Raises OSError."""
    state = blake2b(digest_size=DIGEST)
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        for chunk in iter(lambda: file.read(1 << 20), b""):
            state.update(chunk)
    return state.hexdigest()


def owner(store: Store, name: str) -> int | None:
    """The id of the process that wrote a file of that name beside the quarantine file; None where it is no Spool's."""
    found = re.fullmatch(re.escape(os.path.basename(store.path)) + r"-payload-(\d+)\.\d+", name)
    return found and int(found[1])


def named(store: Store) -> set[str]:
    """The names of the files that rows have; the quarantine file's folder may have moved since they came in."""
    return {os.path.basename(path) for path, in store.rows("SELECT payload_file FROM job WHERE payload_file IS NOT NULL")}


def discard(store: Store, path: str) -> None:
    """Remove the payload of a row that has gone, where it is one of ours and no other row's."""
    name = os.path.basename(path)
    if owner(store, name) is not None and name not in named(store):
        remove(store.beside(name))


def sweep(store: Store) -> None:
    """Remove what dead processes have left of payloads that no row names."""
    left = [name for name in os.listdir(os.path.dirname(store.path)) if owner(store, name) is not None]
    rows = named(store) if left else set()
    for name in left:
        if name not in rows and not processes.lives(store, owner(store, name) or 0):
            remove(store.beside(name))

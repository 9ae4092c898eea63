"""Where a quarantine file may lie, how it is made, and whether it can be read: what SQLite does not tell apart."""

from __future__ import annotations

import errno
import os
import stat

NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "glusterfs", "lustre", "fuse")


def network_type(path: str, table: str = "/proc/self/mountinfo") -> str | None:
    """The type of the network file system that path lies on, None where it is local or cannot be told.

    table: in the format of proc(5)'s mountinfo.
    """
    try:
        with open(table, encoding="utf-8", errors="surrogateescape") as lines:
            mounts = [(line.split()[4], line.partition(" - ")[2].split()[0]) for line in lines]
    except (OSError, IndexError):
        return None
    path = os.path.realpath(path)
    found, kind = "", None
    for point, this in mounts:
        point = point.replace("\\040", " ")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(found):
            found, kind = point, this
    return kind if kind and kind.partition(".")[0] in NETWORK else None


def make(path: str) -> None:
    """An empty file of the right mode at path, where there is none; its directory only where it is our own default."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder) and folder.endswith("/gearmang"):
        os.makedirs(folder, mode=0o700, exist_ok=True)
    shared = os.stat(folder).st_mode & stat.S_IWGRP
    mode = 0o660 if shared else 0o600
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    except FileExistsError:
        return
    try:
        os.fchmod(fd, mode)   # whatever the umask is
    finally:
        os.close(fd)


def check_readable(path: str) -> None:
    """Raises OSError. It is not opened: closing it would drop the locks that a connection of this process holds."""
    kind = os.stat(path).st_mode
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, "Is a directory")
    if not stat.S_ISREG(kind):
        raise OSError(errno.EINVAL, "Not a regular file")
    if not may(path, os.R_OK):
        raise PermissionError(errno.EACCES, "Permission denied")


def may(path: str, how: int) -> bool:
    """Whether open() would: by the effective ids and capabilities, where access(2) goes by the real ones."""
    return os.access(path, how, effective_ids=os.access in os.supports_effective_ids)


def has_wal(path: str) -> bool:
    try:
        return os.stat(path + "-wal").st_size > 0
    except FileNotFoundError:
        return False


def open_failure(path: str, error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        folder = os.path.dirname(path)
        if not os.path.isdir(folder):
            return f"no such file: there is no folder {folder}"
        return "no such file: nothing was quarantined yet, or $GM_QUARANTINE is not set"
    return f"cannot open: {(error.strerror or str(error)).lower()}"

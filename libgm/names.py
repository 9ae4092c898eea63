"""Names of functions: shown to people, and matched by globs, the same in every locale. Pure."""

from __future__ import annotations

import os


def text(name: bytes) -> str:
    """A name as text for people. Bytes that are not UTF-8 become \\xff, so that different names stay different."""
    return name.decode("utf-8", "backslashreplace")


def is_glob(word: str | bytes) -> bool:
    """Whether a word, of the command line if it is a text, is a glob, and not a name as it stands."""
    return not set(os.fsencode(word)).isdisjoint(b"*?[")


def matches(name: bytes, glob: str | bytes) -> bool:
    """Whether a name matches a glob, of the command line if it is a text.

    Both are read as UTF-8, whatever the locale: ? is one character, or one byte that belongs to none.
    """
    from fnmatch import fnmatchcase
    return fnmatchcase(name.decode("utf-8", "surrogateescape"), os.fsencode(glob).decode("utf-8", "surrogateescape"))

"""Fingerprints: what failures of one cause have in common."""

from __future__ import annotations

from functools import lru_cache

from libgm import job

# Endings of files that jobs are about: a bare name with one is a path. A program's own (.py, .sh) tells causes apart.
FILES = ("jpe?g|png|gif|tiff?|webp|heic|bmp|svg|pdf|txt|csv|tsv|jsonl?|xml|html?|ya?ml|log|zip|gz|bz2|xz|tar|tgz|mp[34]|mov|avi|"
         "mkv|webm|wav|ogg|flac|docx?|xlsx?|pptx?|eml|mbox|msg|db|sqlite|dat|bin|tmp")


PATTERNS = (   # each runs in linear time: one that begins anywhere in a run of characters looks behind for the run's begin
    (r"(?<!\w)(['\"`])(?:(?!\1).)*\1(?!\w)|[«“‘][^«“‘»”’]*[»”’]", "'…'"),
    (r"(?<![a-z0-9+.-])[0-9+.-]*[a-z][a-z0-9+.-]*://\S+", "URL"),
    (r"(?<![^\s<>@])[^\s<>@]+@[^\s<>@]+\.[^\s<>@]+", "ADDRESS"),
    (r"\b(?:[A-Za-z]:\\|\\\\)[^\s:;,()]+|(?<![\w.])[~.]{0,2}/[^\s:;,()'\"]+", "PATH"),
    (rf"(?<![\w.-])[\w-][\w.-]*\.(?:{FILES})(?!\w)", "PATH"),
    (r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b", "ID"),
    (r"\b0[xX][0-9a-fA-F]+\b", "N"),
    (r"\b(?=[0-9a-zA-Z]*\d)(?=[0-9a-zA-Z]*[a-zA-Z])(?:[0-9a-fA-F]{6,}|[0-9A-Za-z]{16,})\b", "ID"),
    (r"\d+(?:[.,:]\d+)*", "N"),
    (r"\s+", " "))
MATCHED = 1000   # characters of an error that are looked at, as many as the file keeps


@lru_cache(64)   # failures of one cause come in rows
def normal(error: str) -> str:
    """An error text with what differs from job to job taken out: quoted strings, addresses, paths, ids, numbers."""
    import re
    for pattern, sign in PATTERNS:
        error = re.sub(pattern, sign, error)
    return error.strip()


def fingerprint(function: bytes, reason: str, error: str) -> str:
    """12 hex digits, the same for failures of one cause: of function, reason and the error's normal form."""
    return job.digest(6, function, reason.encode("utf-8", "replace"), normal(error[:MATCHED]).encode("utf-8", "replace"))

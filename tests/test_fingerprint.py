"""Fingerprints: what one cause has in common, in linear time."""

from __future__ import annotations

import time

import pytest

from libgm.quarantine.fingerprint import MATCHED, PATTERNS, fingerprint, normal


@pytest.mark.parametrize("one, other", [
    ("cannot open '/a/b.jpg'", "cannot open '/c/d e.png'"), ("got 17 bytes, not 0x1F", "got 4.5 bytes, not 0xabc"),
    ("http://a/b?c=1 is down", "https://example.org is down"), ("no user joe@example.org", "no user x.y@z.net"),
    ("row 550e8400-e29b-41d4-a716-446655440000", "row 6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    ("b.jpg: no width", "d-1.tiff: no width"), ("commit deadbeef01 lost", "commit 0123456789abcdef0123 lost"),
    ("«été» fails", "“x” fails"), ("C:\\a\\b.txt gone", "D:\\c.txt gone")])
def test_what_differs_from_job_to_job_is_taken_out(one, other):
    assert normal(one) == normal(other) and one != other
    assert fingerprint(b"f", "error", one) == fingerprint(b"f", "error", other) != fingerprint(b"g", "error", one)


def test_causes_stay_apart():
    errors = ("no width given", "no height given", "it's not there", "resize.py failed", "mail.py failed", "a.b.c", "")
    assert len({fingerprint(b"f", "error", error) for error in errors}) == len(errors)


# Texts that make a pattern begin anywhere in a long run, each with the run that it repeats.
RUNS = ("'a", '"', "«", "a.a", "-a", "a", "a@", "@a", "/", "1,", "a://", "0x", "a.jpg", ".a", "+a", "a.", "~/", "\\\\", " '",
        "a1", "_1", "0-", "“a", "`", "a-1@b.", "\n", "é")


def cost(text: str, pattern: str, sign: str) -> float:
    """Seconds of processor time, the least of three."""
    import re
    found = []
    for _ in range(3):
        begun = time.thread_time()
        re.sub(pattern, sign, text)
        found.append(time.thread_time() - begun)
    return min(found)


@pytest.mark.slow
@pytest.mark.parametrize("pattern, sign", PATTERNS)
def test_every_pattern_runs_in_linear_time(pattern, sign):
    for run in RUNS:
        short, long = (cost(run * (size // len(run)), pattern, sign) for size in (8_000, 128_000))
        assert long < 64 * max(short, 0.0001), f"{run!r}: {short:.6f} s, and of a text 16 times as long {long:.6f} s"


def test_no_more_is_looked_at_than_the_file_keeps():
    assert fingerprint(b"f", "error", "x" * MATCHED + "y") == fingerprint(b"f", "error", "x" * MATCHED)

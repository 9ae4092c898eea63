"""Durations and times as people write and read them."""

from __future__ import annotations

from functools import lru_cache

from libgm.errors import Usage

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def duration(text: str, name: str = "duration") -> float:
    """The seconds of a DURATION: a number with an optional s, m, h, d or w. Raises Usage, which names `name`."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in SECONDS else (text, "s")
    try:
        seconds = float(number) * SECONDS[unit]
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e10 or "_" in number:
        raise Usage(f"{name}: not a duration: {text!r} (a number with s, m, h, d or w)")
    return seconds


def when(text: str, name: str = "time", now: float | None = None) -> float:
    """Epoch seconds of a WHEN: an age (a DURATION before now), or an ISO 8601 time, in UTC unless it says otherwise.

    Raises Usage, which names `name`.
    """
    import time
    return _moment(text, name, time.time() if now is None else now, -1, "an age (2d)")


def future(text: str, name: str, now: float) -> float:
    """when() that lies ahead: a DURATION is counted from now."""
    return _moment(text, name, now, 1, "a duration (2h)")


def _moment(text: str, name: str, now: float, sign: int, what: str) -> float:
    try:
        return now + sign * duration(text)
    except Usage:
        pass
    try:
        return epoch(text)
    except ValueError:
        raise Usage(f"{name}: neither {what} nor an ISO 8601 time: {text!r}") from None


def epoch(text: str) -> float:
    """Epoch seconds of an ISO 8601 time from 1970 on, in UTC unless it says otherwise. Raises ValueError."""
    import datetime
    found = datetime.datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
    seconds = (found if found.tzinfo else found.replace(tzinfo=datetime.timezone.utc)).timestamp()
    if seconds < 0:
        raise ValueError(f"before 1970: {text}")
    return seconds


def iso(seconds: float | None) -> str | None:
    """The ISO 8601 time of epoch seconds, as 2026-11-24T13:42:00Z. None stays None."""
    return None if seconds is None else _iso(int(seconds))


@lru_cache(64)   # records in a row often share a second
def _iso(seconds: int) -> str:
    import time
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def age(seconds: float) -> str:
    """Seconds in the largest whole unit: 3m, 2d."""
    for unit, size in (("w", 604800 * 2), ("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // SECONDS[unit])}{unit}"
    return f"{int(seconds)}s"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 job, 12 jobs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"

"""The jobs in the quarantine file: setting aside, selecting, removing."""

from __future__ import annotations

import os
import time
from functools import lru_cache

from libgm import job
from libgm.errors import BadRecord
from libgm.quarantine.file import Store, raw, text
from libgm.units import epoch, iso

# A job's row, in the order of its record; data comes last, where SQLite reads it only when asked
COLUMNS = ("id", "revision", "state", "key", "function", "unique_", "priority", "reason", "error", "stderr", "exit",
           "signal", "attempts", "requeues", "first_failed", "last_failed", "due", "servers", "server", "handle",
           "host", "fingerprint", "claim", "payload_file", "data")
DIED = COLUMNS[2:22] + COLUMNS[23:]
SET_ASIDE = (
    f"INSERT INTO job ({', '.join(DIED)}) VALUES ({', '.join(':' + name for name in DIED)}) "
    "ON CONFLICT (key) DO UPDATE SET revision = revision + 1, claim = NULL, nonce = NULL, "
    "first_failed = min(coalesce(first_failed, excluded.first_failed), excluded.first_failed), "
    "requeues = max(requeues, excluded.requeues), " +
    ", ".join(f"{name} = excluded.{name}" for name in DIED if name not in ("key", "first_failed", "requeues")))


def row(**fields) -> dict:
    """A row to set aside: every column at its default but those given; bytes for function, unique_, data.

    A lone surrogate, which JSON can bring into a text, is none that the file could hold.
    """
    values = dict.fromkeys(DIED)
    values.update(state="dead", priority="normal", attempts=0, requeues=0, host=os.uname().nodename)
    values.update(fields)
    for name, value in values.items():
        if isinstance(value, str) and not value.isascii():
            values[name] = value.encode("utf-8", "replace").decode()
    for name in ("function", "unique_", "data"):
        values[name] = text(values[name])
    return values


BRING_IN = SET_ASIDE + (   # a copy of what is there already changes nothing, nor does an older one
    " WHERE excluded.last_failed > job.last_failed OR excluded.requeues > job.requeues"
    " OR (excluded.last_failed = job.last_failed AND excluded.attempts > job.attempts)")


def set_aside(store: Store, values: dict) -> None:
    """Write a death or a delayed retry, within a transaction of the caller's. The same job by its key updates its row."""
    store.execute(SET_ASIDE, values)


KEEP = SET_ASIDE.partition(" DO UPDATE")[0] + " DO NOTHING"


def bring_in(store: Store, values: dict, newer: bool = True) -> bool:
    """Write a death that may be there already (collected twice, buried twice), within a transaction; whether it was new.

    newer: a later death of a job that is there counts; where its time is not known it cannot.
    """
    return store.execute(BRING_IN if newer else KEEP, values).rowcount == 1


def record(values: tuple, live=lambda process: True) -> dict:
    """The record (gm-job(5)) of a row in the order of COLUMNS. live: whether a process that claims it lives."""
    (ident, revision, state, key, function, unique, priority, reason, error, stderr, status, signal, attempts, requeues,
     first, last, due, _, server, handle, host, fingerprint, claim, path, data) = values
    shown = {"id": ident, "revision": revision,
             "state": state if claim is None or not live(claim) else "claimed"}
    put(shown, "function", function)
    put(shown, "unique", unique)
    shown.update(priority=priority, reason=reason, error=error, stderr=stderr, exit=status, signal=signal,
                 attempts=attempts, requeues=requeues, first_failed=iso_second(first), last_failed=iso_second(last),
                 due=iso(due), server=server, handle=handle, host=host, fingerprint=fingerprint, key=key)
    if path is not None:
        shown["payload_file"] = path
    put(shown, "data", data)
    return shown


def put(shown: dict, name: str, value: str | bytes) -> None:
    """job.put() of a value as the file holds it, which is text already where it is UTF-8."""
    if type(value) is str:
        shown[name] = value
    else:
        job.put(shown, name, value)


iso_second = lru_cache(1 << 12)(iso)   # many jobs die in one second


def fetch(store: Store, ident: int) -> tuple | None:
    """The row of an id, None where there is none now."""
    return store.execute(f"SELECT {', '.join(COLUMNS)} FROM job WHERE id = ?", (ident,)).fetchone()


def ever_was(store: Store, ident: int) -> bool:
    """Whether the id was given to a job at any time; ids are never reused."""
    found = store.execute("SELECT seq FROM sqlite_sequence WHERE name = 'job'").fetchone()
    return found is not None and 0 < ident <= found[0]


def counts(store: Store) -> list[tuple[bytes, int, int]]:
    """(function, dead, delayed) of each function with any."""
    found: dict = {}
    for function, state, count in store.rows("SELECT function, state, count(*) FROM job GROUP BY function, state"):
        found.setdefault(raw(function), {})[state] = count
    return [(function, states.get("dead", 0), states.get("delayed", 0)) for function, states in found.items()]


def delayed(store: Store, function: bytes) -> tuple[int, float | None]:
    """How many retries of a function wait for their time, and when the first of them is due (epoch seconds)."""
    return store.rows("SELECT count(*), min(due) FROM job WHERE state = 'delayed' AND function = ?", (text(function),))[0]


def remove(store: Store, rows: list[dict]) -> None:
    """Remove rows, within a transaction in which they were found to be what is to go."""
    store.execute_many("DELETE FROM job WHERE id = ?", [(found["id"],) for found in rows])


def portable(values: dict, coded: bool = False) -> dict:
    """The record of a row that is not in a file yet: what --via sends to a gm-collect. coded: its payload as base64."""
    found = record([values.get(name) for name in COLUMNS])
    del found["id"], found["revision"]
    if coded and "data" in found:
        from binascii import b2a_base64
        found["data_b64"] = b2a_base64(found.pop("data").encode(), newline=False).decode()
    return found


def from_record(fields: dict) -> dict:
    """The row of a quarantined job's record, as record() and portable() make it. Raises BadRecord."""
    function = job.check_function(job.get(fields, "function"))
    unique, data, key = job.get(fields, "unique"), job.get(fields, "data"), fields.get("key")
    if data is None:
        raise BadRecord("no data")
    unique = b"" if unique is None else unique
    if key is None:   # an export from elsewhere: the same for the same job
        key = job.digest(16, function, unique, data)
    if not (isinstance(key, str) and len(key) == 32 and not key.strip("0123456789abcdef")):
        raise BadRecord("key is not 32 hex digits")
    values = {"key": key, "function": function, "unique_": unique, "data": data}
    for name, kind in (("priority", str), ("reason", str), ("error", str), ("stderr", str), ("exit", int),
                       ("signal", str), ("attempts", int), ("requeues", int), ("server", str), ("handle", str),
                       ("host", str), ("fingerprint", str), ("payload_file", str)):
        value = fields.get(name)
        if value is not None:
            if type(value) is not kind or (kind is int and not 0 <= value <= job.MAX_ATTEMPTS):
                raise BadRecord(f"{name} is not what a record has there")
            values[name] = value
    for name in ("first_failed", "last_failed"):
        try:
            values[name] = int(epoch(fields[name])) if fields.get(name) else int(time.time())
        except (ValueError, TypeError, AttributeError, OverflowError):
            raise BadRecord(f"{name} is not an ISO 8601 time") from None
    if "fingerprint" in values and not (len(values["fingerprint"]) == 12 and not values["fingerprint"].strip("0123456789abcdef")):
        raise BadRecord("fingerprint is not 12 hex digits")
    values["reason"] = values.get("reason", "collected")
    values["error"] = values.get("error", "")
    if values.get("priority", "normal") not in job.PRIORITIES:
        raise BadRecord(f"priority is not one of {', '.join(job.PRIORITIES)}")
    if "fingerprint" not in values:
        from libgm.quarantine.fingerprint import fingerprint
        values["fingerprint"] = fingerprint(function, values["reason"], values["error"])
    return row(**values)

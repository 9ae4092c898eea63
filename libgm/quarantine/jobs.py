"""The jobs in the quarantine file: their rows, their records, set aside and removed."""

from __future__ import annotations

import os
import time
from functools import lru_cache

from libgm import job, wire
from libgm.errors import BadRecord
from libgm.quarantine.file import Store, raw, text
from libgm.units import epoch, iso

# A job's row, in the order of its record; data comes last, where SQLite reads it only when asked
COLUMNS = ("id", "revision", "state", "key", "function", "unique_", "priority", "reason", "error", "stderr", "exit",
           "signal", "attempts", "requeues", "first_failed", "last_failed", "due", "servers", "server", "handle",
           "host", "fingerprint", "claim", "payload_file", "sends", "holds", "held", "known_bad", "payload_digest", "data")
SET = tuple(name for name in COLUMNS if name not in ("id", "revision", "claim"))   # columns that whoever sets a job aside gives
# Columns of version 3, with what a file of an earlier version has in their place
SINCE_3 = {"sends": "0", "holds": "0", "held": "NULL", "known_bad": "0", "payload_digest": "NULL", "claim_sends": "NULL",
           "claim_digest": "NULL"}
REASONS = ("error", "timeout", "crash", "lost", "hung", "rejected", "collected", "drained")
MAX_ERROR, MAX_STDERR, MAX_TEXT = 1000, 10_000, 255   # characters of an error, of stderr, of any other text
MAX_COUNT = job.MAX_ATTEMPTS   # of attempts, requeues and holds; more are not counted
DEFAULTS = {**dict.fromkeys(SET), "state": "dead", "priority": "normal", "attempts": 0, "requeues": 0, "sends": 0, "holds": 0,
            "known_bad": 0}
CLEANED = ("priority", "reason", "error", "stderr", "signal", "server", "handle", "host", "fingerprint")


def select(store: Store, names: tuple = COLUMNS, table: str = "") -> str:
    """Columns for a SELECT, also from a file of an earlier version. table: what qualifies them, such as `job.`."""
    return ", ".join(f"{SINCE_3[name]} AS {name}" if name in SINCE_3 and store.version < 3 else table + name for name in names)


# ---- rows


def row(**fields) -> dict:
    """A row to set aside: every column at its default but those given.

    key: 12 hexadecimal digits. function, unique_, data: bytes. Texts are cut to their lengths, counts to their range.
    """
    values: dict = {**DEFAULTS, "host": host(), **fields}
    for name in CLEANED:
        value = values[name]
        if value and not (len(value) <= MAX_TEXT and value.isascii()):
            values[name] = _clean(name, value)
    for name in ("attempts", "requeues", "holds"):
        values[name] = min(values[name], MAX_COUNT)
    for name in ("function", "unique_", "data"):
        values[name] = text(values[name])
    return values


host = lru_cache(None)(lambda: os.uname().nodename)


def _clean(name: str, value: str) -> str:
    """A text as the file holds it: cut, and without the lone surrogates that JSON can bring in."""
    value = value[-MAX_STDERR:] if name == "stderr" else value[:MAX_ERROR if name == "error" else MAX_TEXT]
    return value if value.isascii() else value.encode("utf-8", "replace").decode()


def header(values: dict) -> wire.Header:
    """The header of a row, for whoever sends the job."""
    return wire.Header(wire.key_value(values["key"]), values["first_failed"], values["attempts"], values["requeues"],
                       values["sends"], values["holds"], values["priority"], bool(values["known_bad"]))


# ---- setting aside

INSERT = f"INSERT OR FAIL INTO job ({', '.join(SET)}) VALUES ({', '.join(':' + name for name in SET)})"
# A key of before wire uniques has 32 digits; its first 12 are the key now
THERE = ("SELECT id, sends, function = :function AND data = :data AND payload_digest IS :payload_digest FROM job "
         "WHERE key >= :key AND key < :key || 'g' ORDER BY key LIMIT 1")
UPDATE = ("UPDATE job SET revision = revision + 1, claim = NULL, nonce = NULL, claim_sends = NULL, claim_digest = NULL, "
          "first_failed = min(coalesce(first_failed, :first_failed), :first_failed), requeues = max(requeues, :requeues), " +
          ", ".join(f"{name} = :{name}" for name in SET if name not in ("first_failed", "requeues")) + " WHERE id = :id")


def set_aside(store: Store, values: dict) -> int:
    """Write a death or a delayed retry, within a transaction of the caller's; its id.

    The same job (key, function and payload) that was sent since updates its row. Any other job of that key, forged or sent
    twice, gets a row and a key of its own.
    """
    there = store.execute(THERE, values).fetchone()
    if there is None:
        return _insert(store, values)
    ident, sends, same = there
    if same and wire.later(values["sends"], sends):
        store.execute(UPDATE, {**values, "id": ident})
        return ident
    return _insert(store, {**values, "key": wire.key_text(wire.new_key())})


def _insert(store: Store, values: dict) -> int:
    return store.execute(INSERT, values).lastrowid or 0


def bring_in(store: Store, values: dict) -> tuple[int, bool]:
    """Write a death that may be there already (collected twice, buried twice), within a transaction: (id, whether it is new).

    As set_aside(), but the same sending of a job, or an earlier one, changes nothing, and another job of its key has a key
    that its fields make, so that it too comes in once.
    """
    for again in (False, True):
        if again:   # a record without times has those of its coming
            values = {**values, "key": _digest_key({**values, "first_failed": None, "last_failed": None})}
        there = store.execute(THERE, values).fetchone()
        if there is None:
            return _insert(store, values), True
        ident, sends, same = there
        if same:
            newer = wire.later(values["sends"], sends)
            if newer:
                store.execute(UPDATE, {**values, "id": ident})
            return ident, newer
    return _insert(store, {**values, "key": wire.key_text(wire.new_key())}), True


def _digest_key(values: dict) -> str:
    """A key made of all that a row says of its job."""
    return job.digest(wire.KEY_BITS // 8, *(value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
                                            for name, value in values.items() if name not in ("state", "due", "servers")))


def remove(store: Store, rows: list[dict]) -> None:
    """Remove rows, within a transaction in which they were found to be what is to go."""
    store.execute_many("DELETE FROM job WHERE id = ?", [(found["id"],) for found in rows])


# ---- looking up


def fetch(store: Store, ident: int) -> tuple | None:
    """The row of an id by COLUMNS, None where there is none now."""
    return store.execute(f"SELECT {select(store)} FROM job WHERE id = ?", (ident,)).fetchone()


def fetch_all(store: Store, idents, columns: tuple):
    """A cursor over the rows of ids, in their order; a row without any value where there is none now."""
    import json
    return store.execute(f"SELECT {select(store, columns, 'job.')} FROM json_each(?) AS wanted LEFT JOIN job "   # keeps the order
                         "ON job.id = wanted.value", (json.dumps(list(idents)),))


def revisions(store: Store, idents: list[int]) -> dict[int, tuple[int, str]]:
    """(revision, key) of each of the rows with these ids."""
    import json
    return {ident: (revision, key) for ident, revision, key in store.rows(
        "SELECT id, revision, key FROM job WHERE id IN (SELECT value FROM json_each(?))", (json.dumps(idents),))}


def ever_was(store: Store, ident: int) -> bool:
    """Whether the id was given to a job at any time; ids are never reused."""
    found = store.execute("SELECT seq FROM sqlite_sequence WHERE name = 'job'").fetchone()
    return found is not None and 0 < ident <= found[0]


def kept(store: Store) -> str:
    """The table of functions, states and how many jobs they have; of an older file a look at all of its jobs."""
    return "kept" if store.version >= 4 else "(SELECT function, state, count(*) AS jobs FROM job GROUP BY 1, 2) AS kept"


def dead_of_each(store: Store) -> dict[bytes, int]:
    """How many dead jobs each function has that has any."""
    return {raw(function): dead for function, dead in
            store.rows(f"SELECT function, jobs FROM {kept(store)} WHERE state = 'dead' AND jobs > 0")}


def count(store: Store, state: str) -> int:
    """How many jobs there are that are dead, or delayed: retries and gm-at's."""
    return store.rows(f"SELECT coalesce(sum(jobs), 0) FROM {kept(store)} WHERE state = ?", (state,))[0][0]


def delayed(store: Store, function: bytes) -> tuple[int, float | None]:
    """How many retries of a function wait for their time, and when the first of them is due (epoch seconds)."""
    return store.rows("SELECT count(*), min(due) FROM job WHERE state = 'delayed' AND function = ?", (text(function),))[0]


# ---- records


def record(values: tuple | list, live=lambda process: True) -> dict:
    """The record (gm-job(5)) of a row in the order of COLUMNS. live: whether a process that claims it lives."""
    (ident, revision, state, key, function, unique, priority, reason, error, stderr, status, signal, attempts, requeues,
     first, last, due, _, server, handle, host, fingerprint, claim, path, sends, *_, data) = values
    shown = {"id": ident, "revision": revision,
             "state": state if claim is None or not live(claim) else "claimed"}
    put(shown, "function", function)
    put(shown, "unique", unique)
    shown.update(priority=priority, reason=reason, error=error, stderr=stderr, exit=status, signal=signal,
                 attempts=attempts, requeues=requeues, first_failed=iso_second(first), last_failed=iso_second(last),
                 due=iso(due), server=server, handle=handle, host=host, fingerprint=fingerprint, key=key[:12], sends=sends)
    if path is not None:
        shown["payload_file"] = path
    put(shown, "data", data)
    return shown


def put(shown: dict, name: str, value: str | bytes) -> None:
    """job.put() of a value as the file holds it, which is text already where it is UTF-8."""
    if isinstance(value, str):
        shown[name] = value
    else:
        job.put(shown, name, value)


iso_second = lru_cache(1 << 12)(iso)   # many jobs die in one second


def portable(values: dict, coded: bool = False) -> dict:
    """The record of a row that is not in a file yet: what --via sends to a gm-collect. coded: its payload as base64."""
    found = record([values.get(name) for name in COLUMNS])
    del found["id"], found["revision"]
    if coded and "data" in found:
        from binascii import b2a_base64
        found["data_b64"] = b2a_base64(found.pop("data").encode(), newline=False).decode()
    return found


# ---- rows of records

NEVER_NULL = ("priority", "attempts", "requeues", "sends", "key", "revision", "state")
TEXTS = (*CLEANED, "key", "payload_file")
COUNTS = {"exit": MAX_COUNT, "attempts": MAX_COUNT, "requeues": MAX_COUNT, "sends": wire.SENDS - 1}


def from_record(fields: dict) -> dict:
    """The row of a quarantined job's record, as record() and portable() make it. Raises BadRecord.

    A record without a key has one made of all its fields. A payload_file counts by its name: whoever takes one sets
    payload_digest, and the key anew by keyed().
    """
    unique, data = job.get(fields, "unique"), job.get(fields, "data")
    if data is None:
        raise BadRecord("no data")
    if unique:
        job.check_unique(unique)
    values: dict = {}
    for name in (*TEXTS, *COUNTS):
        if name in fields and not (fields[name] is None and name not in NEVER_NULL):
            values[name] = _count(name, fields[name]) if name in COUNTS else _text(name, fields[name])
    function = job.check_function(job.get(fields, "function"))
    values.update(function=function, unique_=unique or b"", data=data)
    for name in ("first_failed", "last_failed"):
        values[name] = _time(name, fields.get(name))
    values.setdefault("reason", "collected")
    values.setdefault("error", "")
    if "fingerprint" not in values:
        from libgm.quarantine.fingerprint import fingerprint
        values["fingerprint"] = fingerprint(function, values["reason"], values["error"])
    made = row(**{"key": None, **values})
    made["key"] = made["key"][:12] if made["key"] else _digest_key(made)
    for name in ("first_failed", "last_failed"):   # after the key: it is the same whenever the record comes
        made[name] = int(time.time()) if made[name] is None else made[name]
    return made


def keyed(values: dict, fields: dict) -> dict:
    """A row of from_record(fields) under the key that all its fields make, the times as far as the record has them."""
    times = {name: _time(name, fields.get(name)) for name in ("first_failed", "last_failed")}
    return {**values, "key": _digest_key({**values, **times, "key": None})}


def _count(name: str, value: object) -> int:
    """A number of a record. Raises BadRecord."""
    if type(value) is not int or not 0 <= value <= COUNTS[name]:
        raise BadRecord(f"{name} is not an integer from 0 to {COUNTS[name]}")
    return value


def _text(name: str, value: object) -> str:
    """A text of a record. Raises BadRecord."""
    if not isinstance(value, str):
        raise BadRecord(f"{name} is not a string")
    digits = {"key": (12, 32), "fingerprint": (12,)}.get(name)
    if digits and (len(value) not in digits or value.strip("0123456789abcdef")):
        raise BadRecord(f"{name} is not {digits[0]} hex digits")
    if name == "priority" and value not in job.PRIORITIES:
        raise BadRecord(f"priority is not one of {', '.join(job.PRIORITIES)}")
    if name == "reason" and value not in REASONS and not (value.isprintable() and 0 < len(value) <= MAX_TEXT):
        raise BadRecord(f"reason is not a line of 1 to {MAX_TEXT} characters")
    return value


def _time(name: str, value) -> int | None:
    """Epoch seconds of a time of a record, None where it is null. Raises BadRecord."""
    try:
        return None if value is None else int(epoch(value))
    except (ValueError, TypeError, AttributeError, OverflowError):
        raise BadRecord(f"{name} is not an ISO 8601 time") from None

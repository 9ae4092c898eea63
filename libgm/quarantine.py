"""The jobs in the quarantine file: setting aside, selecting, claiming, removing, and who did it."""

from __future__ import annotations

import os
import sqlite3
import time

from . import job
from .errors import BadRecord, Unavailable
from .store import Store, raw, reason_of, text
from .units import epoch, iso

# A job's row, in the order of its record; data comes last, where SQLite reads it only when asked
COLUMNS = ("id", "revision", "state", "key", "function", "unique_", "priority", "reason", "error", "stderr", "exit",
           "signal", "attempts", "requeues", "first_failed", "last_failed", "due", "servers", "server", "handle",
           "host", "fingerprint", "claim", "payload_file", "data")
DIED = COLUMNS[2:22] + COLUMNS[23:]
BATCH_ROWS, BATCH_BYTES = 500, 1 << 20   # of a page: no read transaction is open while a record is written out
SET_ASIDE = (
    f"INSERT INTO job ({', '.join(DIED)}) VALUES ({', '.join(':' + name for name in DIED)}) "
    "ON CONFLICT (key) DO UPDATE SET revision = revision + 1, claim = NULL, nonce = NULL, "
    "first_failed = min(coalesce(first_failed, excluded.first_failed), excluded.first_failed), "
    "requeues = max(requeues, excluded.requeues), " +
    ", ".join(f"{name} = excluded.{name}" for name in DIED if name not in ("key", "first_failed", "requeues")))


def row(**fields) -> dict:
    """A row to set aside: every column at its default but those given; bytes for function, unique_, data."""
    values = dict.fromkeys(DIED)
    values.update(state="dead", priority="normal", attempts=0, requeues=0, host=os.uname().nodename)
    values.update(fields)
    for name in ("function", "unique_", "data"):
        values[name] = text(values[name])
    return values


BRING_IN = SET_ASIDE + (   # a copy of what is there already changes nothing, nor does an older one
    " WHERE excluded.last_failed > job.last_failed OR excluded.requeues > job.requeues"
    " OR (excluded.last_failed = job.last_failed AND excluded.attempts > job.attempts)")


def set_aside(store: Store, values: dict) -> None:
    """Write a death or a delayed retry, within a transaction of the caller's. The same job by its key updates its row."""
    store.execute(SET_ASIDE, values)


def bring_in(store: Store, values: dict) -> bool:
    """Write a death that may be there already (collected twice, buried twice), within a transaction; whether it was new."""
    return store.execute(BRING_IN, values).rowcount == 1


def record(values: sqlite3.Row | tuple, live=lambda process: True) -> dict:
    """The record of a row in the order of COLUMNS (gm-job(5)); live tells whether a claim's process lives."""
    found = dict(zip(COLUMNS, values))
    claim, path = found.pop("claim"), found.pop("payload_file")
    if claim is not None and live(claim):
        found["state"] = "claimed"
    shown: dict = {name: found[name] for name in ("id", "revision", "state")}
    for name, column in (("function", "function"), ("unique", "unique_")):
        job.put(shown, name, raw(found[column]))
    for name in COLUMNS[6:14]:
        shown[name] = found[name]
    for name in ("first_failed", "last_failed", "due"):
        shown[name] = iso(found[name])
    for name in ("server", "handle", "host", "fingerprint", "key"):
        shown[name] = found[name]
    if path is not None:
        shown["payload_file"] = path
    job.put(shown, "data", raw(found["data"]))
    return shown


def where(store: Store, selectors: dict) -> tuple[str, list]:
    """SQL and values for selectors: state, function (glob), reason, match (regex), unique, fingerprint, since, until.

    Exact values are compared, so that their indexes serve. Raises BadRecord for a bad regular expression.
    """
    terms, values = [], []
    for name, value in selectors.items():
        if value is None:
            continue
        if name == "function":
            glob = any(sign in value for sign in "*?[")
            terms.append("CAST(function AS TEXT) GLOB ?" if glob else "function = ?")
            value = value if glob else text(os.fsencode(value))
        elif name == "match":
            import re
            try:
                pattern = re.compile(value)
            except re.error as error:
                raise BadRecord(f"--match: not a regular expression: {error}") from None
            store.db.create_function("matches", 1, lambda error: pattern.search(error or "") is not None)
            terms.append("matches(error)")
            continue
        elif name in ("since", "until"):
            terms.append("last_failed >= ?" if name == "since" else "last_failed <= ?")
        else:
            terms.append(("unique_" if name == "unique" else name) + " = ?")
            value = text(os.fsencode(value)) if name == "unique" else value
        values.append(value)
    return " AND ".join(terms) or "1", values


def select(store: Store, selectors: dict, after: int = 0, limit: int | None = None, columns=COLUMNS):
    """Rows in the order of their ids, from those there at the start, in pages of bounded size."""
    terms, values = where(store, selectors)
    last = store.execute("SELECT max(id) FROM job").fetchone()[0] or 0
    sql = f"SELECT {', '.join(columns)} FROM job WHERE id > ? AND id <= ? AND {terms} ORDER BY id LIMIT ?"
    left = -1 if limit is None else limit
    while left:
        page, size = [], 0
        try:
            cursor = store.execute(sql, (after, last, *values, min(left, BATCH_ROWS) if left > 0 else BATCH_ROWS))
            for found in cursor:
                page.append(found)
                size += len(found[-1] or "") if columns is COLUMNS else 0
                if size > BATCH_BYTES:
                    break
            else:
                size = 0
            cursor.close()
        except sqlite3.Error as error:
            raise Unavailable(f"{store.path}: {reason_of(error)}") from None
        yield from page
        if not page or (len(page) < BATCH_ROWS and not size):
            return
        after = page[-1][0]
        left = left - len(page) if left > 0 else left


def fetch(store: Store, ident: int) -> tuple | None:
    """The row of an id, None where there is none now."""
    return store.execute(f"SELECT {', '.join(COLUMNS)} FROM job WHERE id = ?", (ident,)).fetchone()


def ever_was(store: Store, ident: int) -> bool:
    """Whether the id was given to a job at any time; ids are never reused."""
    found = store.execute("SELECT seq FROM sqlite_sequence WHERE name = 'job'").fetchone()
    return found is not None and 0 < ident <= found[0]


def counts(store: Store) -> list[tuple[bytes, int, int, int | None, float | None]]:
    """(function, dead, delayed, id of the oldest dead, due of the next delayed) of each function with any."""
    found: dict = {}
    for function, state, count in store.execute("SELECT function, state, count(*) FROM job GROUP BY function, state"):
        found.setdefault(raw(function), {})[state] = count
    return [(function, states.get("dead", 0), states.get("delayed", 0)) for function, states in found.items()]


# ---- claims: the row is marked as being sent, sent, and removed where it still is what was sent


def void_dead_claims(store: Store) -> None:
    """Take back the claims of dead processes, within a transaction of the caller's. What they sent may arrive again."""
    for process, in store.execute("SELECT DISTINCT claim FROM job WHERE claim IS NOT NULL").fetchall():
        if not store.lives(process):
            store.execute("UPDATE job SET claim = NULL WHERE claim = ?", (process,))


def claim_due(store: Store, servers: str, now: float, horizon: float, limit: int = 200) -> list[dict]:
    """Claim delayed retries of workers with the same server list that are due, or due beyond horizon (the clock stepped).

    now, horizon: epoch seconds. Returns dicts by COLUMNS.
    """
    due = "state = 'delayed' AND servers = ? AND (due <= ? OR due > ?)"
    if store.execute(f"SELECT 1 FROM job WHERE {due} LIMIT 1", (servers, now, horizon)).fetchone() is None:
        return []
    ours = store.process
    with store.transaction():
        void_dead_claims(store)
        claimed, size = [], 0
        cursor = store.execute(f"SELECT {', '.join(COLUMNS)} FROM job WHERE {due} AND claim IS NULL "
                               "ORDER BY due LIMIT ?", (servers, now, horizon, limit))
        for found in cursor:
            claimed.append(dict(zip(COLUMNS, found)))
            size += len(found[-1])
            if size > 8 * BATCH_BYTES:
                break
        cursor.close()
        store.db.executemany("UPDATE job SET claim = ? WHERE id = ?", [(ours, found["id"]) for found in claimed])
    return claimed


def claim(store: Store, ident: int, content: bytes, nonce: str) -> str | None:
    """Claim a row for a requeue, within a transaction; the nonce to send it under, None where another has it.

    content: a digest of function, priority and payload being sent. A void claim on the same content keeps its
    nonce, so that what a dead process may have sent already merges with what is sent now.
    """
    process, had = store.execute("SELECT claim, nonce FROM job WHERE id = ?", (ident,)).fetchone()
    if process is not None and process != store.process and store.lives(process):
        return None
    tag = content.hex()
    if not (had and had.endswith(tag)):
        had = f"{nonce}.{tag}"
    store.execute("UPDATE job SET claim = ?, nonce = ? WHERE id = ?", (store.process, had, ident))
    return had


def unclaim(store: Store, idents: list[int]) -> None:
    """Give claims of this process back: what they were for did not happen."""
    with store.transaction(durable=False):
        store.db.executemany("UPDATE job SET claim = NULL WHERE id = ? AND claim = ?",
                             [(ident, store.process) for ident in idents])


def remove_released(store: Store, released: list[dict]) -> None:
    """Remove delayed retries that a server has acknowledged; a row that has changed since stays."""
    with store.transaction():
        store.db.executemany("DELETE FROM job WHERE id = ? AND revision = ? AND claim = ?",
                             [(found["id"], found["revision"], store.process) for found in released])


def remove(store: Store, ident: int, revision: int, action: str, claimed: bool) -> bool:
    """Remove a row where it is still at revision (and claimed by us), with an audit line, within a transaction."""
    held = "claim = ?" if claimed else "(claim IS NULL OR claim = ?)"
    condition = (f"id = ? AND revision = ? AND {held}", (ident, revision, store.process))
    store.execute(
        "INSERT INTO audit (time, action, user, host, job, revision, key, function, unique_, reason, error, "
        f"fingerprint) SELECT ?, ?, ?, ?, id, revision, key, function, unique_, reason, error, fingerprint FROM job "
        f"WHERE {condition[0]}", (int(time.time()), action, user(), os.uname().nodename, *condition[1]))
    return store.execute(f"DELETE FROM job WHERE {condition[0]}", condition[1]).rowcount == 1


def user() -> str:
    """Who acts: the login name, with the one behind sudo in front."""
    import pwd
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    behind = os.environ.get("SUDO_USER")
    return f"{behind}/{name}" if behind and behind != name else name


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
    values["reason"] = values.get("reason", "collected")
    values["error"] = values.get("error", "")
    if values.get("priority", "normal") not in job.PRIORITIES:
        raise BadRecord(f"priority is not one of {', '.join(job.PRIORITIES)}")
    if "fingerprint" not in values:
        from .policy import fingerprint
        values["fingerprint"] = fingerprint(function, values["reason"], values["error"])
    return row(**values)

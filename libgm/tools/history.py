"""gm-history: who requeued, dropped, buried or drained what, and when."""

from __future__ import annotations

import time
from itertools import islice

from libgm import job
from libgm.errors import OK
from libgm.quarantine import audit
from libgm.quarantine.file import Store, raw
from libgm.shell.table import Listing, ago, shown
from libgm.units import iso


def record(values: tuple) -> dict:
    """The record of an entry by audit.AUDIT. The job's id is under `job`: a line of it is no job."""
    found = dict(zip(audit.AUDIT, values))
    shown: dict = {"entry": found["id"], "time": iso(found["time"])}
    for name in ("action", "user", "host", "job", "revision"):
        shown[name] = found[name]
    shown["key"] = found["key"] and found["key"][:12]
    for name, column in (("function", "function"), ("unique", "unique_")):
        job.put(shown, name, None if found[column] is None else raw(found[column]))
    for name in ("reason", "error", "fingerprint"):
        shown[name] = found[name]
    shown["edited"], shown["why"] = bool(found["edited"]), found["why"]
    return shown


def of_job(store: Store, shown: dict) -> list[dict]:
    """What was done with the job of a record, by its key: under its earlier ids too."""
    return [record(values) for values in audit.entries(store, {"key": shown["key"]})]


def columns(now: float) -> list:
    """The table's columns."""
    return [("time", ago(now, "time")), ("action", lambda entry: entry["action"] + (" (edited)" if entry["edited"] else "")),
            ("by", lambda entry: f"{entry['user']}@{entry['host']}"), ("job", lambda entry: entry["job"] or ""),
            ("function", lambda entry: shown(entry, "function")), ("unique", lambda entry: shown(entry, "unique")),
            ("why, or error", lambda entry: entry["why"] or entry["error"] or "")]


def listing(store: Store, idents: list[int], wanted: dict, after: int, limit: int | None, newest: bool, table: bool) -> int:
    """List what was done: with these ids, or with all, as far as wanted selects it (None: any)."""
    found = Listing(table, columns(time.time()), f"entries in {store.path}")
    jobs = [{"job": ident} for ident in idents] or [{}]
    entries = (values for each in jobs for values in audit.entries(store, {**wanted, **each}, after, limit, newest))
    for values in islice(entries, limit):
        found.add(record(values))
    if not found.any and (idents or after or any(value is not None for value in wanted.values())):
        found.where = f"entries that match in {store.path}"
    found.close()
    return OK

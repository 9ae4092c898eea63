"""Who requeued, dropped or buried what, and when: the audit trail, written with what it tells of in one transaction."""

from __future__ import annotations

import time
from itertools import islice

from libgm import job
from libgm.errors import OK, Usage
from libgm.quarantine import audit
from libgm.quarantine.audit import ACTIONS
from libgm.quarantine.file import Store, raw
from libgm.shell import options
from libgm.shell.table import Listing
from libgm.units import iso, when


def record(values: tuple) -> dict:
    """The record of an audit row, by selection.AUDIT. The job's id is under `job`: a line of it is no job."""
    found = dict(zip(audit.AUDIT, values))
    shown: dict = {"entry": found["id"], "time": iso(found["time"])}
    for name in ("action", "user", "host", "job", "revision", "key"):
        shown[name] = found[name]
    for name, column in (("function", "function"), ("unique", "unique_")):
        job.put(shown, name, None if found[column] is None else raw(found[column]))
    for name in ("reason", "error", "fingerprint"):
        shown[name] = found[name]
    shown["edited"] = bool(found["edited"])
    return shown


def of_job(store: Store, shown: dict) -> list[dict]:
    """What was done with the job of a record, by its key: under its earlier ids too."""
    return [record(values) for values in audit.audit(store, {"key": shown["key"]})]


def columns(now: float) -> list:
    from libgm.shell.table import ago, shown
    return [("time", ago(now, "time")), ("action", lambda entry: entry["action"] + (" (edited)" if entry["edited"] else "")),
            ("by", lambda entry: f"{entry['user']}@{entry['host']}"), ("job", lambda entry: entry["job"]),
            ("function", lambda entry: shown(entry, "function")), ("unique", lambda entry: shown(entry, "unique")),
            ("error", lambda entry: entry["error"] or "")]


def listing(store: Store, args: dict) -> int:
    """What gm-history's options and ids select, in the order in which it was done."""
    from libgm.shell.options import idents
    now = time.time()
    if args["--action"] not in (None, *ACTIONS):
        raise Usage(f"--action: {args['--action']!r} is not one of {', '.join(ACTIONS)}")
    wanted = {"function": args["--function"], "unique": args["--unique"], "action": args["--action"],
              "user": args["--user"], "fingerprint": args["--fingerprint"],
              **{name: when(args[f"--{name}"], f"--{name}", now) if args[f"--{name}"] else None
                 for name in ("since", "until")}}
    after, limit = options.number(args, "--after", low=0) or 0, options.number(args, "--limit", low=0)
    found = Listing(args, columns(now), f"requeues, drops or burials in {store.path}")
    jobs = [{"job": ident} for ident in idents(args["ID"])] or [{}]
    entries = (values for each in jobs for values in audit.audit(store, {**wanted, **each}, after, limit))
    for values in islice(entries, limit):
        found.add(record(values))
    if not found.any and (args["ID"] or after or any(value is not None for value in wanted.values())):
        found.where = f"requeues, drops or burials that match in {store.path}"
    found.close()
    return OK

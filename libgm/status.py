"""Queues, workers and quarantine as one snapshot."""

from __future__ import annotations

import time

from . import job, quarantine
from .errors import Unavailable
from .store import Store, raw
from .units import iso


def functions(servers: list, report) -> list[dict]:
    """A dict per function of these servers, summed: waiting, running, workers, by priority, servers.

    waiting is what no worker has begun: gearmand's total less its running. report(error) is called for a server
    that cannot be had; the others are still read.
    """
    from .admin import Admin
    found: dict[bytes, dict] = {}
    for server in servers:
        try:
            admin = Admin(server)
            totals, priorities = admin.status(), admin.prioritystatus()
            admin.shutdown()
        except Unavailable as error:
            report(error)
            continue
        for function, total, running, workers in totals:
            row = found.setdefault(function, empty(function))
            row["waiting"] += max(0, total - running)
            row["running"] += running
            row["workers"] += workers
            row["servers"].append(str(server))
            for name, count in zip(job.PRIORITIES, priorities.get(function, (0, 0, 0))):
                row[name] += count
    return list(found.values())


def empty(function: bytes) -> dict:
    return {"function": function, "waiting": 0, "running": 0, "workers": 0, "delayed": 0, "dead": 0,
            "high": 0, "normal": 0, "low": 0, "servers": [], "oldest_dead": None, "oldest_start": None}


def add_quarantine(rows: list[dict], store: Store) -> list[dict]:
    """The rows with what the quarantine file knows of each function; functions that only it knows are added."""
    found = {row["function"]: row for row in rows}
    for function, dead, delayed in quarantine.counts(store):
        row = found.setdefault(function, empty(function))
        row["dead"], row["delayed"] = dead, delayed
    for name, sql in (("oldest_dead", "SELECT function, min(last_failed) FROM job WHERE state = 'dead' GROUP BY function"),
                      ("oldest_start", "SELECT function, min(started) FROM start GROUP BY function")):
        for function, when in store.execute(sql):
            found.setdefault(raw(function), empty(raw(function)))[name] = iso(when)
    return list(found.values())


def records(rows: list[dict]) -> list[dict]:
    """The rows as records, by the name of their function."""
    done = []
    for row in sorted(rows, key=lambda row: row["function"]):
        shown: dict = {}
        job.put(shown, "function", row["function"])
        shown.update({name: value for name, value in row.items() if name != "function"})
        done.append(shown)
    return done


def workers(servers: list, store: Store | None, report) -> list[dict]:
    """A record per worker: of each gearmand, as it sees its connections, and of the quarantine file, with the job in hand."""
    from .admin import Admin
    done = []
    for server in servers:
        try:
            admin = Admin(server)
            seen = admin.workers()
            admin.shutdown()
        except Unavailable as error:
            report(error)
            continue
        for fd, ip, client, can_do in seen:
            if can_do:
                done.append({"source": "gearmand", "server": str(server), "ip": ip,
                             "client": client.decode("utf-8", "replace"),
                             "functions": [function.decode("utf-8", "replace") for function in can_do]})
    for values in store.execute(
            "SELECT p.id, p.tool, p.host, p.pid, p.started, p.function, p.paused_until, p.paused_why, "
            "s.unique_, s.handle, s.server, s.attempts, s.started, s.mark FROM process p "
            "LEFT JOIN start s ON s.process = p.id ORDER BY p.id").fetchall() if store else ():
        ident, tool, host, pid, began, function, paused, why, unique, handle, server, attempts, since, mark = values
        shown = {"source": "file", "worker": ident, "tool": tool, "host": host, "pid": pid,
                 "alive": store.lives(ident), "since": iso(began), "age": max(0, int(time.time() - began))}
        job.put(shown, "function", None if function is None else raw(function))
        job.put(shown, "unique", None if unique is None else raw(unique))
        shown.update(handle=handle, server=server, attempts=attempts, job_since=iso(since),
                     job_age=None if since is None else max(0, round(time.time() - since, 1)), mark=mark,
                     paused_until=iso(paused), paused_why=why)
        done.append(shown)
    return done

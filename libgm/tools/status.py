"""Queues, workers and quarantine as one snapshot."""

from __future__ import annotations

import time

from libgm import job
from libgm.quarantine import jobs, processes, starts
from libgm.quarantine.file import Store, raw
from libgm.units import age, iso

COUNTS = ("waiting", "running", "workers")
LATE = 5.0        # seconds after its time that a retry is overdue: nobody releases it
OVERSTAY = 900.0  # seconds that a job may run before a person is shown it as trouble


def queues(servers: list, report) -> list[tuple]:
    """(server, rows) of each server that can be had: a dict per function with waiting, running, workers, by priority.

    waiting is what no worker has begun: gearmand's total less its running, which can be below zero. report(error) is
    called for a server that cannot be had, and for a line that cannot be read. Priorities that a server does not tell are None.
    """
    from libgm.gearman.admin import Admin, ask_all
    answers, problems = ask_all(servers, Admin.queues)
    for problem in problems:
        report(problem)
    return [(server, [{"function": queue.function, "waiting": max(0, queue.total - max(0, queue.running)),
                       "running": queue.running, "workers": queue.workers, **dict(zip(job.PRIORITIES, queue[4:]))}
                      for queue in found]) for server, found in answers]


def functions(found: list[tuple]) -> list[dict]:
    """The rows of queues() summed, a dict per function with its servers, and under trouble what is stuck there."""
    rows: dict[bytes, dict] = {}
    for server, of_server in found:
        where = f" on {server}" if len(found) > 1 else ""
        for part in of_server:
            row = rows.setdefault(part["function"], empty(part["function"]))
            for name in (*COUNTS, *job.PRIORITIES):
                row[name] = None if row[name] is None or part[name] is None else row[name] + part[name]
            row["servers"].append(str(server))
            row["trouble"] += [what + where for what in stuck(part)]
    return list(rows.values())


def stuck(part: dict) -> list[str]:
    """What is wrong with a function on one server."""
    return ["running below zero"] * (part["running"] < 0) + ["no worker"] * bool(part["waiting"] and not part["workers"])


def empty(function: bytes) -> dict:
    return {"function": function, "waiting": 0, "running": 0, "workers": 0, "delayed": 0, "dead": 0,
            "high": 0, "normal": 0, "low": 0, "servers": [], "oldest_dead": None, "oldest_start": None,
            "overdue": 0, "trouble": []}


def add_quarantine(rows: list[dict], store: Store) -> list[dict]:
    """The rows with what the quarantine file knows of each function; functions that only it knows are added."""
    now = time.time()
    found = {row["function"]: row for row in rows}
    for function, dead, delayed in jobs.counts(store):
        row = found.setdefault(function, empty(function))
        row["dead"], row["delayed"] = dead, delayed
    for name, sql in (
            ("oldest_dead", "SELECT function, min(last_failed) FROM job WHERE state = 'dead' GROUP BY function"),
            ("overdue", "SELECT function, count(*) FROM job WHERE state = 'delayed' AND claim IS NULL AND due < "
                        f"{now - LATE!r} GROUP BY function")):
        for function, value in store.execute(sql).fetchall():
            found.setdefault(raw(function), empty(raw(function)))[name] = value
    for function, process, started in store.execute(
            "SELECT function, process, min(started) FROM start GROUP BY function, process ORDER BY 3 DESC").fetchall():
        if processes.lives(store, process):   # else it only counts until the job is seen again
            found.setdefault(raw(function), empty(raw(function)))["oldest_start"] = started
    for function, count, why in store.execute(
            "SELECT function, count(*), max(paused_why) FROM process WHERE paused_until > ? GROUP BY function", (now,)).fetchall():
        found.setdefault(raw(function), empty(raw(function)))["trouble"].append(f"{count} paused: {why}")
    for row in found.values():
        trouble = row["trouble"]
        if row["dead"]:
            trouble.append(f"{row['dead']} dead, the oldest for {age(max(0, now - (row['oldest_dead'] or now)))}")
        if row["overdue"]:
            trouble.append(f"{row['overdue']} overdue, no gm-work releases them")
        if row["oldest_start"] is not None and now - row["oldest_start"] > OVERSTAY:
            trouble.append(f"a job runs for {age(now - row['oldest_start'])}")
        for name in ("oldest_dead", "oldest_start"):
            row[name] = iso(row[name])
    return list(found.values())


def unasked(rows: list[dict]) -> list[dict]:
    """The rows where no server could be had: what only a server knows is null, not 0."""
    return [{**row, **dict.fromkeys((*COUNTS, *job.PRIORITIES)),
             "trouble": ["no server can be reached", *row["trouble"]]} for row in rows]


def records(rows: list[dict]) -> list[dict]:
    """The rows as records, by the name of their function."""
    done = []
    for row in sorted(rows, key=lambda row: row["function"]):
        shown = {**named(row["function"]), **{name: value for name, value in row.items() if name != "function"}}
        shown["trouble"] = "; ".join(row["trouble"]) or None
        done.append(shown)
    return done


def by_server(found: list[tuple], store: Store | None) -> list[dict]:
    """A record per function and server of queues(), and one with server null for what the quarantine file has of it."""
    done = [({"server": str(server)}, row) for server, rows in found for row in rows]
    if store:
        done += [({"server": None}, row) for row in add_quarantine([], store)]
    return [{**named(row["function"]), **where,
             **{name: row[name] if (where["server"] is None) == (name in ("delayed", "dead")) else None
                for name in (*COUNTS, "delayed", "dead")},
             **{name: row[name] if where["server"] else None for name in job.PRIORITIES},
             "trouble": "; ".join(stuck(row) if where["server"] else row["trouble"]) or None}
            for where, row in sorted(done, key=lambda pair: pair[1]["function"])]


def named(function: bytes) -> dict:
    """A record that begins with the function."""
    shown: dict = {}
    job.put(shown, "function", function)
    return shown


def workers(servers: list, store: Store | None, report) -> list[dict]:
    """A record per worker: of each gearmand, as it sees its connections, and of the quarantine file, with the job in hand."""
    from libgm.gearman.admin import Admin, ask_all
    done = []
    answers, problems = ask_all(servers, Admin.workers)
    for problem in problems:
        report(problem)
    for server, seen in answers:
        for fd, ip, client, can_do in seen:
            if can_do:
                done.append({"source": "gearmand", "server": str(server), "ip": ip,
                             "client": client.decode("utf-8", "replace"),
                             "functions": [function.decode("utf-8", "replace") for function in can_do]})
    begun: dict = {}
    for process, run, started, *start in store.execute(
            "SELECT process, run, started, unique_, handle, server, attempts, mark FROM start").fetchall() if store else ():
        since = starts.since(store, process, run, started)
        if since is not None:   # in pipe mode others are ready
            begun[process] = (since, *start)
    for ident, tool, host, pid, began, function, paused, why in store.execute(
            "SELECT id, tool, host, pid, started, function, paused_until, paused_why FROM process ORDER BY id").fetchall() \
            if store else ():
        since, unique, handle, server, attempts, mark = begun.get(ident, (None,) * 6)
        shown = {"source": "file", "worker": ident, "tool": tool, "host": host, "pid": pid,
                 "alive": processes.lives(store, ident), "since": iso(began), "age": max(0, int(time.time() - began))}
        job.put(shown, "function", None if function is None else raw(function))
        job.put(shown, "unique", None if unique is None else raw(unique))
        shown.update(handle=handle, server=server, attempts=attempts, job_since=iso(since),
                     job_age=None if since is None else max(0, round(time.time() - since, 1)), mark=mark,
                     paused_until=iso(paused), paused_why=why,
                     trouble="dead" if not shown["alive"] else f"paused: {why}" if why else
                     f"a job runs for {age(time.time() - since)}" if since and time.time() - since > OVERSTAY else None)
        done.append(shown)
    return done

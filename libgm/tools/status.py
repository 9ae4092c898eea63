"""gm-status: queues, workers and the quarantine in one snapshot."""

from __future__ import annotations

import time

from libgm import job, names
from libgm.errors import Unavailable
from libgm.quarantine import jobs, starts
from libgm.quarantine.file import Store, raw
from libgm.shell.table import shown
from libgm.units import age, iso

COUNTS = ("waiting", "running", "workers")       # of a server
KEPT = ("delayed", "dead")                       # of the quarantine file
LATE = 5.0        # seconds after its time that a retry is overdue
OVERSTAY = 900.0  # seconds after which a running job is shown as trouble


def queues(servers: list) -> tuple[list[tuple], list[Unavailable]]:
    """Ask every server for its functions.

    Return (server, rows) of each server that answers, and the error of each other one. A row is a dict of function,
    waiting, running, workers, and the queued jobs by priority. waiting counts the jobs that no worker has begun:
    gearmand's total less its running, which can be below zero.
    """
    from libgm.gearman.admin import ask_all

    def ask(admin):
        totals, priorities = admin.status(), admin.prioritystatus()
        return [{"function": function, "waiting": max(0, total - max(0, running)), "running": running,
                 "workers": workers, **dict(zip(job.PRIORITIES, priorities.get(function, (0, 0, 0))))}
                for function, total, running, workers in totals]
    errors: list[Unavailable] = []
    return ask_all(servers, ask, errors.append), errors


def functions(found: list[tuple]) -> list[dict]:
    """Sum the rows of queues() to a row per function, with its servers, and what is wrong with it under trouble."""
    rows: dict[bytes, dict] = {}
    for server, of_server in found:
        where = f" on {server}" if len(found) > 1 else ""
        for part in of_server:
            row = rows.setdefault(part["function"], empty(part["function"]))
            for name in (*COUNTS, *job.PRIORITIES):
                row[name] += part[name]
            row["servers"].append(str(server))
            row["trouble"] += [what + where for what in stuck(part)]
    return list(rows.values())


def stuck(part: dict) -> list[str]:
    """What is wrong with a function on one server."""
    return ["running below zero"] * (part["running"] < 0) + ["no worker"] * bool(part["waiting"] and not part["workers"])


def empty(function: bytes) -> dict:
    """The row of a function that has nothing."""
    return {"function": function, "waiting": 0, "running": 0, "workers": 0, "delayed": 0, "dead": 0,
            "high": 0, "normal": 0, "low": 0, "servers": [], "oldest_dead": None, "oldest_start": None,
            "overdue": 0, "trouble": []}


def add_quarantine(rows: list[dict], store: Store) -> list[dict]:
    """Add to the rows what the quarantine file knows of each function; functions that only the file knows get a row."""
    now = time.time()
    found = {row["function"]: row for row in rows}

    def of(function) -> dict:
        return found.setdefault(raw(function), empty(raw(function)))
    for function, dead, delayed in jobs.counts(store):
        of(function).update(dead=dead, delayed=delayed)
    for name, sql in (
            ("oldest_dead", "SELECT function, min(last_failed) FROM job WHERE state = 'dead' GROUP BY function"),
            ("overdue", "SELECT function, count(*) FROM job WHERE state = 'delayed' AND claim IS NULL AND due < "
                        f"{now - LATE!r} GROUP BY function")):
        for function, value in store.rows(sql):
            of(function)[name] = value
    for function, process, started in store.rows(
            "SELECT function, process, min(started) FROM start GROUP BY function, process ORDER BY 3 DESC"):
        if store.lives(process):   # a dead owner's start only counts, until the job is seen again
            of(function)["oldest_start"] = started
    for function, count, why in store.rows(
            "SELECT function, count(*), max(paused_why) FROM process WHERE paused_until > ? GROUP BY function", (now,)):
        of(function)["trouble"].append(f"{count} paused: {why}")
    for row in found.values():
        row["trouble"] += overdue_and_dead(row, now)
        for name in ("oldest_dead", "oldest_start"):
            row[name] = iso(row[name])
    return list(found.values())


def overdue_and_dead(row: dict, now: float) -> list[str]:
    """What is wrong with a function by the quarantine file. now: epoch seconds."""
    found = []
    if row["dead"]:
        found.append(f"{row['dead']} dead, the oldest for {age(max(0, now - (row['oldest_dead'] or now)))}")
    if row["overdue"]:
        found.append(f"{row['overdue']} overdue, no gm-work releases them")
    if row["oldest_start"] is not None and now - row["oldest_start"] > OVERSTAY:
        found.append(f"a job runs for {age(now - row['oldest_start'])}")
    return found


class Snapshot:
    """What the servers and the quarantine file say now.

    servers: of address.parse_servers(); store: the open quarantine file, or None; glob: the functions to show, None for
    all. .errors has an Unavailable for each server that does not answer.
    """

    def __init__(self, servers: list, store: Store | None, glob: str | None = None):
        self.servers, self.store, self.glob = servers, store, glob
        self.errors: list[Unavailable] = []

    def wants(self, function: bytes) -> bool:
        return self.glob is None or names.matches(function, self.glob)

    def queues(self) -> list[tuple]:
        """queues() of the wanted functions."""
        found, self.errors = queues(self.servers)
        return [(server, [row for row in rows if self.wants(row["function"])]) for server, rows in found]

    def quarantine(self, rows: list[dict]) -> list[dict]:
        """add_quarantine() of the wanted functions."""
        return [row for row in add_quarantine(rows, self.store) if self.wants(row["function"])] if self.store else rows

    def functions(self) -> list[dict]:
        """A record per function. What only a server knows is null where no server answers."""
        found = self.queues()
        rows = self.quarantine(functions(found))
        if not found:
            rows = [{**row, **dict.fromkeys((*COUNTS, *job.PRIORITIES)),
                     "trouble": ["no server can be reached", *row["trouble"]]} for row in rows]
        return [{**named(row["function"]), **{name: value for name, value in row.items() if name != "function"},
                 "trouble": "; ".join(row["trouble"]) or None} for row in sorted(rows, key=lambda row: row["function"])]

    def by_server(self) -> list[dict]:
        """A record per function and server; one with server null for what the quarantine file has of it."""
        found = [(str(server), row) for server, rows in self.queues() for row in rows]
        found += [(None, row) for row in self.quarantine([])]
        done = []
        for server, row in sorted(found, key=lambda pair: pair[1]["function"]):
            counts = {**dict.fromkeys((*COUNTS, *KEPT, *job.PRIORITIES)),
                      **{name: row[name] for name in (KEPT if server is None else (*COUNTS, *job.PRIORITIES))}}
            trouble = row["trouble"] if server is None else stuck(row)
            done.append({**named(row["function"]), "server": server, **counts, "trouble": "; ".join(trouble) or None})
        return done

    def workers(self) -> list[dict]:
        """A record per worker: of each gearmand, as it sees its connections, and of the quarantine file."""
        from libgm.gearman.admin import ask_all
        done = []
        for server, seen in ask_all(self.servers, lambda admin: admin.workers(), self.errors.append):
            for _, ip, client, can_do in seen:
                if any(map(self.wants, can_do)):
                    done.append({"source": "gearmand", "server": str(server), "ip": ip,
                                 "client": client.decode("utf-8", "replace"),
                                 "functions": [function.decode("utf-8", "replace") for function in can_do],
                                 "trouble": None})
        return done + (self.file_workers(self.store) if self.store else [])

    def file_workers(self, store: Store) -> list[dict]:
        """A record per process of the quarantine file, with the job in hand."""
        now, begun, done = time.time(), {}, []
        for process, run, started, *start in store.rows(
                "SELECT process, run, started, unique_, handle, server, attempts, mark FROM start"):
            since = starts.since(store, process, run, started)
            if since is not None:   # None: a job that is ready, not begun
                begun[process] = (since, *start)
        for ident, tool, host, pid, started, function, paused, why in store.rows(
                "SELECT id, tool, host, pid, started, function, paused_until, paused_why FROM process ORDER BY id"):
            if self.glob is not None and not (function is not None and self.wants(raw(function))):
                continue
            since, unique, handle, server, attempts, mark = begun.get(ident, (None,) * 6)
            record = {"source": "file", "worker": ident, "tool": tool, "host": host, "pid": pid,
                      "alive": store.lives(ident), "since": iso(started), "age": max(0, int(now - started))}
            job.put(record, "function", None if function is None else raw(function))
            job.put(record, "unique", None if unique is None else raw(unique))
            record.update(handle=handle, server=server, attempts=attempts, job_since=iso(since),
                          job_age=None if since is None else max(0, round(now - since, 1)), mark=mark,
                          paused_until=iso(paused), paused_why=why)
            record["trouble"] = "dead" if not record["alive"] else f"paused: {why}" if why else \
                f"a job runs for {age(now - since)}" if since and now - since > OVERSTAY else None
            done.append(record)
        return done


def named(function: bytes) -> dict:
    """A record that begins with the function."""
    record: dict = {}
    job.put(record, "function", function)
    return record


def worker(record: dict) -> str:
    """A worker's name, as one cell."""
    return record["client"] if record["source"] == "gearmand" else f"{record['tool']} {record['host']} {record['pid']}"


def doing(record: dict) -> str:
    """A worker's work, as one cell."""
    if record["source"] == "gearmand":
        return "can do " + " ".join(record["functions"])
    return f"{record['handle']} for {record['job_age']} s" if record["handle"] else "idle"


def cell(name: str):
    """The maker of a cell: the record's field, blank where it is null."""
    return lambda record: "" if record[name] is None else record[name]


NUMBERS = [(name, cell(name)) for name in (*COUNTS, *KEPT)]
TROUBLE = ("trouble", cell("trouble"))
FUNCTION = ("function", lambda record: shown(record, "function"))
VIEWS = {   # what makes the records, and the columns of their table
    "functions": (Snapshot.functions, [FUNCTION, *NUMBERS, TROUBLE]),
    "by-server": (Snapshot.by_server, [FUNCTION, ("server", lambda record: record["server"] or "quarantine"), *NUMBERS, TROUBLE]),
    "workers": (Snapshot.workers, [("source", cell("source")), ("worker", worker),
                                   ("age", lambda record: age(record["age"]) if "age" in record else ""),
                                   ("doing", doing), TROUBLE]),
}

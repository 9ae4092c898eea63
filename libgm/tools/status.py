"""gm-status: queues, workers and the quarantine in one snapshot."""

from __future__ import annotations

import os
import time

from libgm import job, names
from libgm.errors import Error, Unavailable
from libgm.quarantine import overview, tallies
from libgm.quarantine.file import Store
from libgm.shell import places
from libgm.shell.messages import warn
from libgm.shell.table import INDENT, Listing, shown
from libgm.units import age, iso

COUNTS = ("waiting", "running", "workers")       # of a server
KEPT = ("delayed", "held", "dead")               # of the quarantine file
LATE = 5.0        # seconds after its time that a retry is overdue
OVERSTAY = 900.0  # seconds after which a running job is shown as trouble
TROUBLE_LINES = 3   # that a table has for what is wrong with a function


def open_file(args: dict) -> tuple[Store | None, Error | None]:
    """Open the quarantine file. Return it, None where there is none, and the error where it cannot be read. Report either.

    A file that is not there yet is an error if --quarantine names it. $GM_QUARANTINE may name it wrongly, so that is
    reported, but not where it names the file that is the default.
    """
    try:
        path = places.quarantine(args)
        if args["--quarantine"] or os.path.exists(path):
            return Store(path, readonly=True), None
        if not places.is_default(path):
            warn(f"{path}: no such file yet, so no dead or delayed jobs are shown: GM_QUARANTINE names it")
    except Unavailable as error:
        warn(str(error))
        return None, error
    return None, None


def queues(servers: list) -> tuple[list[tuple], list[Error]]:
    """Ask every server for its functions.

    Return (server, rows) of each server that answers, and the problems: an Unavailable for each other one, and BadLines. A row
    is a dict of function, waiting, running, workers, and the queued jobs by priority, None where the server does not tell.
    waiting counts the jobs that no worker has begun: gearmand's total less its running, which can be below zero.
    """
    from libgm.gearman.admin import Admin, ask_all
    answers, problems = ask_all(servers, Admin.queues)
    return [(server, [{"function": queue.function, "waiting": waiting(queue), "running": queue.running,
                       "workers": queue.workers, **dict(zip(job.PRIORITIES, priorities(queue)))}
                      for queue in found]) for server, found in answers], problems


def waiting(queue) -> int:
    return max(0, queue.total - max(0, queue.running))


def priorities(queue) -> tuple:
    """The queued jobs by priority; None each where the server does not tell: up to 1.1.19, gearmand says 1 for any number."""
    counts = queue[4:]
    return (None,) * 3 if None in counts or (max(counts) == 1 and sum(counts) < waiting(queue)) else counts


def functions(found: list[tuple]) -> list[dict]:
    """Sum the rows of queues() to a row per function, with its servers, and what is wrong with it under trouble."""
    rows: dict[bytes, dict] = {}
    for server, of_server in found:
        where = f" on {server}" if len(found) > 1 else ""
        for part in of_server:
            row = rows.setdefault(part["function"], empty(part["function"]))
            for name in (*COUNTS, *job.PRIORITIES):   # None: some server does not tell
                row[name] = None if row[name] is None or part[name] is None else row[name] + part[name]
            row["servers"].append(str(server))
            row["trouble"] += [what + where for what in stuck(part)]
    return list(rows.values())


def stuck(part: dict) -> list[str]:
    """What is wrong with a function on one server."""
    return ["running below zero"] * (part["running"] < 0) + ["no worker"] * bool(part["waiting"] and not part["workers"])


def empty(function: bytes) -> dict:
    """The row of a function that has nothing."""
    return {"function": function, "waiting": 0, "running": 0, "workers": 0, "delayed": 0, "held": 0, "dead": 0,
            "high": 0, "normal": 0, "low": 0, "servers": [], "oldest_dead": None, "oldest_start": None,
            "overdue": 0, "paused": None, "done_today": None, "failed_today": None, "trouble": []}


def add_quarantine(rows: list[dict], store: Store) -> list[dict]:
    """Add to the rows what the quarantine file knows of each function; functions that only the file knows get a row."""
    now = time.time()
    found = {row["function"]: row for row in rows}
    for function, known in overview.functions(store, now, LATE).items():
        row = found.setdefault(function, empty(function))
        row["trouble"] += kept_trouble(known, now)
        row.update({name: known[name] for name in ("delayed", "held", "dead", "overdue")},
                   oldest_dead=iso(known["oldest_dead"]), oldest_start=iso(known["oldest_start"]))
    for pause in overview.pauses_now(store, now):
        if not names.is_glob(pause.glob):
            found.setdefault(pause.glob, empty(pause.glob))
        for function, row in found.items():
            if pause.covers(function):
                row["paused"] = iso(pause.since)
                row["trouble"] = [f"{pause.summary(now)}", *(text for text in row["trouble"] if text != "no worker")]
    for function, done, failed in tallies.today(store, now) if store.version >= 3 else ():
        found.setdefault(function, empty(function)).update(done_today=done, failed_today=failed)
    return list(found.values())


def kept_trouble(known: dict, now: float) -> list[str]:
    """What is wrong with a function by the quarantine file. known: of overview.functions(). now: epoch seconds."""
    found = []
    if known["brake"] is not None:
        since, why = known["brake"]
        found.append(f"brake on for {age(max(0, now - since))}, {known['held']} held: {why}")
    if known["dead"]:
        found.append(f"{known['dead']} dead, the oldest for {age(max(0, now - (known['oldest_dead'] or now)))}")
    if known["overdue"]:
        found.append(f"{known['overdue']} overdue, no gm-work releases them")
    if known["oldest_start"] is not None and now - known["oldest_start"] > OVERSTAY:
        found.append(f"a job runs for {age(now - known['oldest_start'])}")
    return found


class Snapshot:
    """What the servers and the quarantine file say now.

    servers: of address.parse_servers(); store: the open quarantine file, or None; glob: the functions to show, None for
    all; busy: leave out those that have nothing. .problems: as of queues().
    """

    def __init__(self, servers: list, store: Store | None, glob: str | None = None, busy: bool = False):
        self.servers, self.store, self.glob, self.busy = servers, store, glob, busy
        self.problems: list[Error] = []

    def wants(self, function: bytes) -> bool:
        return self.glob is None or names.matches(function, self.glob)

    def queues(self) -> list[tuple]:
        """queues() of the wanted functions."""
        found, self.problems = queues(self.servers)
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
                 "trouble": "; ".join(row["trouble"]) or None} for row in sorted(rows, key=lambda row: row["function"])
                if not self.busy or busy(row)]

    def days(self) -> list[dict]:
        """A record per function and day (UTC), the oldest day first: runs that were done, and that failed."""
        counted = tallies.days(self.store) if self.store and self.store.version >= 3 else []
        return [{**named(function), "day": day, "done": done, "failed": failed}
                for function, day, done, failed in counted if self.wants(function)]

    @property
    def down(self) -> list[Error]:
        """The problems of servers that do not answer."""
        return [problem for problem in self.problems if isinstance(problem, Unavailable)]

    def by_server(self) -> list[dict]:
        """A record per function and server; one with server null for what the quarantine file has of it."""
        found: list[tuple[str | None, dict]] = [(str(server), row) for server, rows in self.queues() for row in rows]
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
        from libgm.gearman.admin import Admin, ask_all
        done = []
        answers, self.problems = ask_all(self.servers, Admin.workers)
        for server, seen in answers:
            for _, ip, client, can_do in seen:
                if any(map(self.wants, can_do)):
                    done.append({"source": "gearmand", "server": str(server), "ip": ip,
                                 "client": client.decode("utf-8", "replace"),
                                 "functions": [function.decode("utf-8", "replace") for function in can_do],
                                 "trouble": None})
        return done + (self.file_workers(self.store) if self.store else [])

    def file_workers(self, store: Store) -> list[dict]:
        """A record per process of the quarantine file, with the job in hand."""
        now, done = time.time(), []
        for process, alive, since, start in overview.workers(store):
            if self.glob is not None and not (process.function is not None and self.wants(process.function)):
                continue
            record = {"source": "file", "worker": process.ident, "tool": process.tool, "host": process.host, "pid": process.pid,
                      "alive": alive, "since": iso(process.started), "age": max(0, int(now - process.started))}
            job.put(record, "function", process.function)
            job.put(record, "unique", start.unique)
            record.update(handle=start.handle, server=start.server, attempts=start.attempts, job_since=iso(since),
                          job_age=None if since is None else max(0, round(now - since, 1)), mark=start.mark)
            record["trouble"] = "dead" if not alive else \
                f"a job runs for {age(now - since)}" if since and now - since > OVERSTAY else None
            done.append(record)
        return done


def busy(row: dict) -> bool:
    """Whether a function has jobs, or is in trouble."""
    return bool(row["trouble"] or any(row[name] for name in ("waiting", "running", *KEPT)))


def in_order(records: list[dict], fold: bool) -> list[dict]:
    """The records as a table shows them, those in trouble first.

    fold: leave out idle functions if there are more than a screen holds, so that none in trouble scrolls away. Warn of it.
    """
    import shutil
    found = sorted(records, key=lambda record: not record.get("trouble"))
    size = shutil.get_terminal_size((80, 24))
    own = [min(TROUBLE_LINES, -(-len(record.get("trouble") or "") // max(1, size.columns - INDENT))) for record in found]
    if fold and 2 + len(found) + sum(own) > size.lines:
        shown = [record for record in found if busy(record)]
        if shown and len(shown) < len(found):
            warn(f"{len(found) - len(shown)} idle functions are not shown: gm-status -f '*' shows all")
            return shown
    return found


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
    "days": (Snapshot.days, [("day", cell("day")), FUNCTION, ("done", cell("done")), ("failed", cell("failed"))]),
}


def show(snapshot: Snapshot, view: str, table: bool, unread: Error | None) -> bool:
    """Print a view of VIEWS, or prometheus; whether no server could be asked. table: as Listing takes it. unread: why
    the quarantine file cannot be read, or None."""
    if view == "prometheus":
        from libgm.shell.lines import Output
        from libgm.tools import prometheus
        text = prometheus.text(snapshot, False if unread else True if snapshot.store else None)
    else:
        make, columns = VIEWS[view]
        records = make(snapshot)
    for problem in snapshot.problems:
        warn(str(problem))
    none_up = view != "days" and len(snapshot.down) == len(snapshot.servers)
    if view == "prometheus":
        output = Output()
        output.write_lines(text)
        output.close()
    elif records or not none_up:
        where = ", ".join(map(str, snapshot.servers))
        listing = Listing(table, columns, "days counted yet" if view == "days" else
                          f"{'workers' if view == 'workers' else 'functions'} on {where}",
                          stands_out=lambda record: record.get("trouble"), lines=TROUBLE_LINES)
        if table:
            records = in_order(records, listing.terminal and view == "functions" and snapshot.glob is None)
        for record in records:
            listing.add(record)
        listing.close()
    return none_up

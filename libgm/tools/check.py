"""gm-check: the Nagios check. Ranges, states and performance data are nagiosplugin's, the facts are ours.

https://www.monitoring-plugins.org/doc/guidelines.html are the rules.
"""

from __future__ import annotations

import os
import re
import time

from nagiosplugin import Check, Context, Critical, Metric, Ok, Range, Resource, Result, ScalarContext, Summary, Unknown, Warn
from nagiosplugin.result import Results

from libgm import job, names
from libgm.errors import Unavailable, Usage
from libgm.gearman import address
from libgm.quarantine import jobs, outages, overview
from libgm.quarantine.file import Store
from libgm.shell.run import plain
from libgm.tools import reap, status
from libgm.units import SECONDS, counted

DEFAULTS = {"queue": ("10", "100"), "workers": ("", ""), "age": ("5m", "15m"), "dead": ("0", ""), "server": ("", "")}
OWN = b"gm-check"   # the function of --round-trip
TICK = 0.005        # seconds that a client and a worker of one thread wait in turn
NAMED = 5     # problems in the line; the others are counted
SHOWN = 50    # metrics in the performance data: Nagios reads no more than a few kB
SEVERITY = (Ok, Warn, Unknown, Critical)


class Worst(Results):
    """Results of which the worst wins: nagiosplugin lets UNKNOWN hide CRITICAL."""

    def __iter__(self):
        return iter(sorted(self.results, key=lambda result: -SEVERITY.index(result.state)))

    @property
    def most_significant_state(self):
        return max(self.by_state, key=SEVERITY.index)


class Judged(ScalarContext):
    """Metrics that the ranges judge, left out of the performance data."""

    def performance(self, metric, resource):
        return None


class Shown(ScalarContext):
    """Metrics for the performance data, with the ranges, that judge nothing."""

    def evaluate(self, metric, resource):
        return Result(Ok, None, metric)


class Fact(Context):
    """Metrics whose value is their state."""

    def evaluate(self, metric, resource):
        return Result(metric.value, metric.name)


class Line(Summary):
    """The text of the line. fine: what it says when all is well."""

    def __init__(self, fine: str):
        self.fine = fine

    def ok(self, results):
        return plain(self.fine)

    def problem(self, results):
        bad = [plain(str(result)) for result in results if result.state != Ok]
        return "; ".join(bad[:NAMED]) + (f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else "")


def label(name: str) -> str:
    """A name as a label of performance data."""
    return plain(name).replace("'", "\\x27").replace("=", "\\x3d")


def ranges(mode: str, warning: str | None, critical: str | None) -> list[Range]:
    """The two ranges of a mode; in those of times, 5m is five minutes. Raises Usage."""
    found = []
    for name, given, default in zip(("--warning", "--critical"), (warning, critical), DEFAULTS[mode]):
        spec = default if given is None else given
        if mode in ("age", "server"):
            spec = re.sub(r"(\d+(?:\.\d+)?)([smhdw])",
                          lambda match: f"{float(match[1]) * SECONDS[match[2]]:.3f}".rstrip("0").rstrip("."), spec)
        try:
            found.append(Range(spec))
        except ValueError:
            raise Usage(f"{name}: not a range: {given!r} (10, 10:, ~:10, 10:20 or @10:20)") from None
    return found


class Survey(Resource):
    """What a mode finds; each mode is a method of that name.

    .facts: (state, text). .judged: (text, value) for the ranges. .shown: (label, value) for the performance data. .fine:
    the text where all is well. .known: the functions of the servers, None before they are asked. .down: a server did not answer.

    servers: of address.parse_servers(). path: of the quarantine file. function, exclude: globs, or None. limit: seconds
    for each answer.
    """

    def __init__(self, servers: list, path: str, function: str | None, exclude: str | None, limit: float):
        self.servers, self.path, self.function, self.exclude, self.limit = servers, path, function, exclude, limit
        self.facts: list[tuple] = []
        self.judged: list[tuple] = []
        self.shown: list[tuple] = []
        self.unit, self.fine = "", ""
        self.opened: Store | None = None
        self.known: set[bytes] | None = None
        self.down = False

    def probe(self):
        """nagiosplugin's question: all of it as metrics."""
        for state, text in self.facts:
            yield Metric(text, state, context="fact")
        for text, value in self.judged:
            yield Metric(text, value, self.unit, context="judged")
        for name, value in self.shown[:SHOWN]:
            yield Metric(label(name), value, self.unit, min=0, context="shown")

    def wants(self, function: bytes) -> bool:
        asked = function != OWN if self.function is None else names.matches(function, self.function)
        return asked and not (self.exclude and names.matches(function, self.exclude))

    def store(self) -> Store:
        """The quarantine file, opened once. Raises Unavailable."""
        if self.opened is None:
            self.opened = Store(self.path, readonly=True, busy=self.limit)
        return self.opened

    def close(self) -> None:
        if self.opened is not None:
            self.opened.close()

    def queues(self) -> tuple[list[dict], list[tuple]]:
        """The wanted functions' rows, summed over the servers; (function, waiting, server) of jobs without a worker.

        A function that is named, not matched by a glob, has a row also where no server knows it.
        """
        found, problems = status.queues(self.servers)
        self.facts += [(Unknown, str(problem)) for problem in problems]
        self.heard({row["function"] for _, rows in found for row in rows}, problems)
        starved = []
        for server, rows in found:
            rows = [row for row in rows if self.wants(row["function"])]
            self.add_below_zero(server, [(row["function"], row["running"]) for row in rows])
            starved += [(row["function"], row["waiting"], server) for row in rows if row["waiting"] and not row["workers"]]
        wanted = [row for row in status.functions(found) if self.wants(row["function"])]
        if self.function is not None and found and not wanted and not names.is_glob(self.function):
            wanted = [status.empty(os.fsencode(self.function))]
        return wanted, starved

    def heard(self, functions: set[bytes], problems: list) -> None:
        """Note the functions of the servers that answered."""
        self.known = functions
        self.down = any(isinstance(problem, Unavailable) for problem in problems)

    def add_unknown(self) -> None:
        """Report a function that was asked for and nobody knows: a name that is mistyped must not be OK for ever."""
        if self.function is None:
            return
        if self.known is None:
            found, problems = status.queues(self.servers)
            self.heard({row["function"] for _, rows in found for row in rows}, problems)
        file = self.file()
        known = (self.known or set()) | (overview.known(file) if file else set())
        if not self.down and not any(map(self.wants, known)):
            asked = names.text(os.fsencode(self.function))
            self.facts.append((Unknown, f"no function matches {asked}" if names.is_glob(self.function) else
                               f"{asked}: no such function on a server or in the quarantine file"))

    def file(self) -> Store | None:
        """The quarantine file where there is one that can be read: what is in it is of use, but not asked for."""
        try:
            return self.store() if os.path.exists(self.path) else None
        except Unavailable:
            return None

    def paused(self, functions: list[bytes]) -> dict[bytes, str]:
        """Those of the functions that are paused: their missing workers are no failure. How, by function."""
        file, now = self.file(), time.time()
        standing = overview.pauses_now(file, now) if file else []
        return {function: pause.summary(now) for pause in standing for function in functions if pause.covers(function)}

    def add_brakes(self) -> None:
        """Warn of functions whose brake is on: failures are held, and not counted."""
        file = self.file()
        if file is not None and file.version >= 3:
            self.facts += [(Warn, f"{names.text(function)}: brake on for {time.time() - since:.0f} s, {held} held: {why}")
                           for function, (since, why, held) in sorted(outages.standing(file).items()) if self.wants(function)]

    def add_below_zero(self, server, running: list[tuple[bytes, int]]) -> None:
        """Report functions with fewer than no job running: gearmand's count is broken, and it may hang soon."""
        self.facts += [(Critical, f"{names.text(function)}: running below zero on {server}: {count}")
                       for function, count in running if count < 0]

    def add_rows(self, rows: list[dict], field: str) -> None:
        """Judge and show a field of each row, and its sum."""
        self.judged = [(f"{names.text(row['function'])}: {row[field]} {field}", row[field]) for row in rows]
        total = sum(row[field] for row in rows)
        if rows or not self.facts:
            self.shown = [(field, total), *((f"{names.text(row['function'])}_{field}", row[field]) for row in rows)]
        sums = counted(total, "worker") if field == "workers" else f"{total} {field}"
        self.fine = f"{sums}, {counted(len(rows), 'function')}"

    def queue(self) -> None:
        self.add_brakes()
        self.add_rows(sorted(self.queues()[0], key=lambda row: -row["waiting"]), "waiting")

    def workers(self) -> None:
        rows, starved = self.queues()
        paused = self.paused([row["function"] for row in rows] + [function for function, _, _ in starved])
        rows = [row for row in rows if row["function"] not in paused]
        starved = [each for each in starved if each[0] not in paused]
        self.facts += [(Critical, f"{names.text(function)}: {waiting} waiting without a worker on {server}")
                       for function, waiting, server in starved]
        if not rows and not self.facts and not paused and self.function is None:
            self.facts.append((Unknown, "no functions, and so no workers"))
        self.add_rows(sorted(rows, key=lambda row: row["workers"]), "workers")
        self.fine = "; ".join([self.fine, *(f"{names.text(function)} {said}" for function, said in sorted(paused.items()))])

    def age(self) -> None:
        """What gm-reap would list, and jobs that should have been released."""
        oldest = {"worker": 0.0, "job": 0.0}
        self.unit, store = "s", self.store()
        self.facts += [(Warn, f"{names.text(function)}: {known['overdue']} overdue, no gm-work releases them")
                       for function, known in overview.functions(store, time.time(), status.LATE).items()
                       if known["overdue"] and self.wants(function)]
        for entry in sorted(reap.overstaying(store, -1.0, -1.0), key=lambda entry: -(entry["age"] or 0)):
            kind, function = entry["kind"], job.get(entry, "function") or b""
            if kind == "orphan":
                self.facts.append((Warn, f"process {entry['pid']} is of a job whose worker is dead"))
            elif kind in oldest and self.wants(function):
                oldest[kind] = max(oldest[kind], entry["age"])
                who = f"worker {entry['worker']} (pid {entry['pid']} on {entry['host']})" if kind == "worker" else \
                    f"job {entry['handle']} of worker {entry['worker']} on {entry['host']}"
                self.judged.append((f"{names.text(function)}: {who} for {entry['age']:.0f} s", entry["age"]))
        self.shown = [("oldest_worker", oldest["worker"]), ("longest_job", oldest["job"])]
        self.fine = f"oldest worker {oldest['worker']:.0f} s, longest job {oldest['job']:.0f} s"

    def dead(self, window: float | None) -> None:
        """window: seconds within which a job must have died to count, or None."""
        store = self.store()
        if window is None:
            counts, within = jobs.dead_of_each(store), ""
        else:
            within = f" within {window:g} s"
            counts = overview.died_since(store, time.time() - window)
        rows = sorted(((function, dead) for function, dead in counts.items() if self.wants(function)), key=lambda row: -row[1])
        total = sum(dead for _, dead in rows)
        self.judged = [(f"{names.text(function)}: {dead} dead{within}", dead) for function, dead in rows] or [("", 0)]
        self.shown = [("dead", total), *((f"{names.text(function)}_dead", dead) for function, dead in rows)]
        self.fine = f"{total} dead{within}"
        self.add_brakes()

    def server(self, round_trip: bool) -> None:
        """round_trip: have each server hand out a job of ours, and its result."""
        from libgm.gearman.admin import BadLine, ask_all
        self.unit = "s"

        def ask(admin):
            began = time.monotonic()
            queues = admin.queues()   # every server answers that
            seconds = round(time.monotonic() - began, 6)
            return seconds, admin.version(), queues, do_job(admin.server) if round_trip else None
        answers, problems = ask_all(self.servers, ask)
        self.heard({queue.function for _, (_, _, queues, _) in answers for queue in queues}, problems)
        for server, (seconds, version, queues, done) in answers:
            self.add_below_zero(server, [(queue.function, queue.running) for queue in queues if self.wants(queue.function)])
            told = f"version {version.removeprefix('OK ')} " if version else ""
            self.judged.append((f"{server}: {told}answered in {seconds:.3f} s", seconds))
            self.shown.append((f"{server}_time", seconds))
            if done is not None:
                self.judged.append((f"{server}: did a job in {done:.3f} s", done))
                self.shown.append((f"{server}_round_trip", done))
        self.facts += [(Warn if isinstance(problem, BadLine) else Critical, str(problem)) for problem in problems]
        self.fine = ", ".join(text for text, _ in self.judged[:NAMED])


def do_job(server) -> float:
    """Submit a job of our own to a server and work it; the seconds from its submission to its result. Raises Unavailable.

    Two checks at once may do each other's jobs: each works until it has its own result.
    """
    from libgm.gearman.client import Submitter
    from libgm.gearman.connection import ServerLost
    from libgm.gearman.worker import Worker
    data, limit = job.new_unique(), address.timeout()
    results: list[str | None] = []   # None: our job is done
    worker = Worker([server], OWN, b"gm-check")
    submitter = Submitter([server], wait=True, on_refuse=lambda _, error: results.append(str(error)),
                          on_result=lambda _, ok, result, *__: results.append(None if result == data else "another result"))
    began = time.monotonic()
    try:
        worker.connect()
        submitter.submit(OWN, data, data, "high", None)
        while not results:
            if time.monotonic() > began + limit:
                raise ServerLost(f"{server}: a job was not done in {limit:g} s")
            submitter.pump(TICK)
            assigned = worker.next(TICK)
            if assigned is not None:
                assigned.complete(assigned.data)
                assigned.flush()
        if results[0] is not None:
            raise ServerLost(f"{server}: a job was not done: {results[0]}")
        return round(time.monotonic() - began, 6)
    finally:
        submitter.close()
        worker.close()


def judge(survey: Survey, mode: str, warning: Range, critical: Range) -> tuple[int, str]:
    """The exit status and the line of a survey."""
    check = Check(survey, Worst(), Line(survey.fine), Fact("fact"), Judged("judged", warning, critical, "{name}"),
                  Shown("shown", warning, critical))
    check()
    perfdata = [str(check.contexts["shown"].performance(result.metric, None)) for result in check.results.results
                if result.metric and result.metric.context == "shown"]
    line = f"GEARMANG {mode.upper()} {str(check.state).upper()} - {check.summary_str}"
    return check.exitcode, line + (f" | {' '.join(perfdata)}" if perfdata else "")


def limit_answers(seconds: float) -> None:
    """Let no server take longer than that to answer."""
    os.environ["GM_TIMEOUT"] = str(min(address.timeout(), seconds))

"""The Nagios check: ranges, states and performance data are nagiosplugin's, the facts are ours.

https://www.monitoring-plugins.org/doc/guidelines.html are the rules.
"""

from __future__ import annotations

import fnmatch
import os
import re
import time

from nagiosplugin import Check, Context, Critical, Metric, Ok, Range, Resource, Result, ScalarContext, Summary, Unknown, Warn
from nagiosplugin.result import Results

from libgm import job
from libgm.errors import Usage
from libgm.gearman import address
from libgm.quarantine import jobs
from libgm.quarantine.file import Store, raw
from libgm.shell.run import plain
from libgm.tools import reap, status
from libgm.units import SECONDS

DEFAULTS = {"queue": ("10", "100"), "workers": ("", ""), "age": ("5m", "15m"), "dead": ("0", ""), "server": ("", "")}
SAID = 5      # problems told in the line; the others are counted
SHOWN = 50    # metrics in the performance data: Nagios reads so much and no more
SEVERITY = (Ok, Warn, Unknown, Critical)


class Worst(Results):
    """Results of which the worst wins: nagiosplugin lets UNKNOWN hide CRITICAL."""

    def __iter__(self):
        return iter(sorted(self.results, key=lambda result: -SEVERITY.index(result.state)))

    @property
    def most_significant_state(self):
        return max(self.by_state, key=SEVERITY.index)


class Judged(ScalarContext):
    """Metrics that the ranges judge, and that are no performance data."""

    def performance(self, metric, resource):
        return None


class Shown(ScalarContext):
    """Metrics that are performance data, with the ranges, and judge nothing."""

    def evaluate(self, metric, resource):
        return Result(Ok, None, metric)


class Line(Summary):
    """What the one line says."""

    def __init__(self, fine: str):
        self.fine = fine

    def ok(self, results):
        return plain(self.fine)

    def problem(self, results):
        bad = [plain(str(result)) for result in results if result.state != Ok]
        return "; ".join(bad[:SAID]) + (f"; and {len(bad) - SAID} more" if len(bad) > SAID else "")


class Found:
    """What a mode found: facts (state, text), metrics to judge (text, value), metrics to show (label, value).

    heard: whether there is anything behind the figures; fine: what to say where all is well; unknown: the function that
    was named and that no server knows.
    """

    def __init__(self):
        self.facts, self.judged, self.shown, self.heard, self.fine, self.unknown = [], [], [], True, "", None

    def total(self, what: str, rows: list) -> str:
        """What to say of queues where all is well."""
        return f"{what}, no server knows the function {self.unknown}" if self.unknown else f"{what}, {len(rows)} functions"


class Facts(Resource):
    def __init__(self, found: Found, unit: str):
        self.found, self.unit = found, unit

    def probe(self):
        for state, said in self.found.facts:
            yield Metric(said, state, context="fact")
        for said, value in self.found.judged:
            yield Metric(said, value, self.unit, context="judged")
        for name, value in self.found.shown[:SHOWN] if self.found.heard else ():
            yield Metric(label(name), value, self.unit, min=0, context="shown")


class Fact(Context):
    def evaluate(self, metric, resource):
        return Result(metric.value, metric.name)


def label(name: str) -> str:
    return plain(name).replace("'", "\\x27").replace("=", "\\x3d")


class Settings:
    """mode, servers, quarantine (a path), function and exclude (globs), window (seconds), limit (seconds for each answer)."""

    def __init__(self, **values):
        self.__dict__.update(values)

    def wants(self, function: bytes) -> bool:
        name = shown(function)
        return fnmatch.fnmatchcase(name, self.function or "*") and \
            not (self.exclude and fnmatch.fnmatchcase(name, self.exclude))

    def store(self) -> Store:
        return Store(self.quarantine, readonly=True, busy=self.limit)


def shown(function: bytes) -> str:
    return function.decode("utf-8", "backslashreplace")


def ranges(mode: str, warning: str | None, critical: str | None) -> list[Range]:
    """The two ranges of a mode; those of times take units, 5m. Raises Usage."""
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


def run(settings: Settings, warning: Range, critical: Range) -> tuple[int, str]:
    """(status, line) of a check. Raises Unavailable where the quarantine file cannot be read."""
    os.environ["GM_TIMEOUT"] = str(min(address.timeout(), settings.limit))
    found = MODES[settings.mode](settings)
    check = Check(Facts(found, "s" if settings.mode in ("age", "server") else ""), Worst(), Line(found.fine), Fact("fact"),
                  Judged("judged", warning, critical, "{name}"), Shown("shown", warning, critical))
    check()
    perfdata = [str(check.contexts["shown"].performance(result.metric, None)) for result in check.results.results
                if result.metric and result.metric.context == "shown"]
    line = f"GEARMANG {settings.mode.upper()} {str(check.state).upper()} - {check.summary_str}"
    return check.exitcode, line + (f" | {' '.join(perfdata)}" if perfdata else "")


def queues(settings: Settings, found: Found) -> tuple[list[dict], list[tuple]]:
    """(the wanted functions' rows, summed over the servers; (function, waiting, server) of jobs without a worker).

    What no threshold is needed for goes to found.facts. A function that is named without a glob is there, with nothing,
    also where no server knows it.
    """
    seen = status.queues(settings.servers, lambda error: found.facts.append((Unknown, str(error))))
    found.heard, starved = bool(seen), []
    for server, rows in seen:
        rows = [row for row in rows if settings.wants(row["function"])]
        found.facts += below(server, [(row["function"], row["running"]) for row in rows])
        starved += [(row["function"], row["waiting"], server) for row in rows if row["waiting"] and not row["workers"]]
    wanted = [row for row in status.functions(seen) if settings.wants(row["function"])]
    name = settings.function
    if name and not wanted and seen:
        if set(name) & set("*?["):
            found.facts.append((Unknown, f"no function matches {name}"))
        else:
            found.unknown = name   # no trouble: a gearmand that was started again knows no function until it is used
            wanted = [status.empty(os.fsencode(name))]
    return wanted, starved


def below(server, running: list[tuple[bytes, int]]) -> list[tuple]:
    """The facts of functions with fewer than no job running: gearmand's count is broken, and it may hang soon."""
    return [(Critical, f"{shown(function)}: running below zero on {server}: {count}")
            for function, count in running if count < 0]


def check_queue(settings: Settings) -> Found:
    found = Found()
    rows = sorted(queues(settings, found)[0], key=lambda row: -row["waiting"])
    total = sum(row["waiting"] for row in rows)
    found.judged = [(f"{shown(row['function'])}: {row['waiting']} waiting", row["waiting"]) for row in rows]
    found.shown = [("waiting", total)] + [(f"{shown(row['function'])}_waiting", row["waiting"]) for row in rows]
    found.fine = found.total(f"{total} waiting", rows)
    return found


def check_workers(settings: Settings) -> Found:
    found = Found()
    rows, starved = queues(settings, found)
    rows.sort(key=lambda row: row["workers"])
    total = sum(row["workers"] for row in rows)
    found.facts += [(Critical, f"{shown(function)}: {waiting} waiting without a worker on {server}")
                    for function, waiting, server in starved]
    if not rows and not found.facts:
        found.facts.append((Unknown, "no functions, and so no workers"))
    found.judged = [(f"{shown(row['function'])}: {row['workers']} workers", row["workers"]) for row in rows]
    found.shown = [("workers", total)] + [(f"{shown(row['function'])}_workers", row["workers"]) for row in rows]
    found.fine = found.total(f"{total} workers", rows)
    return found


def check_age(settings: Settings) -> Found:
    """What gm-reap would list: the same facts by the same code."""
    found, oldest = Found(), {"worker": 0.0, "job": 0.0}
    entries = reap.overstaying(settings.store(), -1.0, -1.0)
    for entry in sorted(entries, key=lambda entry: -(entry["age"] or 0)):
        kind, function = entry["kind"], job.get(entry, "function")
        if kind == "orphan":
            found.facts.append((Warn, f"process {entry['pid']} is of a job whose worker is dead"))
        elif kind in oldest and settings.wants(function or b""):
            oldest[kind] = max(oldest[kind], entry["age"])
            who = f"worker {entry['worker']} (pid {entry['pid']} on {entry['host']})" if kind == "worker" else \
                f"job {entry['handle']} of worker {entry['worker']} on {entry['host']}"
            found.judged.append((f"{shown(function or b'')}: {who} for {entry['age']:.0f} s", entry["age"]))
    found.shown = [("oldest_worker", oldest["worker"]), ("longest_job", oldest["job"])]
    found.fine = f"oldest worker {oldest['worker']:.0f} s, longest job {oldest['job']:.0f} s"
    return found


def check_dead(settings: Settings) -> Found:
    found, within = Found(), ""
    store = settings.store()
    if settings.window is None:
        counts = {function: dead for function, dead, _ in jobs.counts(store)}
    else:
        within = f" within {settings.window:g} s"
        counts = {raw(function): dead for function, dead in store.execute(
            "SELECT function, count(*) FROM job WHERE state = 'dead' AND last_failed > ? GROUP BY function",
            (time.time() - settings.window,)).fetchall()}
    rows = sorted(((function, dead) for function, dead in counts.items() if settings.wants(function)), key=lambda row: -row[1])
    found.judged = [(f"{shown(function)}: {dead} dead{within}", dead) for function, dead in rows] or [("", 0)]
    found.shown = [("dead", sum(dead for _, dead in rows))] + [(f"{shown(function)}_dead", dead) for function, dead in rows]
    found.fine = f"{sum(dead for _, dead in rows)} dead{within}"
    return found


def check_server(settings: Settings) -> Found:
    from libgm.gearman.admin import BadLine, ask_all
    found = Found()

    def ask(admin):
        began = time.monotonic()
        queues = admin.queues()
        return round(time.monotonic() - began, 6), admin.version(), queues
    answers, problems = ask_all(settings.servers, ask)
    found.facts += [(Warn if isinstance(problem, BadLine) else Critical, str(problem)) for problem in problems]
    for server, (seconds, version, queues) in answers:
        found.facts += below(server, [(queue.function, queue.running) for queue in queues if settings.wants(queue.function)])
        told = f"version {version.removeprefix('OK ')} " if version else ""
        found.judged.append((f"{server}: {told}answered in {seconds:.3f} s", seconds))
        found.shown.append((f"{server}_time", seconds))
    found.fine = ", ".join(said for said, _ in found.judged[:SAID])
    return found


MODES = {"queue": check_queue, "workers": check_workers, "age": check_age, "dead": check_dead, "server": check_server}

"""What the sweep runs: a scenario for each way in which a job changes hands.

To add one, append a Scenario to SCENARIOS:

    Scenario("gm-drain", targets="gm-drain", jobs={"good": 6},
             processes=[Process("gm-drain", ["gm-drain", "f"], service=False)], prints="buried")

- `targets` are the tools whose calls are counted and broken. gearmand's are counted apart, for the points that break it.
- `jobs` says how many of each kind are numbered and prepared; `job` and `piped.py` say what a kind does.
- `prepare` brings them in before anything is broken: submit (the default), bury, or a function of your own
  (Machine, jobs by number). What it writes by hand is to be made durable by Machine.sync().
- `processes` run while calls are broken. A service is started again whenever it ends, a step until it exits 0; a step
  with once=True is not run again. {} in their words stands for the machine's state directory.
- `prints` says what a record that a step prints promises, and the account holds it to that: accepted (the job counts from
  now on), buried (it is in the quarantine, and counts from now on), drained (it is in the quarantine), removed (it is there no
  more), again (one more copy of job 1).
- `rests` are the states in which a job may stay: a scenario without workers leaves jobs dead, or waiting. Where nothing is
  broken none may wait. (An answer is not acknowledged: gearmand may die with it, and have the job again.)

The account then finds every accepted job done, dropped, or in one of `rests`; anything else is lost or stuck.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field

from machine import HERE, Machine, Process

JOB = str(HERE / "job")
MIXED = {"good": 3, "flaky": 2, "bad": 1, "reject": 1, "drop": 1}
PAUSED = {"slow": 6, "flaky": 2, "bad": 1}
TRIES = 2
# How often a job runs, by its kind, where nothing is broken; of "plug" at most
RUNS = {"good": 1, "flaky": 2, "bad": TRIES, "reject": 1, "requeued": 2, "drop": 1, "slow": 1, "hang": 2, "plug": TRIES + 1}
OPTIONS = [f"--tries={TRIES}", "--exit=4=drop", "--brake=0", "--grace=1", "-j2"]
PIPE = {"PYTHONPATH": str(HERE)}


def submit(machine: Machine, jobs: dict[int, str]) -> None:
    machine.queue.submit("f", jobs)


def record(number: int, kind: str) -> dict:
    return {"function": "f", "unique": f"job-{number}", "data": f"{number} {kind}", "reason": "error", "error": "made"}


def lines(jobs: dict[int, str]) -> str:
    return "".join(json.dumps(record(number, kind)) + "\n" for number, kind in jobs.items())


def bury(machine: Machine, jobs: dict[int, str]) -> None:
    machine.run("gm-bury", "-q", stdin=lines(jobs))


def drained(machine: Machine, jobs: dict[int, str]) -> None:
    submit(machine, jobs)
    machine.run("gm-drain", "-q", "f")


def nothing(machine: Machine, jobs: dict[int, str]) -> None:
    pass


def damaged_store(machine: Machine, jobs: dict[int, str]) -> None:
    """A store as a crash of an older gearmand left it: a rollback journal's mode, and rows that stop it from starting."""
    machine.kill_all()
    for name in (machine.store, *machine.state.glob("gearmand.db-*")):
        name.unlink()
    for name in (machine.shadow / "names").iterdir():
        name.unlink()
    database = sqlite3.connect(machine.store)
    database.execute("CREATE TABLE gearman_queue (unique_key TEXT, function_name TEXT, priority INTEGER, data BLOB, "
                     "when_to_run INTEGER, PRIMARY KEY (unique_key, function_name))")
    with database:
        database.executemany("INSERT INTO gearman_queue VALUES (?, 'f', ?, ?, ?)", [
            (f"job-{number}", None if number % 3 == 0 else 1, f"{number} {kind}".encode(), None if number % 2 else 0)
            for number, kind in jobs.items()])
        database.execute("INSERT INTO gearman_queue VALUES ('empty', 'nobody', 1, NULL, 0)")
    database.close()
    machine.sync(machine.store)


def work(*options: str, command: tuple = ("f", "--", JOB), name: str = "gm-work", **env: str) -> Process:
    return Process(name, ["gm-work", *OPTIONS, *options, *command], **env)


def piped(*options: str) -> Process:
    return work("--pipe", *options, command=("f", "--", "gm-python", "piped:handle"), **PIPE)


def step(*argv: str, once: bool = False, stdin: str = "") -> Process:
    return Process(argv[0].rpartition("/")[2], list(argv), service=False, once=once, stdin=stdin)


@dataclass
class Scenario:
    name: str
    targets: str
    processes: list[Process]
    jobs: dict[str, int] = field(default_factory=lambda: MIXED)
    prepare: Callable[[Machine, dict[int, str]], None] = submit
    prints: str = ""
    rests: tuple[str, ...] = ("dead",)

    def numbered(self) -> dict[int, str]:
        """The jobs' kinds by their numbers, kinds in turn."""
        left, found = dict(self.jobs), {}
        while left:
            for kind in list(left):
                found[len(found) + 1] = kind
                left[kind] -= 1
                if not left[kind]:
                    del left[kind]
        return found


GOOD = {number: "good" for number in range(1, 9)}
IDS = [str(number) for number in GOOD]

SCENARIOS = [
    Scenario("command", "gm-work", [work("--delay=0")]),
    Scenario("command, delayed", "gm-work", [work("--delay=0.1")]),
    Scenario("pipe", "gm-work gm-python", [piped("--delay=0")]),
    Scenario("pipe, delayed", "gm-work gm-python", [piped("--delay=0.1")]),
    Scenario("via", "gm-work gm-collect", [
        work("--delay=0", "--via=gearmang", GM_QUARANTINE="{}/far.db"), Process("gm-collect", ["gm-collect"])]),
    Scenario("requeue", "gm-requeue", [work("--delay=0"), step("gm-requeue", *IDS)], {"good": 8}, bury, "removed", ()),
    Scenario("requeue, wait", "gm-requeue", [work("--delay=0"), step("gm-requeue", "--wait", *IDS)], {"good": 8}, bury, "removed",
             ()),
    Scenario("bury", "gm-bury", [step("gm-bury", once=True, stdin=lines(GOOD))], {"good": 8}, nothing, "buried"),
    Scenario("drop", "gm-drop", [step("gm-drop", *IDS)], {"good": 8}, bury, "removed", ()),
    Scenario("submit", "gm-submit", [work("--delay=0"), step("gm-submit", once=True, stdin=lines(GOOD))], {"good": 8}, nothing,
             "accepted", ()),
    Scenario("server", "gm-server", [work("--delay=0")], prepare=damaged_store),
    Scenario("twins", "gm-work", [work("--delay=0"), step(str(HERE / "again"), "reject")], {"reject": 1}, prints="again"),
    Scenario("twins, requeued", "gm-work", [work("--delay=0", "-j1"), step(str(HERE / "again_settled"), "requeued")],
             {"requeued": 1}, prints="again"),
    Scenario("drain", "gm-drain", [step("gm-drain", "f")], {"good": 8}, prints="drained", rests=("dead", "waiting")),
    Scenario("drain, work", "gm-drain gm-work", [work("--delay=0"), step("gm-drain", "f")]),
    Scenario("put back", "gm-requeue", [work("--delay=0"), step("gm-requeue", *IDS)], {"good": 8}, drained, "removed", ()),
    Scenario("at", "gm-at gm-work", [work("--delay=0"), step("gm-at", "0.3", once=True, stdin=lines(GOOD))], {"good": 8}, nothing,
             "accepted", ()),
    Scenario("pause", "gm-work gm-pause gm-resume", [work("--delay=0.1"), step(str(HERE / "pause"))], PAUSED),
    Scenario("pause, pipe", "gm-work gm-python gm-pause gm-resume", [piped("--delay=0.1"), step(str(HERE / "pause"))], PAUSED),
    Scenario("reap", "gm-reap gm-work", [work("--delay=0"), step(str(HERE / "reap"), "--kill", "1", "2")], {"hang": 2}),
    Scenario("reap, release", "gm-reap gm-work", [work("--delay=0"), step(str(HERE / "reap"), "--release", "1", "2")],
             {"hang": 2}),
    Scenario("killer", "gm-work", [work("--delay=0")], {"plug": 1, "good": 3}),
    Scenario("killer, pipe", "gm-work gm-python", [piped("--delay=0")], {"plug": 1, "good": 3}),
]

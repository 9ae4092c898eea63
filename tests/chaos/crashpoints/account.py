"""The account of a machine: where every accepted job is, and what a tool printed that does not hold."""

from __future__ import annotations

import collections
import time
from dataclasses import dataclass, field

from machine import Machine, numbers
from scenarios import RUNS, Scenario
from strikes import CALM, Strike

QUIET = 20.0   # seconds without any change after which a job that is not accounted for is taken to rest where it is
LIMIT = 90.0   # seconds for a point
BOOTS = 12     # a machine that needs more has a job that takes it down for ever


@dataclass
class Point:
    """A run of a scenario with a call broken, and what came of it."""

    scenario: str
    kind: str
    strike: Strike
    counts: tuple[int, int] = (0, 0)
    struck: bool = False
    where: str = ""
    lost: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    surplus: int = 0
    kept: str = ""


class Account:
    """Where the jobs of a machine are."""

    def __init__(self, machine: Machine, scenario: Scenario):
        self.machine, self.scenario = machine, scenario
        self.jobs = scenario.numbered()
        self.accepted = set() if scenario.prints in ("accepted", "buried") else set(self.jobs)
        self.lost: set[int] = set()

    def ended(self, step) -> None:
        """Hold a step that has ended, however, to what it has printed."""
        machine, printed = self.machine, set(self.machine.printed(step))
        rows = numbers(data for data, in machine.look_up(machine.quarantine, "SELECT data FROM job"))
        if self.scenario.prints in ("accepted", "buried"):
            self.accepted |= printed
        if self.scenario.prints in ("buried", "drained"):
            self.lost |= printed - rows
        if self.scenario.prints == "removed" and printed & rows:
            machine.wrong.append(f"{step.name}: printed as removed, and still there: {sorted(printed & rows)}")

    def places(self) -> dict[str, set[int]] | None:
        """The accepted jobs by where they are: done, dropped, dead, delayed; None where that cannot be told now."""
        machine, found = self.machine, collections.defaultdict(set)
        for what, number in machine.logged():
            found[what].add(int(number))
        for path in machine.state.glob("*.db"):
            if path != machine.store:
                rows = machine.rows(path, "SELECT state, claim IS NULL, data FROM job")
                if rows is None:
                    return None
                for state, free, data in rows:
                    found[state if free else "claimed"] |= numbers([data])
        rows = machine.rows(machine.quarantine, "SELECT unique_ FROM audit WHERE action = 'drop'")
        if rows is None:
            return None
        found["dropped"] |= {int(unique.partition("-")[2]) for unique, in rows}
        return found

    def settled(self, places: dict[str, set[int]]) -> bool:
        final = places["done"] | places["dropped"] | {number for state in self.scenario.rests for number in places[state]}
        moving = places["delayed"] | places["claimed"]
        return self.accepted <= final and not (moving & self.accepted)

    def wait(self) -> None:
        """Run the machine until every step is over and every job is at rest, or nothing changes any more."""
        machine, began = self.machine, time.monotonic()
        changed, before, looked = began, None, 0.0
        while True:
            for step in machine.look():
                self.ended(step)
            places, now = self.places(), time.monotonic()
            over = all(process.over for process in machine.processes if not process.service)
            if places is not None and not machine.control.off:
                moved = over, machine.boots, machine.log.stat().st_size
                picture = {state: sorted(found) for state, found in places.items()}, moved
                if picture != before:
                    before, changed = picture, now
                if over and (self.settled(places) or now > looked + 1.0):
                    looked, queued = now, machine.queue.queued()
                    empty = queued == 0 or (queued and "waiting" in self.scenario.rests)
                    if empty and self.settled(places) and not machine.control.off:
                        return
            if now > changed + QUIET or now > began + LIMIT or machine.boots > BOOTS:
                if not over:
                    machine.wrong.append("a step does not end")
                return
            time.sleep(0.01)

    def close(self, point: Point) -> None:
        """Fill in what came of it."""
        machine = self.machine
        calm = point.kind == CALM and machine.boots == 1
        places = self.places() or collections.defaultdict(set)
        waiting = numbers(data for data, in machine.look_up(machine.store, "SELECT data FROM gearman_queue"))
        final = places["done"] | places["dropped"]
        moving = places["delayed"] | places["claimed"] | waiting
        for state in self.scenario.rests:
            final |= places[state]
        self.lost |= self.accepted - final - moving - places["dead"]
        copies = 1
        if self.scenario.prints == "again":   # each copy must have a row of its own
            copies += len(machine.printed(machine.processes[-1]))
            point.lost = [1] * (copies - len(machine.look_up(machine.quarantine, "SELECT id FROM job")))
        else:
            point.lost = sorted(self.lost)
        for name, found in (("delayed", places["delayed"]), ("claimed", places["claimed"]), ("waiting", waiting)):
            if (calm or name not in self.scenario.rests) and found & self.accepted:
                machine.wrong.append(f"still {name}: {sorted(found & self.accepted)}")
        if "dead" not in self.scenario.rests and places["dead"] & self.accepted - final:
            machine.wrong.append(f"still dead: {sorted(places['dead'] & self.accepted - final)}")
        if calm and places["done"] & places["dead"]:
            machine.wrong.append(f"done, and dead as well: {sorted(places['done'] & places['dead'])}")
        begun = collections.Counter(int(number) for what, number in machine.logged() if what == "begun")
        surplus = {number: times - copies * RUNS[self.jobs[number]] for number, times in begun.items()
                   if times > copies * RUNS[self.jobs[number]]}
        point.surplus = sum(surplus.values())
        if surplus and (calm or any(self.jobs[number] == "plug" for number in surplus)):
            machine.wrong.append(f"surplus runs for no reason: {surplus}")

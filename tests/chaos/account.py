"""The account: where every accepted job is, and why one was done twice."""

from __future__ import annotations

import bisect
import collections
import re

from world import NEVER, World

# What can be the reason that a server hands a job out again, and that a job is submitted twice
EVERYWHERE = ("network", "kill gearmand", "stop gearmand", "kill front", "stop front", "disk full", "locked file", "kill all",
              "power cut", "replaced file", "kill worker", "stop worker", "kill gm-drain", "stop gm-drain")
AGAIN = EVERYWHERE + ("kill gm-work", "stop gm-work", "told gm-work", "kill job", "stop job", "kill foreign")
TWICE = EVERYWHERE + ("kill gm-submit", "stop gm-submit", "kill gm-at", "stop gm-at", "kill gm-requeue", "stop gm-requeue",
                      "kill gm-collect", "stop gm-collect", "told gm-collect")
BEFORE = 3.0   # seconds before a run in which its reason may lie


class Run:
    """A run of a job, as its handler noted it; times by uptime()."""

    __slots__ = ("began", "ended", "attempt", "handle", "server", "run", "how")

    def __init__(self, began, attempt, handle, server, run):
        self.began, self.attempt, self.handle, self.server, self.run = began, attempt, handle, server, run
        self.ended = self.how = None


def number(data: bytes) -> int | None:
    """The job of a queued payload: after its envelope, or inside the record that is on its way to a gm-collect."""
    found = re.match(rb'(?:%gm1 [^\n]*\n)?(?:\{.*"data":")?(\d+) [a-z]+', data)
    return int(found[1]) if found else None


class Account:
    """Read once from a world at rest."""

    def __init__(self, world: World):
        self.world = world
        self.runs: dict[int, list[Run]] = collections.defaultdict(list)
        with open(world.log, encoding="utf-8") if world.log.exists() else open("/dev/null", encoding="utf-8") as file:
            for line in file:
                self.read(*line.split())
        self.dead = self.rows("dead")
        self.delayed = self.rows("delayed")
        self.queued = {ident for data in world.stored() if (ident := number(data)) is not None}
        uniques = {job["unique"]: ident for ident, job in enumerate(world.jobs) if job["unique"][0] == "u"}
        self.dropped = {uniques[unique] for unique, in world.rows(
            "a", "SELECT unique_ FROM audit WHERE action = 'drop'") if unique in uniques}
        self.dropped |= {ident for ident, runs in self.runs.items() if any(run.how == "dropped" for run in runs)}
        self.done = {ident for ident, runs in self.runs.items() if any(run.how == "done" for run in runs)}

    def read(self, what, ident, at, attempt, handle, server, run) -> None:
        runs = self.runs[int(ident)]
        if what == "begun":
            runs.append(Run(float(at), int(attempt), handle, self.world.numbers.get(server, server), run))
            return
        for found in reversed(runs):
            if found.run == run:
                found.ended, found.how = float(at), what
                return

    def tries(self) -> dict[int, int]:
        """How often each job was run by a gm-work: a worker that counts nothing may die of a job again and again."""
        return {ident: sum(run.attempt > 0 for run in runs) for ident, runs in self.runs.items()}

    def rows(self, state: str) -> set[int]:
        found = set()
        for file in self.world.files:
            for data, in self.world.rows(file, f"SELECT data FROM job WHERE state = '{state}'"):
                found.add(int((data if isinstance(data, str) else data.decode()).split()[0]))
        return found

    def merged(self) -> set[int]:
        """Jobs that a server took for one that it had under the same unique, as Gearman's clients ask for: they never ran.

        Only such a one: accepted while another of that unique had been accepted, and not yet begun or just running.
        """
        groups = collections.defaultdict(list)
        for ident in self.world.accepted:
            job = self.world.jobs[ident]
            if job["unique"][0] != "u" and "id" not in self.world.accepted[ident]:   # gm-at's go under a key
                groups[job["function"], job["unique"]].append(ident)
        return {ident for group in groups.values() if len(group) > 1 for ident in group
                if ident not in self.runs and ident not in self.dead | self.delayed | self.queued}

    def places(self) -> dict[str, set[int]]:
        """Where each job is, one place each; lost is what is nowhere. What was not accepted is not there either."""
        left = set(self.world.accepted)
        found = {}
        for name, idents in (("done", self.done), ("dropped", self.dropped), ("dead", self.dead),
                             ("delayed", self.delayed), ("queued", self.queued), ("merged", self.merged())):
            found[name] = left & idents
            left -= found[name]
        found["lost"] = left
        return found

    def too_good(self) -> set[int]:
        """Jobs that were done although they cannot be yet."""
        return {ident for ident in self.done if self.kind(ident) in NEVER}

    def twice(self) -> tuple[collections.Counter, list[str]]:
        """Jobs done more than once, by the fault that explains it; those that none explains, each as a line."""
        reasons: collections.Counter = collections.Counter()
        unexplained = []
        faults = sorted(self.world.faults + [(run.began, "kill worker by a job") for ident, runs in self.runs.items()
                                             for run in runs if self.kind(ident) in ("kill", "lock")])
        times = [at for at, _ in faults]
        for ident, runs in self.runs.items():
            done = [run for run in runs if run.how == "done"]
            for first, second in zip(done, done[1:]):
                same = (first.handle, first.server) == (second.handle, second.server)
                since = first.began if same else self.world.submitted[ident]   # a copy may be as old as the job
                window = [what for _, what in faults[bisect.bisect(times, since - BEFORE):bisect.bisect(times, second.began)]]
                found = [what for what in window if what.startswith(AGAIN if same else TWICE)]
                if not found:
                    unexplained.append(f"{ident}: {self.story(ident)}")
                    continue
                how = "handed out again" if same else "submitted again"
                if not same and first.server != second.server:
                    how = "submitted to the other server as well"
                reasons[f"{how}: {' '.join(found[-1 if same else 0].split()[:2])}"] += 1
        return reasons, unexplained

    def kind(self, ident: int) -> str:
        return self.world.jobs[ident]["data"].split()[1]

    def story(self, ident: int) -> str:
        """What is known of a job, on one line."""
        job = self.world.jobs[ident]
        accepted = self.world.accepted.get(ident)
        told = [f"{job['function']} {job['unique']} {self.kind(ident)}",
                "never accepted" if accepted is None else f"accepted {accepted['time']:.2f} as {accepted.get('handle', 'kept')}"]
        told += [f"begun {run.began:.2f} attempt {run.attempt} {run.handle} run {run.run} " +
                 ("no end" if run.how is None else f"{run.how} {run.ended:.2f}") for run in self.runs.get(ident, ())]
        return "; ".join(told)

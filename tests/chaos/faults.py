"""The faults: what is done to whom, at random from a seed; each is written down before it happens."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import threading
import time

from world import HERE, World, strays


def roles(world: World) -> dict[str, list[int]]:
    """Living processes of the run by what they are: gm-X, worker (gm-work's children, the releaser too), gearmand, front (of
    TLS), foreign (a worker), job."""
    found: dict[str, list[int]] = {}
    parents = {service.process.pid: service.name for service in world.services if service.process}
    for pid in strays(world.home):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        names = [os.path.basename(word).decode("utf-8", "replace") for word in words[:3]]
        tool = next((name for name in names if name.startswith("gm-")), None)
        if tool == "gm-work" and pid not in parents:
            tool = "worker"
        elif tool is None:
            tool = parents[pid].rstrip("01") if pid in parents else "job" if words[0] else None
        if tool:
            found.setdefault(tool, []).append(pid)
    return found


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


class Faults:
    """strength: faults per second, on average; scale: seconds that the long ones last, of the 10 that they are meant to."""

    def __init__(self, world: World, strength: float, scale: float):
        self.world, self.strength, self.scale = world, strength, scale
        self.rng = random.Random(f"faults {world.seed}")
        self.later: list[threading.Timer] = []
        self.rest = 0.0   # time.monotonic() before which nothing that holds up everybody begins
        self.table = [(self.kill, 40), (self.stop, 20), (self.server_dies, 7), (self.network, 22), (self.disk_full, 4),
                      (self.locked, 4), (self.told, 6), (self.all_die, 1.5), (self.slow_requeue, 4),
                      (self.partition, 6), (self.power_cut, 3), (self.clock, 4)]

    def run(self, seconds: float) -> None:
        """Break things for so long; what was broken is whole again at the end. What is worst comes a few times for sure."""
        actions, weights = zip(*self.table)
        began = time.monotonic()
        sure = [(0.8, self.cut_off), (0.7, self.power_cut), (0.65, self.replaced), (0.4, self.cut_off), (0.3, self.clock),
                (0.2, self.cut_off), (0.15, self.power_cut)]
        while (now := time.monotonic()) < began + seconds:
            time.sleep(min(self.rng.expovariate(self.strength), began + seconds - now))
            if sure and time.monotonic() >= began + seconds * sure[-1][0]:
                part, act = sure.pop()
                if act() is False:
                    sure.append((part, act))
            self.rng.choices(actions, weights)[0]()
        self.mend()

    @property
    def note(self):
        return self.world.note

    def hold_up(self, seconds: float) -> bool:
        """Whether something may hold up everybody for so long: not more than a third of the time, so that work goes on."""
        now = time.monotonic()
        if now < self.rest:
            return False
        self.rest = now + 3 * seconds
        return True

    def after(self, seconds: float, act, *args) -> None:
        timer = threading.Timer(seconds, act, args)
        timer.daemon = True
        self.later.append(timer)
        timer.start()

    def mend(self) -> None:
        for timer in self.later:
            timer.cancel()
        for number in range(len(self.world.links)):
            self.proxy(number, "pass")
        for name in ("a", "b", "s0", "s1"):
            (self.world.home / name / "ballast").unlink(missing_ok=True)
        for name in self.world.clocks:
            self.world.set_clock(name, 0)
        for service in self.world.services:
            service.held = False
        for pids in roles(self.world).values():
            for pid in pids:
                send(pid, signal.SIGCONT)
        for number in range(len(self.world.servers)):   # one that a full disk has put out of order
            self.restart_server(number, 0.0)

    def pick(self) -> tuple[str, int] | None:
        """A process of ours or a job: first what it is, so that rare ones come to their turn, then which."""
        found = {role: pids for role, pids in roles(self.world).items() if role != "gearmand"}
        if not found:
            return None
        role = self.rng.choice(sorted(found) + ["worker"] * ("worker" in found) * 3)
        return role, self.rng.choice(found[role])

    # ---- each a fault

    def kill(self) -> None:
        if victim := self.pick():
            self.note(f"kill {victim[0]} {victim[1]}")
            send(victim[1], signal.SIGKILL)

    def stop(self) -> None:
        victim = self.pick()
        if victim:
            seconds = self.rng.uniform(0.05, 3.0 if self.rng.random() < 0.9 else self.scale)
            self.note(f"stop {victim[0]} {victim[1]} {seconds:.2f} s")
            send(victim[1], signal.SIGSTOP)
            self.after(seconds, send, victim[1], signal.SIGCONT)

    def told(self) -> None:
        """TERM and HUP, as an operator or a package update sends them."""
        found = roles(self.world)
        role = self.rng.choice(["gm-work", "gm-collect"])
        if found.get(role):
            pid, number = self.rng.choice(found[role]), self.rng.choice([signal.SIGTERM, signal.SIGHUP])
            if role == "gm-work" or number == signal.SIGTERM:
                self.note(f"told {role} {pid} {number.name}")
                send(pid, number)

    def server_dies(self) -> None:
        number = self.rng.randrange(len(self.world.servers))
        process = self.world.servers[number].process
        if process and self.rng.random() < 0.6:
            self.note(f"kill gearmand {number}")
            self.restart_server(number, self.rng.choice([0.0, 0.5, 2.0]))
        elif process:
            seconds = self.rng.uniform(0.1, 3.0)
            self.note(f"stop gearmand {number} {seconds:.2f} s")
            send(process.pid, signal.SIGSTOP)
            self.after(seconds, send, process.pid, signal.SIGCONT)

    def restart_server(self, number: int, pause: float) -> None:
        service = self.world.servers[number]
        service.held = True
        if service.process:
            send(service.process.pid, signal.SIGKILL)
        self.after(pause, setattr, service, "held", False)

    def proxy(self, number: int, mode: str) -> None:
        self.world.proxy.stdin.write(f"{number} {mode}\n".encode())
        self.world.proxy.stdin.flush()

    def network(self) -> None:
        number = self.rng.randrange(len(self.world.links))
        mode = self.rng.choice(["cut", "cut", "delay", "split", "truncate", "truncate", "hold"])
        seconds = self.rng.uniform(0.2, 4.0)
        self.note(f"network {mode} {number} {seconds:.2f} s")
        self.proxy(number, mode)
        if mode != "cut":
            self.after(seconds, self.proxy, number, "pass")

    def await_retry(self, machine: str) -> None:
        """Wait until a retry waits in a machine's file, which is when most can be lost; not for ever."""
        for _ in range(20 if self.world.accepted else 0):
            if self.world.rows(machine, "SELECT 1 FROM job WHERE state = 'delayed' LIMIT 1"):
                return
            time.sleep(0.05)

    def cut_off(self) -> None:
        self.partition(sure=True)

    def partition(self, sure: bool = False) -> None:
        """No server can be reached, and what was on its way is gone; and some of those who wait do not live to see it.

        It begins while retries are about to be released, which happens once a second.
        """
        seconds = self.rng.uniform(1.8, 3.0)
        if not self.hold_up(seconds) and not sure:
            return
        self.await_retry("a")
        self.note(f"network partition {seconds:.2f} s")
        for number in range(len(self.world.links)):
            self.proxy(number, "hold")
            self.after(seconds, self.proxy, number, "cut")
            self.after(seconds + 0.05, self.proxy, number, "pass")
        if sure or self.rng.random() < 0.7:
            self.after(seconds * 0.9, self.kill_all, "worker", "gm-requeue", "gm-submit", "gm-collect")

    def disk_full(self) -> None:
        name = self.rng.choice(["a", "a", "b", "s0", "s1"])
        seconds = self.rng.uniform(0.5, self.scale)
        if not self.hold_up(seconds):
            return
        if not self.world.mounted:
            self.limited(seconds)
            return
        self.note(f"disk full {name} {seconds:.2f} s")
        ballast = self.world.home / name / "ballast"

        def free():
            ballast.unlink(missing_ok=True)
            if name.startswith("s"):
                self.note(f"kill gearmand {name[1:]} after its disk was full")
                self.restart_server(int(name[1:]), 0.2)
        with open(ballast, "ab") as file:
            for size in (1 << 20, 1 << 12, 512, 1):
                try:
                    while True:
                        os.write(file.fileno(), b"\0" * size)
                except OSError:
                    pass
        self.kill_workers_within(name, seconds)
        self.after(seconds, free)

    def limited(self, seconds: float) -> None:
        """No file may grow, for workers and collectors; their jobs inherit it."""
        self.note(f"disk full by limit {seconds:.2f} s")

        def limit(size: int):
            for role, pids in roles(self.world).items():
                for pid in pids if role in ("worker", "gm-collect") else ():
                    try:
                        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
                    except (ProcessLookupError, PermissionError):
                        pass
        limit(4096)
        self.after(seconds, limit, resource.RLIM_INFINITY)

    def locked(self) -> None:
        """Another process holds the file's write lock: backups, an sqlite3 shell."""
        name = self.rng.choice(["a", "a", "b"])
        if self.world.files[name].exists() and self.hold_up(self.scale):
            self.note(f"locked file {name} {self.scale:.2f} s")
            self.world.popen([str(HERE / "lock"), str(self.world.files[name]), str(self.scale)], "lock",
                             **self.world.machines[name])
            self.kill_workers_within(name, self.scale)

    def kill_workers_within(self, name: str, seconds: float) -> None:
        """In every other such trouble all workers die at its end: what they hold must not hang on the file alone."""
        if self.rng.random() < 0.5:
            self.after(seconds * 0.8, self.kill_all, "worker")

    def kill_all(self, *of: str) -> None:
        self.note(f"kill all {' '.join(of)}")
        for role, pids in roles(self.world).items():
            for pid in pids if not of or role in of else ():
                send(pid, signal.SIGKILL)

    def late(self) -> None:
        """Jobs are sent back that die again at once, the workers being idle; only then comes the word that they were sent."""
        self.note("network late")
        for number in range(len(self.world.links)):
            self.proxy(number, "late")
        self.world.act("gm-requeue", self.world.listing(100, "--reason=rejected"))
        for number in range(len(self.world.links)):
            self.proxy(number, "pass")

    def unheard(self) -> None:
        """Jobs are sent back while no server can be reached, and who sends them dies before he knows."""
        lines, waiting = self.world.listing(100), "SELECT count(*) FROM job WHERE state = 'dead' AND claim IS NULL"
        before = self.world.rows("a", waiting)
        self.note("network unheard")
        for number in range(len(self.world.links)):
            self.proxy(number, "hold")
        process = self.world.popen(["gm-requeue"], "gm-requeue", subprocess.PIPE)
        process.stdin.write(b"".join(line + b"\n" for line in lines))
        process.stdin.close()
        until = time.monotonic() + 1.5
        while lines and self.world.rows("a", waiting) == before and time.monotonic() < until:
            time.sleep(0.02)
        process.kill()
        process.wait()
        for mode in ("cut", "pass"):
            for number in range(len(self.world.links)):
                self.proxy(number, mode)
            time.sleep(0.05)

    def slow_requeue(self) -> None:
        """Acknowledgements arrive late, or a gm-requeue sleeps, while workers run what it has sent."""
        for pid in roles(self.world).get("gm-requeue", []):
            seconds = self.rng.uniform(0.3, 2.0)
            self.note(f"stop gm-requeue {pid} {seconds:.2f} s")
            send(pid, signal.SIGSTOP)
            self.after(seconds, send, pid, signal.SIGCONT)

    def all_die(self) -> None:
        """Everything at once; what was written stays."""
        self.kill_all()

    def power_cut(self) -> None:
        """Of machine b: what was not synced is gone as well."""
        self.await_retry("b")
        self.note("power cut")
        self.world.cut_power()

    def replaced(self) -> bool:
        """The quarantine file, by a backup; False where it is locked now, or its disk full."""
        return self.world.replace_file()

    def clock(self) -> None:
        """The wall clock of a machine is stepped, and later set right."""
        name, step = self.rng.choice(["a", "b"]), self.rng.choice([20, 3600, 86400]) * self.rng.choice([-1, 1])
        seconds = self.rng.uniform(0.5, self.scale)
        self.note(f"clock stepped {name} {step:+d} s for {seconds:.2f} s")
        self.world.set_clock(name, step)
        self.after(seconds, self.world.set_clock, name, 0)

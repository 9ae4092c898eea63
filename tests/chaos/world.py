"""What the chaos run breaks: two gearmands behind a proxy, workers, a collector, who submits, requeues, pauses and drains.

Two machines are played, each a folder with a file and a wall clock of its own: on `a` workers quarantine straight into the
file, on `b` with --via, through the gm-collect of `a`. `b` speaks TLS, and its power can be cut. Folders are small file
systems of their own, which can be filled up.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import json
import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import trustme

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]
sys.path.append(str(HERE / "crashpoints"))
from conftest import SBIN, environment, free_port, strays  # noqa: E402
from disk import Disk  # noqa: E402
from strikes import compile_library  # noqa: E402

FUNCTIONS = {"now": 2, "later": 2, "far": 2, "pipe": 6, "mixed": 2}   # how many jobs; what each is, its gm-work below says
WORK = ["gm-work", "--timeout=2", "--grace=0.5", "--exit=4=drop", "--max-age=20"]
KINDS = {"good": 60, "slow": 3, "flaky": 13, "bad": 8, "reject": 6, "drop": 2, "crash": 4, "hang": 1.5, "kill": 2, "lock": 1}
AT_MOST = {"slow": 300, "hang": 60, "kill": 150, "lock": 60}   # of those that cost seconds each
FOREIGN = ("good", "slow", "flaky", "kill")   # what a worker of another make can do: a job that it fails is no more
NEVER = ("bad", "reject", "crash", "hang", "kill")   # not done before the bug is mended
MEGABYTES = {"a": 24, "b": 24, "s0": 96, "s1": 96}   # of each small file system, and 3 more per 1,000 jobs


def uptime() -> float:
    """Seconds since boot, the clock of every log of the run: a shell can read it too."""
    with open("/proc/uptime", encoding="ascii") as file:
        return float(file.read().split()[0])


def jobs(seed: int, count: int, calm: bool) -> list[dict]:
    """The records to submit; the payload is `ID KIND`, and one unique in ten is used for other jobs as well.

    calm: without the kinds that break more than themselves: a worker may die before it has answered the job before.
    """
    rng = random.Random(f"jobs {seed}")
    names, weights = zip(*((name, min(weight, AT_MOST.get(name, count) * 100 / count)) for name, weight in KINDS.items()
                           if not (calm and name in ("lock", "kill"))))
    made = []
    for ident in range(count):
        kind = rng.choices(names, weights)[0]
        pad = "x" * (rng.randrange(20000) if rng.random() < 0.01 else rng.randrange(60))
        function = rng.choices(list(FUNCTIONS), list(FUNCTIONS.values()))[0]
        if function == "mixed" and kind not in FOREIGN:
            kind = "good"
        unique = f"shared-{rng.randrange(40 + count // 30)}" if rng.random() < 0.1 else f"u{ident}"
        made.append({"function": function, "unique": unique,
                     "priority": rng.choice(("high", "normal", "normal", "low")), "data": f"{ident} {kind}\n{pad}"})
    return made


def descriptors(pid: int) -> list[Path]:
    """The links of a process to what it has open; none where it has ended."""
    try:
        return list(Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return []


def target_of(link: Path) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return ""


class Service:
    """A command that is started again whenever it ends, as a supervisor does; unless .held."""

    def __init__(self, world: World, name: str, argv: list, **env):
        self.world, self.name, self.argv, self.env = world, name, argv, env
        self.process: subprocess.Popen | None = None
        self.held, self.starts = False, 0

    def look(self) -> None:
        if not self.held and (self.process is None or self.process.poll() is not None):
            self.process = self.world.popen(self.argv, name=self.name, **self.env)
            self.starts += 1


class World:
    """home: an empty folder; calm: nothing is broken but by the jobs themselves."""

    def __init__(self, home: Path, seed: int, count: int, calm: bool):
        self.home, self.seed, self.jobs = home, seed, jobs(seed, count, calm)
        for name in ("log", "out", *MEGABYTES):
            (home / name).mkdir()
        self.mounted = os.environ.get("CHAOS_MOUNTS") == "1"
        for name, size in MEGABYTES.items() if self.mounted else ():
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + 3 * count // 1000}m,mode=700", "none", home / name],
                           check=True)
        self.log, self.fixed = home / "log/jobs", home / "log/fixed"
        self.files = {name: home / name / "quarantine.db" for name in ("a", "b")}
        self.clocks = {name: home / "log" / f"clock-{name}" for name in ("a", "b")}
        self.ports = [(free_port(), free_port()) for _ in range(2)]   # (the proxy's, gearmand's)
        self.fronts = [(free_port(), free_port()) for _ in range(2)]   # (the proxy's, that of TLS before a gearmand)
        self.links = [*self.ports, *self.fronts]   # as the proxy numbers them
        library = compile_library(home / "log")
        self.disk = Disk(home / "b", home / "log", library)
        self.env = {**environment(home), "GM_SERVERS": ",".join(f"127.0.0.1:{port}" for port, _ in self.ports),
                    "GM_TIMEOUT": "2", "GM_QUARANTINE": str(self.files["a"]), "CHAOS_LOG": str(self.log),
                    "CHAOS_FIXED": str(self.fixed), "LD_PRELOAD": str(library), "CRASH_CLOCK": str(self.clocks["a"])}
        self.machines = {"a": {}, "b": {   # what the environment of each has beside that
            **self.disk.env, "GM_SERVERS": ",".join(f"tls://localhost:{port}" for port, _ in self.fronts),
            "GM_QUARANTINE": str(self.files["b"]), "CRASH_CLOCK": str(self.clocks["b"]), "GM_TLS_CA": str(home / "log/ca.pem")}}
        self.numbers = {f"{host}:{port}": str(at) for host, links in (("127.0.0.1", self.ports), ("tls://localhost", self.fronts))
                        for at, (port, _) in enumerate(links)}   # of servers, by the addresses that they have
        self.issue_certificate()
        for name in self.clocks:
            self.set_clock(name, 0)
        self.closing = threading.Event()
        self.lock = threading.Lock()   # of the fault log
        self.gate = threading.RLock()   # of the start of any process
        self.faults: list[tuple[float, str]] = []
        self.count: collections.Counter = collections.Counter()   # of faults, by their kind
        self.submitted: dict[int, float] = {}   # when for the first time
        self.accepted: dict[int, dict] = {}
        self.proxy = subprocess.Popen([HERE / "proxy", str(seed), *(f"{ours}:{theirs}" for ours, theirs in self.links)],
                                      stdin=subprocess.PIPE)
        handler = ["--", str(HERE / "handler")]
        self.servers = [Service(self, f"gearmand{at}", ["gm-server", f"--store={home}/s{at}/gearmand.db", f"--port={port}",
                                                        "--", "--threads=2"])
                        for at, (_, port) in enumerate(self.ports)]
        brake = "--brake=20" if count < 5000 else "--brake=0"   # where many fail, their retries end up in one row
        self.services = [
            *self.servers,
            *(Service(self, f"front{at}", [sys.executable, str(HERE.parent / "tls_front.py"), str(front), str(port),
                                           f"{home}/log/front.pem", f"{home}/log/front.key"])
              for at, ((_, front), (_, port)) in enumerate(zip(self.fronts, self.ports))),
            Service(self, "now", [*WORK, "-j2", "--delay=0", "--brake=0", "now", *handler]),
            Service(self, "later", [*WORK, "-j2", "--delay=0.3", "--max-delay=3", brake, "later", *handler]),
            Service(self, "far", [*WORK, "-j2", "--delay=0.2", "--max-delay=3", "--brake=0", "--via=gearmang", "far",
                                  *handler], **self.machines["b"]),
            Service(self, "pipe", [*WORK, "-j2", "--delay=0.2", "--max-delay=3", brake, "--pipe", "pipe", "--",
                                   "gm-python", "piped:handle"], PYTHONPATH=str(HERE)),
            Service(self, "mixed", [*WORK, "--delay=0.2", "--max-delay=3", "--brake=0", "mixed", *handler]),
            Service(self, "foreign", [str(HERE / "foreign.pl"), "mixed"]),
            Service(self, "collect", ["gm-collect"]), Service(self, "collect2", ["gm-collect"])]

    # ---- processes

    def popen(self, argv: list, name: str, stdin=subprocess.DEVNULL, stdout=None, **env) -> subprocess.Popen:
        """Start a tool; what it says goes to out/NAME.err, and out/NAME.out where stdout is not given."""
        command = shutil.which(argv[0], path=self.env["PATH"] + ":" + SBIN) or argv[0]
        with open(self.home / "out" / f"{name}.err", "ab") as err, open(self.home / "out" / f"{name}.out", "ab") as out, \
                self.gate:
            return subprocess.Popen([command, *argv[1:]], env={**self.env, **env}, stdin=stdin, stdout=stdout or out,
                                    stderr=err, cwd=self.home)

    def start(self) -> None:
        for task in (self.supervise, self.requeue, self.operate):
            threading.Thread(target=task, daemon=True).start()
        self.submitting = threading.Thread(target=self.submit, daemon=True)

    def supervise(self) -> None:
        while not self.closing.wait(0.05):
            with self.gate:
                for service in self.services:
                    service.look()

    def close(self) -> None:
        self.closing.set()
        time.sleep(0.2)
        while left := strays(self.home):
            for pid in left:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    pass
            for service in self.services:
                service.process and service.process.poll()
            time.sleep(0.05)
        self.proxy.stdin.close()
        self.proxy.wait(10)

    def remove(self) -> None:
        for name in MEGABYTES if self.mounted else ():
            subprocess.run(["umount", "-l", self.home / name], check=False)
        shutil.rmtree(self.home)

    def note(self, what: str) -> None:
        """Write a fault down before it happens."""
        with self.lock:
            self.count[" ".join(what.split()[:2])] += 1
            self.faults.append((uptime(), what))
            with open(self.home / "log/faults", "a", encoding="utf-8") as file:
                print(f"{uptime():.2f} {what}", file=file)

    # ---- machines

    def issue_certificate(self) -> None:
        """What the TLS fronts show, and the authority that `b` trusts for it."""
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost")
        authority.cert_pem.write_to_path(self.home / "log/ca.pem")
        certificate.private_key_pem.write_to_path(self.home / "log/front.key")
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(self.home / "log/front.pem", append=number > 0)

    def set_clock(self, machine: str, seconds: float) -> None:
        """Let the wall clock of a machine be wrong by so much; the servers are on `a`."""
        path = self.clocks[machine]
        with open(path, "r+b" if path.exists() else "w+b") as file:
            file.write(struct.pack("=d", seconds))

    def cut_power(self) -> None:
        """Of `b`: its processes end, and its files are then as they were last synced."""
        with self.gate:
            self.disk.control.cut()
            while left := [pid for pid in strays(self.home) if self.on_b(pid)]:
                self.kill(left)
            (self.disk.folder / "ballast").unlink(missing_ok=True)
            self.disk.restore()

    @staticmethod
    def on_b(pid: int) -> bool:
        try:
            with open(f"/proc/{pid}/environ", "rb") as environ:
                return b"\0CRASH_CONTROL=" in environ.read()
        except OSError:
            return False

    def replace_file(self) -> bool:
        """Replace the file of `a` by a backup of itself while it is in use; False where that could not be done now.

        A job that dies between a backup and its restoration is lost by definition. So the write lock is held from the backup
        on, until the path leads to the old file no more: who has that finds it out after his next commit. A folder stands
        there until all have ended, as gm-quarantine(5) wants it: SQLite opens -wal and -shm by their names, so that whoever
        opens one file while another takes its place may get parts of both.
        """
        path, fresh = self.files["a"], self.files["a"].with_name("fresh")
        old = sqlite3.connect(path, timeout=1, isolation_level=None)
        source, target = sqlite3.connect(path, timeout=1), sqlite3.connect(fresh)
        try:
            old.execute("BEGIN IMMEDIATE")
            source.backup(target)
            target.close()
            self.note("replaced file")
            with self.held_still():
                path.unlink()
                path.mkdir()
        except sqlite3.Error:
            target.close()
            fresh.unlink(missing_ok=True)
            return False
        finally:
            source.close()
            old.close()
        until = time.monotonic() + 2
        while self.holders() and time.monotonic() < until:
            time.sleep(0.05)
        with self.gate:
            while left := self.holders():
                self.kill(left)
            with self.held_still():
                for end in ("-wal", "-shm"):
                    path.with_name(path.name + end).unlink(missing_ok=True)
                path.rmdir()
                fresh.rename(path)
                path.chmod(0o600)
        return True

    def holders(self) -> list[int]:
        """The processes that have the file of `a` open that is no more."""
        gone = f"{self.files['a']} (deleted)"
        return [pid for pid in strays(self.home) if gone in map(target_of, descriptors(pid))]

    @contextlib.contextmanager
    def held_still(self):
        """A context in which no process of `a` does anything."""
        with self.gate:
            still: list[int] = []
            while found := [pid for pid in strays(self.home) if pid not in still and not self.on_b(pid)]:
                self.kill(found, signal.SIGSTOP)
                still += found
            try:
                yield
            finally:
                self.kill(still, signal.SIGCONT)

    @staticmethod
    def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    # ---- who submits

    def submit(self) -> None:
        """Everything, at .rate jobs a second; what a gm-submit did not acknowledge is submitted once more by the next."""
        rng = random.Random(f"submit {self.seed}")
        left, began = list(range(len(self.jobs))), time.monotonic()
        while left and not self.closing.is_set():
            due = int((time.monotonic() - began) * self.rate) - len(self.accepted)
            if due < 1:
                self.closing.wait(0.05)
                continue
            batch = left[:min(due, rng.randrange(1, 400))]
            taken = self.submit_batch(batch, rng.uniform(0, 4) if rng.random() < 0.15 else None)
            left = [ident for ident in batch if ident not in taken] + left[len(batch):]

    def submit_batch(self, batch: list[int], delay: float | None) -> set[int]:
        """Submit jobs, by gm-at where there is a delay in seconds; those that were accepted."""
        lines = b"".join(json.dumps(self.jobs[ident]).encode() + b"\n" for ident in batch)
        for ident in batch:
            self.submitted.setdefault(ident, uptime())
        command = ["gm-submit"]
        if delay is not None:
            due = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=delay)
            command = ["gm-at", due.isoformat()]   # by the clock of this process, which is never wrong
            self.note(f"gm-at used {len(batch)} jobs")
        process = self.popen(command, command[0], subprocess.PIPE, subprocess.PIPE)
        out, _ = process.communicate(lines)
        taken, now = set(), uptime()
        for line in out.split(b"\n")[:-1]:
            record = json.loads(line)
            ident = batch[record["line"] - 1]
            self.accepted[ident] = {**record, "time": now}
            taken.add(ident)
        return taken

    # ---- who requeues and drops

    requeuing = False   # whether dead jobs are sent back now

    def requeue(self) -> None:
        """Now and then dead jobs are sent back, from a listing of now, from an old one, or by id; and a few dropped."""
        rng = random.Random(f"requeue {self.seed}")
        old: list[bytes] = []
        while not self.closing.wait(rng.uniform(0.2, 1.0)):
            if not self.requeuing:
                continue
            listing = self.listing(rng.choice([5, 40, 200]))
            choice = rng.random()
            if choice < 0.2:
                self.act("gm-requeue", old)
                old = listing
            elif choice < 0.3:
                self.act("gm-requeue", [b"%d" % json.loads(line)["id"] for line in listing], "--ids")
            elif choice < 0.4:
                self.act("gm-drop", [line for line in listing if b'"unique":"u' in line][:3])
            else:
                both = [threading.Thread(target=self.act, args=("gm-requeue", listing)) for _ in range(rng.choice([1, 1, 2]))]
                for one in both:
                    one.start()
                for one in both:
                    one.join()

    def listing(self, limit: int, *options: str) -> list[bytes]:
        process = self.popen(["gm-dead", f"--limit={limit}", *options], "dead", stdout=subprocess.PIPE)
        return process.communicate()[0].split(b"\n")[:-1]

    def act(self, tool: str, lines: list[bytes], *options: str) -> int:
        process = self.popen([tool, *options], tool, subprocess.PIPE)
        process.communicate(b"".join(line + b"\n" for line in lines))
        return process.returncode

    # ---- who pauses and drains

    operating = True

    def operate(self) -> None:
        """Now and then some waiting jobs of a function are drained, and are gm-requeue's then, or it is paused for a while."""
        rng, turn = random.Random(f"operate {self.seed}"), 0
        while not self.closing.wait(rng.uniform(0.3, 2.0)):
            function, seconds = rng.choice(list(FUNCTIONS)), rng.uniform(1, 5)
            machine = self.machines["b" if function == "far" else "a"]
            if not self.operating:
                return
            turn += 1
            if turn % 2:
                self.note(f"drain {function}")
                self.popen(["gm-drain", function, str(rng.randrange(1, 60))], "gm-drain").wait()
                continue
            self.note(f"pause {function} {seconds:.2f} s")
            self.popen(["gm-pause", f"--until={seconds}", function], "gm-pause", **machine).wait()
            if rng.random() < 0.7:
                self.closing.wait(seconds / 2)
                self.popen(["gm-resume", function], "gm-resume", **machine).wait()

    def resume_all(self) -> None:
        """End what a pause has left whose gm-resume did not live, or whose end a wrong clock has put off."""
        self.operating = False
        for machine in self.machines.values():
            while self.popen(["gm-resume", "*"], "gm-resume", **machine).wait() not in (0, 1):
                time.sleep(0.1)

    # ---- what is where

    def rows(self, file: str, sql: str) -> list[tuple]:
        """What a query of a quarantine file gives, past everything that we would have to trust."""
        until = time.monotonic() + 60
        while self.files[file].exists():
            how = "ro" if file == "b" else "rw"   # a checkpoint of ours would be a sync that its shadow does not know
            db = sqlite3.connect(f"file:{self.files[file]}?mode={how}", uri=True, timeout=60)
            try:
                return db.execute(sql).fetchall()
            except sqlite3.OperationalError:   # a full disk has no room for the index of a WAL, which readers need too
                if time.monotonic() >= until:
                    raise
            finally:
                db.close()
            time.sleep(0.1)
        return []

    def stored(self) -> list[bytes]:
        """The payloads in the gearmands' stores."""
        found = []
        for number in range(len(self.servers)):
            db = sqlite3.connect(self.home / f"s{number}/gearmand.db", timeout=60)
            found += [data for data, in db.execute("SELECT data FROM gearman_queue")]
            db.close()
        return found

    def queued(self) -> dict[str, int]:
        """function -> jobs that the gearmands and the delayed rows hold; raises OSError where one does not answer."""
        import socket
        found: dict[str, int] = {}
        for _, port in self.ports:
            with socket.create_connection(("127.0.0.1", port), 5) as connection:
                connection.sendall(b"status\n")
                answer = b""
                while not answer.endswith(b".\n"):
                    chunk = connection.recv(1 << 16)
                    if not chunk:
                        raise ConnectionError("status: cut off")
                    answer += chunk
            for line in answer.decode().splitlines()[:-1]:
                name, total, _, _ = line.split("\t")
                found[name] = found.get(name, 0) + int(total)
        for file in self.files:
            for name, count in self.rows(file, "SELECT function, count(*) FROM job WHERE state = 'delayed' GROUP BY 1"):
                found[name] = found.get(name, 0) + count
        return {name: count for name, count in found.items() if count}

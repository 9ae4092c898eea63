"""The rules of delivery against a model: whatever is submitted, run, failed, killed at any step, released, requeued,
collected, dropped, in any order, every job is in one place, or knowingly in two.

The rules' own code runs (settle, starts, retries, requeue, collect, the store on a real file); the server is a model of what
gearmand does with uniques, and a process dies by an exception between any two of its steps. Twins are jobs that are the same
in function, unique and payload: each of them counts.
"""

from __future__ import annotations

import collections
import os
import shutil
import tempfile
import types

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from libgm.gearman import client
from libgm.gearman.connection import Refused, ServerLost
from libgm.quarantine import file, jobs, processes
from libgm.shell import trouble
from libgm.shell.lines import Output
from libgm.tools import batch, collect, requeue
from libgm.tools.batch import Item
from libgm.tools.drop import Drop
from libgm.worker import orphans, report, retries, settle, verdict
from libgm.worker.attempt import Attempt
from libgm.worker.outcome import Outcome
from libgm.worker.report import Reporter

SERVER = types.SimpleNamespace(host="model")
KEPT = "SELECT function, state, jobs FROM kept WHERE jobs <> 0 ORDER BY 1, 2"
COUNTED = "SELECT function, state, count(*) FROM job GROUP BY 1, 2 ORDER BY 1, 2"
TRIES = 3
MEMORY = "/dev/shm"   # where a file is committed without a disk
PROCESSES = {"later": {}, "now": {"delay": 0.0}, "far": {"delay": 0.0, "via": b"gearmang"}}   # by function
OUTCOMES = {"done": 0, "fail": 1, "tempfail": 75, "reject": 65, "drop": 4}
functions = st.sampled_from(sorted(PROCESSES))
steps = st.one_of(st.none(), st.integers(1, 5), st.integers(1, 12))   # the process dies before that step; None: it lives


class Died(BaseException):
    """The process has been killed here."""


class Fuse:
    """Counts the steps of the process that acts now."""

    left: int | None = None

    @classmethod
    def burn(cls) -> None:
        if cls.left is not None:
            cls.left -= 1
            if not cls.left:
                cls.left = None
                raise Died


class Queued:
    """A job in the model's server."""

    def __init__(self, handle, function, unique, data):
        self.handle, self.function, self.unique, self.data = handle, function, unique, data
        self.owner = None   # who runs it


class Server:
    """gearmand, as far as it matters: equal uniques of a function merge, the payload that was first stays."""

    def __init__(self):
        self.jobs: list[Queued] = []
        self.count, self.up = 0, True

    def submit(self, function: bytes, unique: bytes, data: bytes) -> tuple[bytes, bool]:
        """(handle, whether it was merged)."""
        Fuse.burn()
        for there in self.jobs:
            if (there.function, there.unique) == (function, unique):
                return there.handle, True
        self.count += 1
        self.jobs.append(Queued(b"H:%d" % self.count, function, unique, data))
        Fuse.burn()   # it has it, and the other does not know
        return self.jobs[-1].handle, False

    def grab(self, function: bytes, owner) -> Queued | None:
        for there in self.jobs:
            if there.function == function and there.owner is None:
                there.owner = owner
                return there
        return None

    def remove(self, queued: Queued) -> None:
        Fuse.burn()
        if queued in self.jobs:
            self.jobs.remove(queued)
        Fuse.burn()

    def leave(self, owner) -> None:
        for there in self.jobs:
            if there.owner is owner:
                there.owner = None

    def restart(self) -> None:
        """It keeps its jobs, and counts handles from the start."""
        self.count = 0
        for there in self.jobs:
            self.count += 1
            there.handle, there.owner = b"H:%d" % self.count, None


class Connections:
    """What an answer goes out by: here it is out when it is given."""

    def __init__(self, server: Server, owner):
        self.release = lambda: server.leave(owner)

    def drain(self, seconds: float | None = None, until=None) -> None:
        pass

    def send(self) -> None:
        pass


class Assigned:
    """What a worker sees of a job in hand."""

    def __init__(self, server: Server, queued: Queued, owner):
        self.model, self.queued, self.owner, self.server = server, queued, owner, SERVER
        self.handle, self.function, self.unique, self.data = queued.handle, queued.function, queued.unique, queued.data
        self.worker = Connections(server, owner)

    @property
    def lost(self) -> bool:
        return self.queued.owner is not self.owner

    def resubmit(self, function, unique, data, priority="normal"):
        if self.lost:
            raise ServerLost("model: connection lost")
        if not self.model.up:
            raise Refused(b"QUEUE_ERROR", b"its disk is full")
        return self.model.submit(function, unique, data)[0]

    def complete(self, result: bytes) -> None:
        if self.lost:
            raise ServerLost("model: connection lost")
        self.model.remove(self.queued)

    def fail(self) -> None:
        self.complete(b"")

    def warning(self, data: bytes) -> None:
        pass


class Submitter:
    """In place of submit.Submitter; every answer of the server's comes, or the connection is lost on the way."""

    server: Server
    meanwhile = staticmethod(lambda: None)   # what others do before the answers are read

    def __init__(self, servers, on_accept=None, on_refuse=None, **_):
        self.on_accept, self.on_refuse, self.sent = on_accept, on_refuse, []

    def submit(self, function, unique, data, priority, item, name=b"") -> None:
        if self.server.up:
            self.sent.append((item, self.server.submit(function, unique, data)[0]))
        else:
            self.on_refuse(item, Refused(b"QUEUE_ERROR", b"its disk is full"))

    def finish(self) -> None:
        self.meanwhile()
        for item, handle in self.sent:
            Fuse.burn()
            self.on_accept(item, handle, SERVER)
        self.sent = []

    def close(self) -> None:
        pass


class Process:
    """A process of ours with the file open; alive until it dies."""

    living: set[int] = set()

    def __init__(self, path: str):
        self.store = ModelStore(path, create=True)
        self.living.add(processes.join(self.store, "model"))

    def die(self) -> None:
        self.living.discard(self.store.process)
        if self.store.db.in_transaction:
            self.store.db.execute("ROLLBACK")
        self.store.db.close()


class ModelStore(file.Store):
    """A step of its process before each transaction."""

    def transaction(self, durable: bool = True):
        Fuse.burn()
        return super().transaction(durable)


class Worker(Process):
    """A gm-work process with at most one job in hand."""

    def __init__(self, path: str, function: str, server: Server):
        super().__init__(path)
        options = {"delay": 1000.0, "via": None, **PROCESSES[function]}
        self.settings = types.SimpleNamespace(
            tries=TRIES, max_delay=5000.0, timeout=None, brake=0, exits=verdict.exit_map("4=drop"), foreground=False,
            server_list="model", servers=[SERVER], function=function.encode(), until_empty=False, **options)
        control = types.SimpleNamespace(stopping=False, retired=False, wait=self.wait)
        self.function, self.server, self.hand, self.runs, self.waits = function.encode(), server, None, 0, 0
        self.settler = settle.Settler(self.settings, control, Reporter(self.settings, os.open(os.devnull, os.O_WRONLY)))
        self.settler.store = self.store

    def wait(self, seconds: float) -> None:
        self.server.up = True   # somebody has seen to it meanwhile
        self.waits += 1
        assert self.waits < 1000, "it waits for ever"

    def die(self) -> None:
        super().die()
        os.close(self.settler.reporter.fd)
        self.server.leave(self)

    def begin(self, attempt: Attempt) -> bool:
        """Write its start, and count those of dead workers; False where that was the last of it."""
        if attempt.run in self.settler.turn_over([], [attempt]):
            self.settler.end_starts([attempt])
            if not self.settler.look_back(attempt):
                return False
            self.settler.turn_over([], [attempt])
        return True

    def end(self, attempt: Attempt, outcome: Outcome) -> None:
        """See to what becomes of a job that has ended."""
        if outcome.exit:
            self.settler.settle(attempt, outcome)
        else:
            self.settler.turn_over([(attempt, outcome)], [])


class Delivery(RuleBasedStateMachine):
    """names: payload -> (function, unique) of the jobs; accepted: how many of each; ended: how many were done or dropped; forked:
    those a death or a loss may have made two of."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="gearmang-model-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
        self.path = os.path.join(self.folder, "quarantine.db")
        file.Store(self.path, create=True).close()
        self.server = Submitter.server = Server()
        self.names: dict[bytes, tuple[bytes, bytes]] = {}
        self.accepted: collections.Counter = collections.Counter()
        self.ended: collections.Counter = collections.Counter()
        self.forked: set[bytes] = set()
        self.alive: list[Worker] = []
        self.listing: list[dict] = []
        self.begun: collections.Counter = collections.Counter()
        self.killed: collections.Counter = collections.Counter()   # workers killed with the job in hand, in a row
        Process.living.clear()

    def teardown(self):
        for worker in list(self.alive):
            worker.die()
        shutil.rmtree(self.folder)

    # ---- acting, perhaps to a death in the middle

    def act(self, process: Process, step: int | None, touched, action) -> bool:
        """Run action on the jobs touched; False where the process died of step in it: they may be in two places then."""
        Fuse.left = step
        try:
            action()
            return True
        except Died:
            self.died(process, touched)
            return False
        finally:
            Fuse.left = None

    def died(self, process: Process, touched) -> None:
        self.forked |= set(touched)
        process.die()
        if process in self.alive:
            self.alive.remove(process)

    def once(self, step: int | None, touched, action) -> None:
        """A process that does one thing and ends: action(its store)."""
        process = Process(self.path)
        if self.act(process, step, touched, lambda: action(process.store)):
            processes.leave(process.store)
            process.die()

    # ---- what happens

    def worker(self, function: str, busy: bool) -> Worker | None:
        """A living worker of the function with a job in hand, or with none: started where there is none."""
        found = [worker for worker in self.alive if worker.function == function.encode() and bool(worker.hand) == busy]
        if not found and not busy:
            found = [Worker(self.path, function, self.server)]
            self.alive += found
        return found[0] if found else None

    @rule(function=functions, uniques=st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=3))
    def submit(self, function, uniques):
        for unique in uniques:
            data = b"job %d" % len(self.names)
            if not self.server.submit(function.encode(), unique, data)[1]:
                self.names[data] = function.encode(), unique
                self.accepted[data] += 1

    @rule(which=st.integers(0, 20))
    def submit_a_twin(self, which):
        for data in list(self.names)[which:which + 1]:
            function, unique = self.names[data]
            if not self.server.submit(function, unique, data)[1]:
                self.accepted[data] += 1

    @rule(function=functions, step=steps)
    def take_a_job(self, function, step):
        worker = self.worker(function, busy=False)
        queued = self.server.grab(worker.function, worker)
        if queued is None:
            return
        worker.runs += 1
        attempt = Attempt(Assigned(self.server, queued, worker), worker.runs, False)

        def begin():
            if worker.begin(attempt):
                worker.hand = attempt
                self.begun[attempt.data] += 1
                assert self.killed[attempt.data] < TRIES or attempt.data in self.forked, "it kills worker after worker"
            else:
                self.killed[attempt.data] = 0   # set aside: a twin that comes now is another job
        self.act(worker, step, [attempt.data], begin)

    @rule(function=functions, how=st.sampled_from(sorted(OUTCOMES)), step=steps)
    def end_the_job(self, function, how, step):
        worker = self.worker(function, busy=True)
        if worker is None:
            return
        attempt, outcome = worker.hand, Outcome(stderr=how.encode())
        outcome.exit = OUTCOMES[how]
        worker.hand = None
        self.killed[attempt.data] = 0
        if how in ("done", "drop"):
            self.ended[attempt.data] += 1   # the work is done, whatever becomes of its answer
        if attempt.assigned.lost:
            self.forked.add(attempt.data)
        self.act(worker, step, [attempt.data], lambda: worker.end(attempt, outcome))

    @rule(function=functions, how=st.sampled_from(["fail", "fail", "done", "reject"]), step=steps)
    def take_a_job_and_end_it(self, function, how, step):
        if not any(queued.function == function.encode() for queued in self.server.jobs):
            self.submit(function, [b"a"])
        self.take_a_job(function, None)
        self.end_the_job(function, how, step)

    @rule(function=functions)
    def a_job_kills_its_worker(self, function):
        self.take_a_job(function, None)
        worker = self.worker(function, busy=True)
        if worker:
            self.killed[worker.hand.data] += 1
            self.died(worker, [])

    @rule(function=functions)
    def connection_is_lost(self, function):
        worker = self.worker(function, busy=True)
        if worker:
            self.forked.add(worker.hand.data)
            self.server.leave(worker)

    @rule()
    def server_restarts(self):
        self.forked |= {worker.hand.data for worker in self.alive if worker.hand}
        self.server.restart()

    @rule()
    def server_refuses_for_a_while(self):
        self.server.up = False

    @rule(step=steps)
    def a_job_fails_and_comes_due(self, step):
        self.take_a_job_and_end_it("later", "fail", None)
        self.retries_come_due(step)

    @rule(step=steps)
    def retries_come_due(self, step):
        def let_go(opened):
            opened.execute("UPDATE job SET due = 0 WHERE state = 'delayed'")
            try:
                retries.release_due(opened, types.SimpleNamespace(
                    servers=[SERVER], server_list="model", function=b"later", max_delay=1.0))
            except Refused:
                self.server.up = True
        self.once(step, self.in_file("delayed"), let_go)

    @rule(step=steps)
    def deaths_are_collected(self, step):
        def gather(opened):
            collector = collect.Collector.__new__(collect.Collector)
            collector.store, collector.output, collector.collected = opened, Output(quiet=True), 0
            collector.trouble, collector.control = trouble.Trouble(), types.SimpleNamespace(stopping=True)
            collector.worker = Connections(self.server, collector)
            batch = []
            while queued := self.server.grab(b"gearmang", collector):
                batch.append(Assigned(self.server, queued, collector))
            try:
                if batch:
                    collector.keep(batch)
            finally:
                self.server.leave(collector)
        self.once(step, self.names, gather)

    @rule(function=functions)
    def a_job_dies_and_somebody_looks(self, function):
        self.take_a_job_and_end_it(function, "reject", None)
        self.deaths_are_collected(None)
        self.somebody_looks()

    @rule()
    def somebody_looks(self):
        opened = file.Store(self.path, readonly=True)
        self.listing = [jobs.record(values) for values in opened.execute(
            f"SELECT {', '.join(jobs.COLUMNS)} FROM job WHERE state = 'dead' ORDER BY id")]
        opened.close()

    @rule(step=steps, ids=st.booleans(), meanwhile=st.booleans())
    def what_was_seen_is_requeued(self, step, ids, meanwhile):
        def others():
            left, Fuse.left = Fuse.left, None
            for function in PROCESSES if meanwhile else ():
                self.take_a_job(function, None)
                self.end_the_job(function, "reject", None)
            Fuse.left = left
        Submitter.meanwhile = staticmethod(others)
        self.on_listing(requeue.Requeue(self.path, [SERVER], False, Output(quiet=True)), step, ids)

    @rule(step=steps, ids=st.booleans())
    def what_was_seen_is_dropped(self, step, ids):
        drop = Drop(self.path, False, Output(quiet=True))
        remove = jobs.remove

        def removed(opened, rows):
            remove(opened, rows)
            self.ended.update(file.raw(found["data"]) for found in rows)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jobs, "remove", removed)
            self.on_listing(drop, step, ids)

    def on_listing(self, tool, step, ids: bool):
        def run(opened):
            tool.progress = types.SimpleNamespace(add=lambda count: None)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(batch, "Store", lambda path, create: opened)
                patch.setattr(processes, "join", lambda *_: None)
                tool.open()
            for number, record in enumerate(self.listing, 1):
                tool.take(Item(f"stdin:{number}", record["id"], None if ids else record))
            tool.flush()
            tool.end()
        self.once(step, self.in_file("dead"), run)
        Submitter.meanwhile = staticmethod(lambda: None)
        self.server.up = True

    # ---- what holds

    def in_file(self, state: str) -> list[bytes]:
        """The payloads of the jobs that are in the file in that state."""
        opened = file.Store(self.path, readonly=True)
        found = [file.raw(data) for data, in opened.execute("SELECT data FROM job WHERE state = ?", (state,))]
        opened.close()
        return found

    def places(self, data: bytes, rows: list) -> list[str]:
        """rows: of the file."""
        return [f"queue of {queued.function.decode()}" for queued in self.server.jobs
                if queued.data == data or b'"%s"' % data in queued.data] + \
            [state for found, state, *_ in rows if found == data.decode()]

    def rows(self) -> list:
        """(payload, state, attempts, requeues) of the jobs in the file, which must count them as they are."""
        opened = file.Store(self.path, readonly=True)
        assert opened.execute(KEPT).fetchall() == opened.execute(COUNTED).fetchall()
        found = opened.execute("SELECT data, state, attempts, requeues FROM job").fetchall()
        opened.close()
        return found

    @invariant()
    def every_job_is_somewhere(self):
        rows = self.rows()
        for data in self.names:
            places, left = self.places(data, rows), self.accepted[data] - self.ended[data]
            if data in self.forked:   # copies may have ended, and others be there
                assert places or self.ended[data], f"{data!r} is lost"
                assert self.ended[data] or len(places) >= left, f"{data!r}: {places}"
            else:
                in_hand = sum(bool(worker.hand) and worker.hand.data == data for worker in self.alive)
                assert left <= len(places) <= left + in_hand * (self.ended[data] > 0), f"{data!r}: {places}, not {left}"

    @invariant()
    def no_job_is_tried_more_often_than_is_counted(self):
        """A job that no requeue, no copy and no twin gave new tries has had at most TRIES."""
        for found, _, attempts, requeues in self.rows():
            data = file.raw(found)
            if data in set(self.names) - self.forked:
                assert 0 < attempts <= TRIES
                assert self.accepted[data] > 1 or self.begun[data] <= TRIES * (requeues + 1)


@pytest.fixture(scope="module", autouse=True)
def model():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "Submitter", Submitter)
        patch.setattr(orphans, "end_orphans", lambda *_: None)
        patch.setattr(processes, "lives", lambda store, process: process in Process.living)
        for module in (batch, requeue, trouble, report, settle):
            patch.setattr(module, "warn", lambda text: None)
        yield


Delivery.TestCase.settings = settings(max_examples=int(os.environ.get("MODEL_EXAMPLES", "60")), stateful_step_count=50,
                                      deadline=None, suppress_health_check=list(HealthCheck))
TestDelivery = pytest.mark.timeout(900)(pytest.mark.slow(30)(Delivery.TestCase))   # its examples share a busy machine

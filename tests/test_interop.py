"""gearmang among programs that it did not write: Perl's, PHP's, npm's, Python's and C's clients and workers (tests/interop).

Each takes the others' jobs, and a payload is what was submitted, whoever handed it on.
"""

from __future__ import annotations

import base64
import json
import socket
import struct
import sys

import pytest
from conftest import ROOT, until

pytestmark = pytest.mark.slow

HERE = ROOT / "tests/interop"
PEERS = {"perl": ("perl", "pl"), "php": ("php", "php"), "npm": ("node", "js"), "gear": (sys.executable, "py"), "c": ("sh", "sh")}
ALL = pytest.mark.parametrize("peer", PEERS)
RAISING = pytest.mark.parametrize("peer", [peer for peer in PEERS if peer != "c"])   # C's exits; it raises nothing
UNIQUES = {
    "UUID": b"7c9e6679-7425-40de-944b-e07fc1f90ae7", "SHA-1": b"da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "SHA-256": b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "none": b"",
    "UTF-8": "größe-17".encode(), "tilde": b"~begins"}
WORK = ["gm-work", "--delay=0", "--brake=0", "--grace=0"]

# A COMMAND of gm-work: $1 is what it appends the numbers of jobs that are done to
COMMAND = r"""
payload=$(cat)
case $payload in
    *reject*) [ -e "$1.mended" ] || { echo unfit >&2; exit 65; } ;;
    *flaky*) [ "$GM_ATTEMPT" -gt 1 ] || { echo "not yet" >&2; exit 1; } ;;
    *fail*) exit 1 ;;
esac
number=${payload#*: } number=${number%%,*}
echo "$number" >>"$1"
printf 'done %s' "$number"
"""


def payload(number: int, how: str = "ok") -> str:
    return f'{{"n": {number}, "how": "{how}", "text": "grüße"}}'


class Peer:
    """A peer's client and worker, against one server."""

    def __init__(self, gm, server, name: str):
        self.gm, self.server = gm, server
        self.program, self.suffix = PEERS[name]
        self.env = {"NODE_PATH": str(ROOT / ".peers/node_modules")}
        self.log = gm.home / "peer.log"
        self.log.touch()

    def submit(self, *jobs: tuple[str, str]) -> None:
        """Submit (unique, payload) in the background, each accepted when this returns."""
        self.client("bg", *jobs)

    def client(self, mode: str, *jobs: tuple[str, str]) -> str:
        lines = "".join(f"{unique}\t{data}\n" for unique, data in jobs)
        script = HERE / f"client.{self.suffix}"
        return self.gm(self.program, script, self.server.port, "f", mode, input=lines.encode(), env=self.env).out.decode()

    def start(self):
        """A worker of the peer's."""
        return self.gm.start(self.program, HERE / f"worker.{self.suffix}", self.server.port, "f", self.log, env=self.env)

    def seen(self) -> list[tuple[bytes, str]]:
        """(payload, how) of the jobs that its workers were given, in order."""
        pairs = (line.split() for line in self.log.read_text().splitlines(keepends=True) if line.endswith("\n"))
        return [(base64.b64decode(coded), how) for coded, how in pairs]


@pytest.fixture
def made(gm, gearmand):
    """made("perl") is that peer."""
    return lambda name: Peer(gm, gearmand, name)


def command(gm) -> list:
    return ["--", "sh", "-c", COMMAND, "sh", gm.home / "done"]


def done(gm) -> list[int]:
    """The numbers of the jobs that COMMAND has done, sorted."""
    path = gm.home / "done"
    return sorted(map(int, path.read_text().split())) if path.exists() else []


def raw_submit(server, jobs: list[tuple[bytes, bytes]]) -> None:
    """Submit (unique, payload) as no tool of ours would: with any unique."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection, connection.makefile("rb") as answers:
        for unique, data in jobs:
            body = b"f\0" + unique + b"\0" + data
            connection.sendall(b"\0REQ" + struct.pack(">II", 18, len(body)) + body)
            kind, size = struct.unpack(">II", answers.read(12)[4:])
            assert kind == 8, answers.read(size)
            answers.read(size)


# ---- its jobs, by gm-work

@ALL
def test_its_jobs_are_done_retried_quarantined_and_sent_back(gm, made, peer):
    made(peer).submit(("one", payload(1)), ("two", payload(2, "flaky")), ("three", payload(3, "reject")), ("", payload(4)),
                      ("", payload(5, "flaky")))
    gm(*WORK, "--until-empty", "f", *command(gm))
    assert done(gm) == [1, 2, 4, 5]
    dead = gm("gm-dead", "--json").records
    assert [(job["unique"], job["data"], job["reason"], job["attempts"]) for job in dead] == [
        ("three", payload(3, "reject"), "rejected", 1)]
    (gm.home / "done.mended").touch()
    gm("gm-requeue", dead[0]["id"])
    gm(*WORK, "--until-empty", "f", *command(gm))
    assert done(gm) == [1, 2, 3, 4, 5]
    assert gm("gm-dead", "--json").records == []


@ALL
def test_its_client_waits_for_gm_work(gm, made, peer):
    gm.start(*WORK, "--foreground", "f", *command(gm))
    assert made(peer).client("fg", ("", payload(1)), ("", payload(2, "fail")), ("three", payload(3))).splitlines() == [
        "complete done 1", "fail", "complete done 3"]


@RAISING
def test_its_client_sees_the_progress_of_gm_work(gm, made, peer):
    (gm.home / "steps.py").write_text("def handle(job):\n    job.progress(1, 2)\n    return 'done'\n")
    gm.start(*WORK, "--pipe", "f", "--", "gm-python", "steps:handle")
    assert made(peer).client("fg", ("", payload(1))).splitlines() == ["status 1 2", "complete done"]


# ---- ours, by its worker

def ours(number: int, how: str = "ok") -> bytes:
    return json.dumps({"function": "f", "unique": f"ours-{number}", "data": payload(number, how)}).encode() + b"\n"


@ALL
def test_its_worker_does_our_jobs(gm, made, gearmand, peer):
    its = made(peer)
    its.start()
    gm("gm-submit", input=ours(1) + ours(2))
    until(lambda: len(its.seen()) == 2)
    assert its.seen() == [(payload(1).encode(), "ok"), (payload(2).encode(), "ok")]
    assert [job["result"] for job in gm("gm-submit", "--wait", input=ours(3)).records] == ["done 3"]
    gm("gm-submit", "--wait", input=ours(4, "fail"), status=1)


@RAISING
def test_an_exception_of_its_worker_ends_our_wait(gm, made, peer):
    its = made(peer)
    its.start()
    gm("gm-submit", "--wait", input=ours(1, "raise"), status=1, timeout=20)


@RAISING
def test_an_exception_of_its_worker_leaves_the_job_in_quarantine(gm, made, peer):
    its = made(peer)
    its.submit(("one", payload(1, "raise")))
    gm(*WORK, "--until-empty", "f", "--", "sh", "-c", "exit 65")
    [job] = gm("gm-dead", "--json").records
    its.start()
    gm("gm-requeue", "--wait", job["id"], status=1, timeout=20)
    assert [found["id"] for found in gm("gm-dead", "--json").records] == [job["id"]]


# ---- handed on by gm-work and gm-requeue

def submitted() -> list[tuple[bytes, bytes]]:
    return [(unique, payload(number).encode()) for number, unique in enumerate(UNIQUES.values(), 1)]


def seen_by(its: Peer, jobs) -> None:
    """Its worker is given every payload, byte for byte."""
    its.start()
    until(lambda: len(its.seen()) == len(jobs))
    assert sorted(its.seen()) == sorted((data, "ok") for _, data in jobs)


@ALL
def test_its_worker_sees_the_payload_after_a_retry(gm, made, gearmand, peer):
    """Retried at once: the second attempt is stopped, so every job waits as its first failure has left it."""
    raw_submit(gearmand, submitted())
    work = gm.start(*WORK, "--tries=5", "f", "--", "sh", "-c", '[ "$GM_ATTEMPT" -lt 2 ] || exec sleep 600; exit 1')
    until(lambda: work.out_path.read_bytes().count(b'"retry"') == len(UNIQUES))
    work.terminate()
    assert work.wait(20) == 0
    seen_by(made(peer), submitted())


@ALL
def test_its_worker_sees_the_payload_after_a_delayed_retry(gm, made, gearmand, peer):
    raw_submit(gearmand, submitted())
    gm("gm-work", "--brake=0", "--delay=1h", "--until-empty", "f", "--", "false")
    with gm.database() as database:
        assert database.execute("UPDATE job SET due = 0 WHERE state = 'delayed'").rowcount == len(UNIQUES)
    gm.start("gm-work", "another", "--", "true")   # releases what is due, of any function
    seen_by(made(peer), submitted())


@ALL
def test_its_worker_sees_the_payload_after_gm_requeue(gm, made, gearmand, peer):
    raw_submit(gearmand, submitted())
    gm(*WORK, "--until-empty", "f", "--", "sh", "-c", "exit 65")
    gm("gm-requeue", input=gm("gm-dead", "--json").out)
    assert gearmand.waiting(b"f") == len(UNIQUES)
    seen_by(made(peer), submitted())


@ALL
def test_half_and_half_nothing_is_gone(gm, made, gearmand, peer):
    """Half the workers are gm-work, which fails each first attempt; the others fail what they cannot decode."""
    count = 200 if peer in ("perl", "php") else 60
    its = made(peer)
    its.submit(*((f"half-{number}" if number % 2 else "", payload(number)) for number in range(1, count + 1)))
    work = gm.start(*WORK, "-j2", "--tries=5", "f", "--", "sh", "-c", '[ "$GM_ATTEMPT" -gt 1 ] || exit 1\n' + COMMAND, "sh",
                    gm.home / "done")
    until(lambda: work.out_path.read_bytes().count(b'"retry"') >= count // 10)
    for _ in range(2):
        its.start()
    until(lambda: not gearmand.status()[b"f"][0], timeout=60, what="the queue is empty")
    by_its = {json.loads(data)["n"] for data, how in its.seen() if how == "ok"}
    assert [how for _, how in its.seen() if how != "ok"] == []
    assert by_its | set(done(gm)) == set(range(1, count + 1))
    assert gm("gm-dead", "--json").records == []

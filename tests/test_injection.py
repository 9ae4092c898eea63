"""Names, payloads and errors that would act on a terminal, a shell, a log or a monitor: none does, in any tool's output."""

from __future__ import annotations

import json
import os
import re
import socket
import stat

import pytest
from conftest import until
from helpers import terminal

pytestmark = pytest.mark.slow

ACTS = "\x1b[2J\x1b]0;t\x07\x9b31m\u202e\u2028\x7f\r"   # clears the screen, names the window, colours, turns text around
SHELL = "$(touch owned)`touch owned`;touch owned|touch owned #'\""
FUNCTION, UNIQUE = f"f{ACTS.strip()}{SHELL}\t%n", f"u{ACTS[:9]}\u202e$(touch owned)`id`\t"
PAYLOAD = f"{ACTS}\n{SHELL}\0\n"
ERROR = f"e{ACTS}{SHELL}"
FUNCTION = FUNCTION.replace("\r", "")
UNIQUE = UNIQUE.replace("\r", "")[:40]
MARKS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def harmless(shown: str, *, colour: bool = False) -> str:
    """shown, which is something, and nothing in it acts on a terminal; colour: gm-status and tqdm mark with their own colour."""
    text = re.sub("\x1b\\[(?:1;31)?m", "", shown) if colour else shown
    assert text.strip() and not MARKS.search(text), ascii(text)
    return shown


@pytest.fixture
def hostile(gm, gearmand):
    """One hostile job, dead, and a copy of it in the queue; what gm-work said of it."""
    record = json.dumps({"function": FUNCTION, "unique": UNIQUE, "data": PAYLOAD}).encode()
    gm("gm-submit", input=record)
    (gm.home / "error").write_text(ERROR)
    result = gm("gm-work", "--until-empty", "--tries=1", FUNCTION, "--", "sh", "-c", "cat error >&2; exit 1")
    gm("gm-submit", input=record)
    yield result
    assert not list(gm.home.rglob("owned")), "a shell has seen a name or a payload"


def test_lines_of_programs_are_json_and_byte_exact(gm, hostile, gearmand):
    for out in (hostile.out, gm("gm-dead").out, gm("gm-status").out, gm("gm-dead", "--group").out,
                gm("gm-salvage", gearmand.store).out):
        assert [json.loads(line)["function"] for line in out.splitlines()] == [FUNCTION]
    assert [record["data"] for record in gm("gm-dead").records] == [PAYLOAD]
    assert gm("gm-dead", "--data", "1").out == PAYLOAD.encode()
    for out in (gm("gm-drop", "1").out, gm("gm-history").out):
        assert [json.loads(line)["function"] for line in out.splitlines()] == [FUNCTION]


def test_messages_are_single_harmless_lines(gm, hostile):
    assert hostile.err.count(b"\n") == 1
    harmless(hostile.err.decode())
    for args, status in ((("gm-dead", "-f", FUNCTION, "-r", "none"), 2), (("gm-submit", "-u", "x" * 64 + ACTS, "f"), 2),
                         (("gm-dead", f"--quarantine=/nowhere/{ACTS}"), 111), (("gm-submit", "-s", ACTS, "f"), 2),
                         (("gm-work", "f", "--", f"./no{ACTS}"), 127), (("gm-dead", f"--{ACTS}"), 2),
                         (("gm-requeue", ACTS), 2), (("gm-python", f"no_module{ACTS}:x"), 1),
                         (("gm-salvage", f"/nowhere/{ACTS}"), 111), (("gm-server", f"--store=/nowhere/{ACTS}"), 111),
                         (("gm-check", ACTS), 3)):
        result = gm(*args, input=b"x\n", status=None)
        assert result.status == status, result
        harmless(result.err.decode() + result.out.decode())
        assert (result.err or result.out).count(b"\n") == 1, result
    bad = gm("gm-submit", input=f'{{"function":"{ACTS[:3]}\n'.encode() + ERROR.encode() + b"\n", status=1)
    harmless(bad.err.decode())


# what is run on a terminal, its exit status, whether it names the function
FAIL = ("--", "sh", "-c", "cat error >&2; exit 1")
ON_A_TERMINAL = [
    ("gm-dead", 0, True), ("gm-dead 1", 0, True), ("gm-dead --json", 0, True), ("gm-dead --json 1", 0, True),
    ("gm-dead --group", 0, True), ("gm-dead --group --json", 0, True), ("gm-history", 0, True), ("gm-history --json", 0, True),
    ("gm-status", 0, True), ("gm-status --json", 0, True), ("gm-status --workers", 0, True), ("gm-status --by-server", 0, True),
    ("gm-status --prometheus", 0, True), ("gm-reap --job-older-than=0", 0, False), ("gm-salvage gearmand.db", 0, True),
    ("gm-salvage --check gearmand.db", 0, False), ("gm-requeue 1", 0, False), ("gm-drop 1", 0, False),
    ("gm-check queue", 0, True), ("gm-check dead", 1, True), ("gm-tally <events", 0, True), ("gm-tally --json <events", 0, True),
    ("gm-syslog ./nobody <events", 1, True), ("gm-submit <job", 0, False), ("gm-bury <dead", 0, False),
    ("gm-collect --until-empty", 0, True), (("gm-work", "--until-empty", "--tries=1", FUNCTION, *FAIL), 0, True),
    (("gm-work", "--until-empty", "--tries=1", "--pipe", FUNCTION, "--",
      "jq", "-c", "--unbuffered", "{ok:false,error:.data}"), 0, True)]


@pytest.mark.parametrize("command, status, names", ON_A_TERMINAL, ids=lambda value: str(value)[:30])
def test_nothing_acts_on_a_terminal(gm, hostile, gearmand, command, status, names):
    (gm.home / "events").write_bytes(hostile.out)
    (gm.home / "dead").write_bytes(gm("gm-dead").out)
    (gm.home / "job").write_bytes(json.dumps({"function": FUNCTION, "unique": UNIQUE + "2", "data": PAYLOAD}).encode())
    if command[:7] in ("gm-hist", "gm-bury"):
        gm("gm-drop", "-q", "1")
    elif command == "gm-collect --until-empty":
        gm("gm-work", "--until-empty", "--tries=1", "--via=gearmang", "-q", FUNCTION, *FAIL)
    elif "--workers" in command or "--job-older-than=0" in command:
        gm.start("gm-work", "-q", FUNCTION, "--", "sleep", "1000")
        until(lambda: gearmand.status()[FUNCTION.encode()][1] == 1 and gm("gm-reap", "--job-older-than=0").out)
    args = ("sh", "-c", command) if isinstance(command, str) else command
    shown = harmless(terminal(gm, *args, status=status), colour=command[:9] == "gm-status")
    assert not names or re.search(r"f\\(x|u00)1b\[2", shown), shown


def test_a_line_for_each_thing_in_what_monitors_read(gm, hostile):
    page = gm("gm-status", "--prometheus").out.decode()
    for line in page.rstrip("\n").split("\n"):
        assert line.startswith("#") or re.fullmatch(r'\w+(\{(\w+="([^"\\\n]|\\["\\n])*",?)*\})? -?[0-9.e+]+', line), line
    check = gm("gm-check", "queue", status=None)
    assert check.out.count(b"\n") == 1 and check.out.decode().count("|") == 1
    gauges = gm.start("gm-collectd", env={"COLLECTD_INTERVAL": "1", "COLLECTD_HOSTNAME": "h"})
    until(lambda: gauges.out_path.read_bytes().count(b"\n") >= 4)
    for line in gauges.out_path.read_text().rstrip("\n").split("\n"):
        assert re.fullmatch(r'PUTVAL "[ -!#-~]+/gearmang-[ -!#-.0-~]+/gauge-\w+" interval=[0-9.]+ N:[0-9]+', line), line


def test_a_syslog_message_cannot_be_forged(gm, hostile):
    path = str(gm.home / "log")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(path)
        gm("gm-syslog", "--all", path, input=hostile.out)
        receiver.settimeout(10)
        said = receiver.recv(1 << 16)
        harmless(said.removeprefix("\ufeff".encode()).decode().replace("\ufeff", ""))
        receiver.settimeout(0.1)
        with pytest.raises(OSError):
            receiver.recv(1 << 16)


# ---- files


@pytest.mark.parametrize("umask", [0o000, 0o777])
def test_modes_whatever_the_umask(gm, gearmand, umask):
    """Payloads may be secret: files are the owner's alone."""
    os.makedirs(gm.home / "own", 0o700)
    gm("sh", "-ec", f"umask {umask:o}; gm-work --until-empty --quarantine=own/q.db f -- true; gm-dead --quarantine=own/q.db")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (gm.home / "own").iterdir()}
    assert modes and set(modes.values()) == {0o600}, modes
    taken = f"--port={gearmand.port}"   # so that it ends
    assert gm.start("sh", "-c", f"umask {umask:o}; exec gm-server --store=own/s.db {taken}").wait(20)
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in (gm.home / "own").iterdir())


def test_a_group_that_shares_a_folder_shares_the_file(gm, gearmand):
    folder = gm.home / "shared"
    folder.mkdir()
    folder.chmod(0o2770)
    gm("sh", "-c", "umask 077; gm-work --until-empty --quarantine=shared/q.db f -- true")
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o660}


def test_a_symlink_in_place_of_a_new_file_is_not_followed(gm, gearmand):
    """In a folder that others may write, it could make us write where it points."""
    aim = gm.home / "aim"
    (gm.home / "q.db").symlink_to(aim)
    gm("gm-work", "--until-empty", "--quarantine=q.db", "f", "--", "true", status=111)
    (gm.home / "r.db-alive").symlink_to(aim)
    worker = gm.start("gm-work", "--until-empty", "--quarantine=r.db", "f", "--", "true")
    until(lambda: b"symbolic link" in worker.err_path.read_bytes())
    worker.kill()
    (gm.home / "s.db.lock").symlink_to(aim)
    gm("gm-server", "--store=s.db", f"--port={gearmand.port}", status=111)
    assert not aim.exists()


def test_names_and_payloads_reach_a_command_without_a_shell(gm, gearmand):
    gm("gm-submit", input=json.dumps({"function": "f", "unique": UNIQUE, "data": SHELL}).encode())
    gm("gm-work", "--until-empty", "f", "--", "sh", "-c", 'printf "%s\\n" "$GM_UNIQUE" >unique; cat >payload')
    assert (gm.home / "unique").read_text()[:-1] == UNIQUE and (gm.home / "payload").read_text() == SHELL
    assert not (gm.home / "owned").exists()

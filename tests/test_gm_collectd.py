"""gm-collectd: under a real collectd, with its csv plugin as the witness; alone, when servers come and go."""

from __future__ import annotations

import os
import pwd
import re
import signal
import subprocess

import pytest
from conftest import ROOT, unprivileged, until
from helpers import HOSTILE, answering, silent

pytestmark = pytest.mark.slow

LINE = re.compile(r'PUTVAL "([^/"]+)/gearmang-([^/"]+)/gauge-(\w+)" interval=([\d.]+) N:(-?\d+)')


def rounds(process) -> list[dict]:
    """What it has printed: {(function, kind): value} for each round."""
    found: list[dict] = [{}]
    for line in process.out_path.read_text().splitlines():
        _, function, kind, _, value = LINE.fullmatch(line).groups()
        if (function, kind) in found[-1]:
            found.append({})
        found[-1][function, kind] = int(value)
    return found


def last(process) -> dict:
    """The last whole round."""
    return (rounds(process)[-2:-1] or [{}])[0]


def test_values_of_each_function(gm, gearmand, die):
    die("f", b"1\n2\n")
    die("f", b"3\n", "exit 1", "--tries=2", "--delay=1h")
    gm("gm-submit", "-q", "f", input=b"1\n2\n")
    process = gm.start("gm-collectd", "--interval=0.2", env={"COLLECTD_HOSTNAME": "web.example", "COLLECTD_INTERVAL": "30.000"})
    want = {("f", kind): value for kind, value in
            {"waiting": 2, "running": 0, "workers": 0, "delayed": 1, "held": 0, "dead": 2}.items()}
    until(lambda: last(process) == want)
    assert process.out_path.read_text().startswith('PUTVAL "web.example/gearmang-f/gauge-waiting" interval=0.2 N:2\n')
    gm("gm-drop", "-q", "1", "2")
    until(lambda: last(process)["f", "dead"] == 0, what="none left is 0")
    process.terminate()
    assert process.wait(20) == 0 and process.err_path.read_bytes() == b""


def test_names_that_would_break_an_identifier(gm, gearmand):
    long = "l" * 200
    for name in (HOSTILE, "a/../b", "100%", long):
        gm("gm-submit", "-q", name, input=b"1\n")
    process = gm.start("gm-collectd", "--interval=0.2")
    until(lambda: len(last(process)) == 24)
    names = {function for function, _ in last(process)}
    assert names >= {"a%2f..%2fb", "100%25", "tab%09here é %1b[31m%22q%5c|"}
    assert [name for name in names if re.fullmatch("l{91}~[0-9a-f]{8}", name)]


def test_servers_that_come_and_go(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"1\n")
    process = gm.start("gm-collectd", "--interval=0.2")
    until(lambda: last(process).get(("f", "waiting")) == 1)
    gearmand.kill()
    until(lambda: process.err_path.read_bytes().count(b"\n") == 1)
    count = len(rounds(process))
    until(lambda: set(last(process)) == {("f", "delayed"), ("f", "held"), ("f", "dead")} and len(rounds(process)) > count + 2)
    gearmand.start()
    until(lambda: last(process).get(("f", "waiting")) == 1)
    assert [line.split(b": ", 1)[1] for line in process.err_path.read_bytes().splitlines()] == [
        f"{gearmand.server}: cannot connect: connection refused: is gearmand running? gm-server starts one".encode(),
        b"all servers and the quarantine file answer again"]


def test_a_silent_server_does_not_hold_the_others(gm, fake):
    both = f"{silent(fake)},{answering(fake, chr(10).join(['f	-3	-4	1', '']).encode())}"
    process = gm.start("gm-collectd", "--interval=0.1", "-s", both, env={"GM_TIMEOUT": "0.3"})
    until(lambda: last(process).get(("f", "running")) == -4)
    assert process.err_path.read_bytes().count(b"no answer in 0.3 s") == 1


def test_it_ends_with_its_reader(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"1\n")
    process = gm.start("gm-collectd", "--interval=0.1", stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(20) == 0 and process.err_path.read_bytes() == b""


def test_it_ends_with_its_reader_also_where_it_has_nothing_to_say(gm):
    process = gm.start("gm-collectd", "--interval=1h", stdout=subprocess.PIPE)
    until(lambda: b"cannot connect" in process.err_path.read_bytes())
    assert process.poll() is None
    process.stdout.close()
    assert process.wait(20) == 0


@pytest.mark.parametrize("args", [("--interval=0",), ("--interval=x",), ("x",), ("-s", "a b")])
def test_misuse(gm, args):
    gm("gm-collectd", *args, status=2)


class Collectd:
    """A real collectd that includes the file of contrib/, its csv files the witness."""

    def __init__(self, gm, folder):
        self.gm, self.folder, self.config = gm, folder, folder / "collectd.conf"
        user = pwd.getpwuid(os.geteuid() or pwd.getpwnam("nobody").pw_uid).pw_name
        ours = (ROOT / "contrib/collectd/gearmang.conf").read_text()
        assert ours.count('Exec "gearmang" ') == 1
        (folder / "gearmang.conf").write_text(ours.replace('Exec "gearmang" ', f'Exec "{user}" '))
        self.config.write_text(f"""
Hostname "witness"
FQDNLookup false
BaseDir "{folder}"
PIDFile "{folder}/collectd.pid"
TypesDB "/usr/share/collectd/types.db"
Interval 1
LoadPlugin logfile
<Plugin logfile>
  File "{folder}/collectd.log"
</Plugin>
LoadPlugin csv
<Plugin csv>
  DataDir "{folder}/csv"
</Plugin>
Include "{folder}/gearmang.conf"
""")

    def start(self):
        self.process = self.gm.start(*unprivileged("collectd", "-f", "-C", self.config))
        return self

    def values(self, function: str, kind: str) -> list[float]:
        files = sorted((self.folder / "csv").glob(f"witness/gearmang-{function}/gauge-{kind}-*"))
        return [float(line.split(",")[1]) for file in files for line in file.read_text().splitlines()[1:] if line.count(",") == 1]


def test_collectd_takes_the_file_of_contrib(gm, tmp_path):
    result = gm(*unprivileged("collectd", "-t", "-C", Collectd(gm, tmp_path).config))
    assert result.err == b"" and not (tmp_path / "collectd.log").exists()


def test_collectd_sees_queues_and_workers_change(gm, gearmand, tmp_path):
    gm("gm-submit", "-q", "f", input=b"x\n" * 7)
    collectd = Collectd(gm, tmp_path).start()
    until(lambda: collectd.values("f", "waiting")[-1:] == [7])
    gm.start("gm-work", "-q", "-j", "3", "f", "--", "cat")
    until(lambda: collectd.values("f", "waiting")[-1:] == [0] and collectd.values("f", "workers")[-1:] == [3])
    gearmand.kill()
    until(lambda: "connection refused" in (tmp_path / "collectd.log").read_text())
    gearmand.start()
    gm("gm-submit", "-q", "g", input=b"x\n" * 5)
    until(lambda: collectd.values("g", "waiting")[-1:] == [5], what="it goes on with the server")
    collectd.process.send_signal(signal.SIGTERM)
    assert collectd.process.wait(20) == 0
    before = len(collectd.values("g", "waiting"))
    collectd.start()
    until(lambda: len(collectd.values("g", "waiting")) > before, what="it goes on with collectd")

"""contrib/: systemd units and crontab lines, checked by the programs that read them, and run where they can be.

collectd's, Nagios' and NRPE's files are run by the tests of gm-collectd and gm-check.
"""

from __future__ import annotations

import json
import re

import pytest
from conftest import ROOT

UNITS = ROOT / "contrib/systemd"
CRONTAB = ROOT / "contrib/cron/crontab"


@pytest.fixture
def units(tmp_path):
    """A copy of the units with the checkout's tools, the template's instance `resize` too."""
    for unit in UNITS.glob("gearmang-*"):
        text = unit.read_text().replace("/usr/local/bin/", f"{ROOT}/bin/")
        (tmp_path / unit.name).write_text(text)
        if "@" in unit.name:
            (tmp_path / unit.name.replace("@", "@resize")).write_text(text)
    return tmp_path


def test_systemd_takes_every_unit(gm, units):
    names = sorted(str(path) for path in units.glob("gearmang-*"))
    assert len(names) == 8
    result = gm("systemd-analyze", "verify", "--man=no", *names)
    assert result.out + result.err == b""
    assert all((units / name.name.replace(".timer", ".service")).exists() for name in units.glob("*.timer"))


def test_systemd_would_have_told(gm, units):
    unit = units / "gearmang-work@resize.service"
    unit.write_text(unit.read_text().replace("Restart=always", "Restart=ever").replace("bin/gm-work", "bin/gm-wrok"))
    result = gm("systemd-analyze", "verify", "--man=no", unit, status=None)
    assert re.search(rb"(?i)failed to parse [^\n]*restart", result.err) and b"gm-wrok" in result.err   # versions differ


def test_workers_and_servers_are_restarted_and_jobs_in_hand_not_told_to_stop():
    for name in ("server", "work@", "collect"):
        assert "\nRestart=always\n" in (UNITS / f"gearmang-{name}.service").read_text()
    assert "\nKillMode=mixed\n" in (UNITS / "gearmang-work@.service").read_text()


def test_the_user_of_the_units(gm, tmp_path):
    (tmp_path / "etc").mkdir()
    gm("systemd-sysusers", f"--root={tmp_path}", UNITS / "gearmang.sysusers.conf")
    assert (tmp_path / "etc/passwd").read_text().startswith("gearmang:")


def test_cron_takes_the_crontab(gm, tmp_path):
    assert b"successfully checked" in gm("crontab", "-n", CRONTAB).err
    bad = tmp_path / "bad"
    bad.write_text(CRONTAB.read_text().replace("20 4 *", "20 44 *"))
    assert b"bad hour" in gm("crontab", "-n", bad, status=1).err


def systemd_line(unit: str) -> str:
    """The shell script of a unit's ExecStart=/bin/sh -ec '...'."""
    script = re.search(r"(?m)^ExecStart=/bin/sh -ec '(.*)'$", (UNITS / unit).read_text())[1]
    return "set -e; " + script.replace("$$", "$").replace("%%", "%").replace("/usr/local/bin/", "")


def cron_lines(word: str, folder) -> list[str]:
    lines = [line.split(None, 5)[5] for line in CRONTAB.read_text().splitlines() if re.match(r"[\d*]", line) and word in line]
    return [re.sub("/var/lib/(gearmang|prometheus/node-exporter)", str(folder), line.replace("\\%", "%")) for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["systemd", "cron"])
def test_retention_archives_and_removes_what_is_old(gm, die, tmp_path, kind):
    line = systemd_line("gearmang-retention.service") if kind == "systemd" else cron_lines("gm-drop", tmp_path)[0]
    die("f", b"1\n2\n3\n")
    gm("sh", "-c", line, status=0)
    assert not list(tmp_path.glob("removed-*"))
    with gm.database() as db:
        db.execute("UPDATE job SET last_failed = last_failed - 86400 * 200, first_failed = 1 WHERE id < 3")
    gm("sh", "-c", line)
    archive, = tmp_path.glob("removed-*.jsonl")
    assert [json.loads(row)["id"] for row in archive.read_text().splitlines()] == [1, 2]
    assert [record["id"] for record in gm("gm-dead").records] == [3]


@pytest.mark.slow
def test_cron_reports_by_mail_and_to_prometheus(gm, die, tmp_path):
    die("f", b"1\n2\n")
    group, = cron_lines("--group", tmp_path)
    mail = gm("sh", "-c", group)
    assert mail.out.startswith(b"count  function ") and mail.out.count(b"\n") == 2
    prometheus, = cron_lines("--prometheus", tmp_path)
    gm("sh", "-c", prometheus)
    assert "gearmang_dead_jobs" in (tmp_path / "gearmang.prom").read_text()
    gm("gm-drop", "-q", "1", "2")
    mail = gm("sh", "-c", group, status=None)
    assert mail.out + mail.err == b""   # no mail
    gm.env["GM_SERVERS"] = "127.0.0.1:1"
    assert gm("sh", "-c", prometheus).err == b""
    assert 'gearmang_up{server="127.0.0.1:1"} 0' in (tmp_path / "gearmang.prom").read_text()
    reap, = cron_lines("gm-reap", tmp_path)
    assert gm("sh", "-c", reap).out == b""

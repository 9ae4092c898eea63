"""gm-check: the plugin conventions, the five modes, and a real Nagios and NRPE that run it from contrib/."""

from __future__ import annotations

import os
import pwd
import re
import signal
import sys

import pytest
from conftest import ROOT, free_port, unprivileged, until
from helpers import answering, make_job_older, silent
from helpers import status_of as of

pytestmark = pytest.mark.slow

STATES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
LINE = re.compile(r"GEARMANG(?: [A-Z]+)? (OK|WARNING|CRITICAL|UNKNOWN) - ([^|\n]*)(?: \| ([^|\n]+))?\n")
PERFDATA = re.compile(r"('[^'=]+'|[^' =]+)=(-?[\d.]+)(s?);([^; ]*);([^; ]*);0(?: |$)")


class Answer:
    """Status, text and performance data ({label: (value, warning, critical)}) of a check's one line."""

    def __init__(self, result):
        self.result = result
        state, self.text, perfdata = LINE.fullmatch(result.out.decode()).groups()
        assert STATES[result.status] == state and result.err == b""
        found = PERFDATA.findall(perfdata or "")
        assert sum(len(field) for row in found for field in row) + 6 * len(found) - bool(found) == len(perfdata or "")
        self.perfdata = {name.strip("'"): (float(value), warning, critical) for name, value, _, warning, critical in found}
        self.state = state


def check(gm, *args, **options) -> Answer:
    return Answer(gm("gm-check", *args, status=None, **options))


@pytest.mark.parametrize("value, given, state", [
    (10, "10", "OK"), (11, "10", "WARNING"), (10, "10:", "OK"), (9, "10:", "WARNING"), (10, "~:10", "OK"),
    (11, "~:10", "WARNING"), (9, "10:20", "WARNING"), (20, "10:20", "OK"), (15, "@10:20", "WARNING"), (9, "@10:20", "OK"),
    (10, "@10", "WARNING"),
    (99, "", "OK"), (0, "0", "OK"), (1, "0", "WARNING"), (1, "0.5", "WARNING")])
def test_ranges(gm, fake, value, given, state):
    server = answering(fake, b"f\t%d\t0\t1\n" % value)
    assert check(gm, "queue", "-s", server, "-w", given, "-c", "").state == state
    critical = check(gm, "queue", "-s", server, "-c", given, "-w", given)
    assert critical.state == state.replace("WARNING", "CRITICAL")
    assert critical.perfdata["f_waiting"] == (value, given, given)


@pytest.mark.parametrize("args", [
    (), ("nonsense",), ("queue", "workers"), ("-w", "x", "queue"), ("-c", "20:10", "queue"), ("-w", "1:2:3", "queue"),
    ("--nonsense", "queue"), ("-t", "0", "queue"), ("-t", "x", "queue"), ("-s", "a b", "queue"), ("--window=1h", "queue"),
    ("-w", "5m", "queue")])
def test_misuse_is_unknown(gm, args):
    answer = check(gm, *args)
    assert answer.state == "UNKNOWN" and "see gm-check --help" in answer.text


def test_help_is_one_screen(gm):
    assert gm("gm-check", "--help").out.count(b"\n") <= 35


def test_queue_by_default_and_by_glob(gm, fake):
    server = answering(fake, b"few\t5\t0\t1\nsome\t15\t4\t1\nmany\t101\t0\t1\nidle\t0\t0\t0\n")
    answer = check(gm, "queue", "-s", server)
    assert answer.state == "CRITICAL" and answer.text.startswith("many: 101 waiting (outside range 0:100); some: 11 waiting")
    assert answer.perfdata["waiting"][0] == 117 and answer.perfdata["some_waiting"] == (11, "10", "100")
    assert check(gm, "queue", "-s", server, "--exclude=many").state == "WARNING"
    assert check(gm, "queue", "-s", server, "-f", "*e*", "--exclude", "*me").text == "5 waiting, 2 functions"
    assert check(gm, "queue", "-s", server, "-f", "s?me", "-f", "few").state == "OK"   # the last wins


@pytest.mark.parametrize("mode", ["queue", "workers", "age", "dead", "server"])
def test_a_function_that_nobody_knows_is_never_ok(gm, gearmand, die, mode):
    die("known", b"1\n")
    gm("gm-drop", "-q", "1")
    for asked, said in (("resise", "resise: no such function on a server or in the quarantine file"),
                        ("re*", "no function matches re*")):
        answer = check(gm, mode, "-f", asked)
        assert answer.state == "UNKNOWN" and said in answer.text
    gearmand.kill()
    gearmand.start()   # it knows no function now, but the file does
    for asked in ("known", "k*"):
        assert "no " not in check(gm, mode, "-f", asked).text
    gm("gm-submit", "-q", "resise", input=b"1\n")
    assert "no such function" not in check(gm, mode, "-f", "resise").text


def test_a_function_that_is_named_has_figures_also_where_no_server_knows_it(gm, gearmand):
    answer = check(gm, "workers", "-f", "resize", "-c", "1:")
    assert answer.state == "CRITICAL" and answer.perfdata["resize_workers"][0] == 0
    assert check(gm, "queue").state == "OK" and check(gm, "workers").state == "UNKNOWN"


def test_whether_a_name_is_known_cannot_be_told_while_a_server_is_down(gm, die):
    die("f", b"1\n")
    gm("gm-drop", "-q", "1")
    assert check(gm, "dead", "-f", "resise", "-s", "127.0.0.1:1").state == "OK"


@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "de_DE.ISO-8859-1", "nowhere"])
def test_names_are_matched_alike_in_every_locale(gm, fake, locale):
    server = answering(fake, "größe\t200\t0\t1\n".encode())
    # in a build without that locale Python decodes as it does in C: the way there is the same
    env = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    for glob in ("größe", "gr??e", "gr[öä]ße", "*ß*"):
        answer = check(gm, "queue", "-s", server, "-f", glob, env=env)
        assert answer.state == "CRITICAL" and answer.text.startswith("größe: 200 waiting"), (locale, glob)
    assert check(gm, "queue", "-s", server, "--exclude=gr??e", env=env).text == "0 waiting, 0 functions"
    assert "größe: no such function" in check(gm, "queue", "-s", answering(fake, b"f\t0\t0\t0\n"), "-f", "größe", env=env).text


def test_missing_workers_of_a_paused_function_are_no_failure(gm, gearmand):
    gm("gm-submit", "-q", "f", input=b"1\n")
    assert check(gm, "workers", "-c", "1:").state == "CRITICAL"
    gm("gm-pause", "--why=new disk", "f")
    answer = check(gm, "workers", "-c", "1:")
    assert answer.state == "OK" and re.search("f paused by .*: new disk", answer.text)
    gm("gm-resume", "f")
    assert check(gm, "workers", "-c", "1:").state == "CRITICAL"


def test_overdue_jobs_are_a_warning(gm, die):
    die("f", b"1\n", "exit 1", "--tries=2", "--delay=1h")
    assert check(gm, "age").state == "OK"
    with gm.database() as db:
        db.execute("UPDATE job SET due = 1")
    answer = check(gm, "age")
    assert answer.state == "WARNING" and answer.text == "f: 1 overdue, no gm-work releases them"
    assert check(gm, "age", "--exclude=f").state == "OK"


def test_a_round_trip(gm, gearmand, fake):
    answer = check(gm, "server", "--round-trip")
    assert answer.state == "OK" and re.search(r"did a job in 0\.\d+ s", answer.text)
    assert 0 < answer.perfdata[f"{gearmand.server}_round_trip"][0] < 5
    assert check(gm, "server", "--round-trip", "-w", "@0:1h").state == "WARNING"
    # the check's own function is nobody's trouble, but can be asked for
    assert check(gm, "workers").state == "UNKNOWN" and check(gm, "queue").text == "0 waiting, 0 functions"
    assert check(gm, "queue", "-f", "gm-check").text == "0 waiting, 1 function"
    running = [gm.start("gm-check", "server", "--round-trip") for _ in range(4)]   # at once, they do each other's jobs
    assert [process.wait(30) for process in running] == [0] * 4
    answer = check(gm, "server", "--round-trip", "-s", answering(fake, b"f\t0\t0\t0\n"), env={"GM_TIMEOUT": "0.5"})
    assert answer.state == "CRITICAL"
    assert check(gm, "queue", "--round-trip").state == "UNKNOWN"


def test_workers_too_few_and_none(gm, gearmand):
    gm("gm-submit", "-q", "lonely", input=b"1\n2\n")
    gm.start("gm-work", "-j", "2", "manned", "--", "cat")
    until(lambda: of(gm, "manned")["workers"] == 2 if of(gm, "manned") else False)
    answer = check(gm, "workers")
    assert answer.state == "CRITICAL" and answer.text == f"lonely: 2 waiting without a worker on {gearmand.server}"
    assert answer.perfdata["manned_workers"][0] == 2 and answer.perfdata["lonely_workers"][0] == 0
    assert check(gm, "workers", "--exclude=lonely", "-w", "3:").state == "WARNING"
    assert check(gm, "workers", "-f", "manned", "-w", "2:", "-c", "1:").state == "OK"


@pytest.mark.parametrize("mode", ["queue", "workers", "server"])
def test_running_below_zero_is_critical(gm, fake, mode):
    below, fine = answering(fake, b"f\t0\t-1\t1\n"), answering(fake, b"f\t1\t1\t1\n")
    answer = check(gm, mode, "-s", f"{fine},{below}")
    assert answer.state == "CRITICAL" and f"f: running below zero on {below}: -1" in answer.text


def test_the_worst_wins_and_unknown_hides_no_critical(gm, fake):
    down = f"127.0.0.1:{free_port()}"
    bad, poor = answering(fake, b"z\t200\t0\t1\n"), answering(fake, b"a\t50\t0\t1\n")
    answer = check(gm, "queue", "-s", f"{down},{bad}")
    assert answer.state == "CRITICAL" and "z: 200 waiting" in answer.text and f"{down}: cannot connect" in answer.text
    assert answer.text.index("z: 200") < answer.text.index(down)
    assert check(gm, "queue", "-s", f"{poor},{bad}").state == "CRITICAL"
    assert check(gm, "queue", "-s", f"{down},{poor}").state == "UNKNOWN"
    answer = check(gm, "queue", "-s", down)
    assert answer.state == "UNKNOWN" and answer.perfdata == {}


def test_dead_jobs_and_their_growth(gm, die):
    die("a", b"1\n2\n3\n")
    die("b", b"1\n")
    answer = check(gm, "dead")
    assert answer.state == "WARNING" and answer.text == "a: 3 dead (outside range 0:0); b: 1 dead (outside range 0:0)"
    assert answer.perfdata == {"dead": (4, "0", ""), "a_dead": (3, "0", ""), "b_dead": (1, "0", "")}
    assert check(gm, "dead", "-c", "2").state == "CRITICAL"
    with gm.database() as db:
        db.execute("UPDATE job SET last_failed = last_failed - 7200 WHERE function = 'a'")
    answer = check(gm, "dead", "--window=1h")
    assert answer.text == "b: 1 dead within 3600 s (outside range 0:0)"
    assert check(gm, "dead", "--window=1h", "-f", "a").state == "OK"
    gm("gm-drop", "1", "2", "3", "4")
    answer = check(gm, "dead")
    assert answer.state == "OK" and answer.text == "0 dead"


@pytest.mark.parametrize("mode", ["dead", "age"])
def test_no_quarantine_file_is_unknown(gm, mode, tmp_path):
    answer = check(gm, mode)
    assert answer.state == "UNKNOWN" and str(tmp_path / "quarantine.db") in answer.text


def test_server_answers(gm, gearmand):
    answer = check(gm, "server")
    assert answer.state == "OK" and re.search(r"version \S+ answered in 0\.\d+ s", answer.text)
    assert 0 < answer.perfdata[f"{gearmand.server}_time"][0] < 5
    assert check(gm, "server", "-w", "@0:1h", "-s", gearmand.server).state == "WARNING"
    answer = check(gm, "server", "-s", f"{gearmand.server},127.0.0.1:1")
    assert answer.state == "CRITICAL" and answer.text == \
        "127.0.0.1:1: cannot connect: connection refused: is gearmand running? gm-server starts one"


@pytest.mark.parametrize("mode, state", [("queue", "UNKNOWN"), ("workers", "UNKNOWN"), ("server", "CRITICAL")])
def test_a_silent_server_is_given_up(gm, fake, mode, state):
    answer = check(gm, mode, "-s", silent(fake), env={"GM_TIMEOUT": "0.4"})
    assert answer.state == state and answer.text.endswith(": no answer in 0.4 s")
    answer = check(gm, mode, "-s", silent(fake), "-t", "2")
    assert answer.state == state and answer.text.endswith(": no answer in 1.2 s")


def test_a_locked_file_is_unknown_in_time(gm, die):
    die("f", b"1\n")
    with gm.database() as db:
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("BEGIN EXCLUSIVE")
        answer = check(gm, "dead", "-t", "3")
    assert answer.state == "UNKNOWN" and "locked" in answer.text


def test_names_act_neither_on_the_line_nor_on_its_data(gm, fake):
    name = "a\tb|c='d' é\x1b[31m"
    answer = check(gm, "queue", "-s", answering(fake, name.encode() + b"\t11\t0\t1\n\xff\t12\t0\t1\n"))
    assert answer.text == r"\xff: 12 waiting (outside range 0:10); a\tb\x7cc='d' é\x1b[31m: 11 waiting (outside range 0:10)"
    assert answer.perfdata[r"a\tb\x7cc\x3d\x27d\x27 é\x1b[31m_waiting"][0] == 11 and answer.perfdata[r"\xff_waiting"][0] == 12


def test_ten_thousand_functions_in_one_short_line(gm, fake):
    rows = b"".join(b"function-%05d\t%d\t0\t0\n" % (n, n) for n in range(10000))
    answer = check(gm, "queue", "-s", answering(fake, rows))
    assert "and 9984 more" in answer.text and len(answer.result.out) < 4096
    assert answer.perfdata["waiting"][0] == sum(range(10000)) and answer.perfdata["function-09999_waiting"][0] == 9999
    assert check(gm, "workers", "-s", answering(fake, rows)).text.endswith("and 9994 more")


def test_hung_workers_are_the_same_to_gm_check_and_gm_reap(gm, gearmand):
    gm("gm-submit", "-q", "hang", input=b"1\n")
    gm("gm-submit", "-q", "well", input=b"1\n")
    fleet = gm.start("gm-work", "hang", "--", "sleep", "1000")
    gm.start("gm-work", "well", "--", "sleep", "1000")
    until(lambda: len([r for r in gm("gm-status", "--workers", status=None).records if r.get("handle")]) == 2)
    assert check(gm, "age").state == "OK"

    def reaped(*options):
        return [(r["kind"], r["function"], r["pid"]) for r in gm("gm-reap", *options).records if r["kind"] in ("worker", "job")]
    hung, = (pid for _, function, pid in reaped("--older-than=0") if function == "hang")
    os.kill(hung, signal.SIGSTOP)
    try:
        with gm.database() as db:
            db.execute("UPDATE process SET started = started - 1000 WHERE function = 'hang'")
        make_job_older(gm, "hang", 800)
        answer = check(gm, "age")
        assert answer.state == "CRITICAL" and f"(pid {hung} on " in answer.text and "well" not in answer.text
        assert re.search(r"hang: worker .* for 10\d\d s \(outside range 0:900\); "
                         r"hang: job H:\S+ .* for 8\d\d s \(outside range 0:300\)", answer.text)
        assert answer.perfdata["oldest_worker"][0] >= 1000 and answer.perfdata["longest_job"][1:] == ("300", "900")
        for limit in (300, 900, 2000):
            said = check(gm, "age", "-w", "", "-c", str(limit))
            listed = reaped(f"--older-than={limit}", f"--job-older-than={limit}")
            assert (said.state == "CRITICAL") == bool(listed)
            assert [kind for kind, _, _ in listed] == re.findall(r"hang: (worker|job)", said.text)
        assert check(gm, "age", "-f", "well").state == "OK"
        gm("gm-reap", "--older-than=300", "--kill", "--grace=0")
        until(lambda: check(gm, "age").state == "OK")
    finally:
        try:
            os.kill(hung, signal.SIGCONT)
        except ProcessLookupError:
            pass
    assert fleet.poll() is None


def nagios_config(folder) -> str:
    """A main file for Nagios in folder: the templates of its package, a host, and ours of contrib/."""
    user = pwd.getpwuid(os.geteuid() or pwd.getpwnam("nobody").pw_uid).pw_name
    (folder / "host.cfg").write_text(
        "define host {\n  use generic-host\n  host_name localhost\n  address 127.0.0.1\n"
        "  max_check_attempts 3\n  contact_groups admins\n}\n")
    stock = "/etc/nagios4/objects"
    lines = [f"cfg_file={path}" for path in (
        f"{stock}/templates.cfg", f"{stock}/timeperiods.cfg", f"{stock}/commands.cfg", f"{stock}/contacts.cfg",
        folder / "host.cfg", ROOT / "contrib/nagios/gearmang.cfg")]
    for name, file in (("log_file", "nagios.log"), ("object_cache_file", "objects"), ("status_file", "status"),
                       ("lock_file", "nagios.pid"), ("temp_file", "temp"), ("state_retention_file", "retention"),
                       ("command_file", "nagios.cmd"), ("query_socket", "nagios.qh"), ("precached_object_file", "precache")):
        lines.append(f"{name}={folder / file}")
    lines += [f"temp_path={folder}", f"check_result_path={folder}", f"log_archive_path={folder}", f"nagios_user={user}",
              "use_syslog=0", "interval_length=1", "check_result_reaper_frequency=1", "execute_host_checks=0",
              "execute_service_checks=1", "status_update_interval=1",
              "enable_notifications=0", "retain_state_information=0", "enable_flap_detection=0", "check_for_updates=0",
              "service_inter_check_delay_method=n", "illegal_macro_output_chars=`~$&|'\"<>"]
    (folder / "nagios.cfg").write_text("\n".join(lines) + "\n")
    return str(folder / "nagios.cfg")


def test_nagios_takes_the_file_of_contrib(gm, tmp_path):
    result = gm(*unprivileged("nagios4", "-v", nagios_config(tmp_path)))
    assert b"Total Warnings: 0\n" in result.out and b"Total Errors:   0\n" in result.out
    assert b"Checked 6 services" in result.out


@pytest.mark.slow(10)
def test_nagios_sees_a_queue_fill_and_empty(gm, gearmand, tmp_path):
    gm("gm-work", "-q", "--until-empty", "f", "--", "cat")   # there is a quarantine file from the beginning
    worker = gm.start("gm-work", "-q", "f", "--", "cat")
    until(lambda: gearmand.status().get(b"f", (0, 0, 0))[2] == 1)
    gm.start(*unprivileged("nagios4", nagios_config(tmp_path)))
    log = tmp_path / "nagios.log"

    def alerts(service):
        text = log.read_text() if log.exists() else ""
        return re.findall(rf"SERVICE ALERT: localhost;{service};(\w+);HARD;", text)
    status = tmp_path / "status"
    until(lambda: status.exists() and status.read_text().count("has_been_checked=1") >= 6, what="Nagios has checked")
    worker.send_signal(signal.SIGTERM)
    worker.wait(20)
    gm("gm-submit", "-q", "f", input=b"x\n" * 101)
    for service in ("gearmang queue", "gearmang workers"):
        until(lambda: alerts(service)[-1:] == ["CRITICAL"], 30, f"{service} is CRITICAL")
    gm.start("gm-work", "-q", "f", "--", "cat")
    for service in ("gearmang queue", "gearmang workers"):
        until(lambda: alerts(service)[-1:] == ["OK"], 30, f"{service} is OK again")
    gearmand.kill()
    until(lambda: alerts("gearmang server")[-1:] == ["CRITICAL"], 30, "the server is CRITICAL")
    assert "f: 101 waiting (outside range 0:100)" in log.read_text()


def test_nrpe_runs_the_commands_of_contrib(gm, gearmand, tmp_path, die):
    die("f", b"1\n")
    port = free_port()
    ours = (ROOT / "contrib/nagios/nrpe.cfg").read_text()
    (tmp_path / "gearmang.cfg").write_text(ours.replace("/usr/local/bin/", f"{sys.executable} {ROOT}/bin/"))
    config = tmp_path / "nrpe.cfg"
    config.write_text(f"server_port={port}\nserver_address=127.0.0.1\nallowed_hosts=127.0.0.1\npid_file={tmp_path}/nrpe.pid\n"
                      f"disable_syslog=1\nlog_file={tmp_path}/nrpe.log\ninclude={tmp_path}/gearmang.cfg\n")
    gm.start(*unprivileged("nrpe", "-c", str(config), "-n", "-f"))

    def ask(name):
        return gm("/usr/lib/nagios/plugins/check_nrpe", "-n", "-H", "127.0.0.1", "-p", port, "-c", f"check_gearmang_{name}",
                  status=None)
    until(lambda: ask("server").status == 0, what="nrpe answers")
    for name, status in (("server", 0), ("queue", 0), ("age", 0), ("dead", 1), ("deaths", 0), ("workers", 0)):
        result = ask(name)
        assert (result.status, result.out.split()[2].decode()) == (status, STATES[status]), result

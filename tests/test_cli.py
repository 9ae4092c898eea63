"""libgm.shell, through small tools that are run: options, messages, exit statuses, signals."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, until

from libgm import __version__

DOC = """Do a thing.

Usage: gm-x [options] {usage}

Options:
  -j --jobs=N       workers [default: 1]
  -t --timeout=TIME  limit
  -q --quiet        print nothing
  --quarantine=FILE  the file
  -s --server=LIST  the servers
  -h --help         show this
  --version         show the version
"""
ECHO = "import json; os.write(1, json.dumps(args).encode())"


@pytest.fixture
def tool(gm, tmp_path):
    """tool(body of main, usage) makes gm-x; tool.run(...) runs it."""
    class Tool:
        path = tmp_path / "gm-x"
        env = {"PYTHONPATH": str(ROOT)}

        def __call__(self, body=ECHO, usage="[--] [ID...]", command=False):
            body = "\n    ".join(body.split("\n"))
            self.path.write_text(f'#!/usr/bin/env python3\n"""{DOC.format(usage=usage)}"""\n'
                                 "import os, sys\nfrom libgm import errors\n"
                                 "from libgm.shell import lines, messages, options, places\n"
                                 "from libgm.shell.run import run\n\n\n"
                                 f"def main(args):\n    {body}\n\n\n"
                                 f"run(main, __doc__, command={command})\n")
            self.path.chmod(0o755)
            return self

        def run(self, *args, env=None, **options):
            return gm(self.path, *args, env={**self.env, **(env or {})}, **options)

        def args(self, *args):
            [record] = self.run(*args).records
            return record

        def refused(self, *args):
            """The one line of a usage error, without the hint at its end."""
            result = self.run(*args, status=2)
            assert result.out == b"" and result.err.startswith(b"gm-x: ") and result.err.count(b"\n") == 1
            assert result.err.endswith(b": see gm-x --help\n")
            return result.err[len(b"gm-x: "):-len(b": see gm-x --help\n")].decode()
    return Tool()


@pytest.mark.parametrize("args", [
    ["-j4", "-q", "1", "2"], ["1", "-j", "4", "2", "-q"], ["1", "2", "--quiet", "--jobs", "4"],
    ["-qj4", "1", "2"], ["-qj", "4", "--", "1", "2"],
    ["-j9", "--jobs=8", "1", "-j", "4", "2", "-q", "-q"]], ids=" ".join)
def test_options_stand_anywhere_and_the_last_wins(tool, args):
    found = tool().args(*args)
    assert (found["--jobs"], found["--quiet"], found["ID"]) == ("4", True, ["1", "2"])


def test_defaults_come_from_the_doc(tool):
    found = tool().args()
    assert (found["--jobs"], found["--timeout"], found["--quiet"], found["ID"]) == ("1", None, False, [])


@pytest.mark.parametrize("args, value", [
    (["--server="], ""), (["-s", "-q"], "-q"), (["-s=a"], "=a"), (["--server=a=b"], "a=b"),
    (["--server", "--"], "--")], ids=str)
def test_values_are_taken_as_they_are(tool, args, value):
    found = tool().args(*args)
    assert (found["--server"], found["--quiet"]) == (value, False)


def test_after_two_dashes_all_is_operands(tool):
    assert tool().args("a", "--", "-j", "--", "--nonsense")["ID"] == ["a", "-j", "--", "--nonsense"]
    assert tool().args("-")["ID"] == ["-"]


def test_two_dashes_where_the_usage_has_none(tool):
    tool(usage="MODE")
    assert tool.args("--", "queue")["MODE"] == "queue"
    assert tool.refused("--", "-q") == "unexpected operand '-q'"
    tool(usage="")
    assert tool.args("--")["--jobs"] == "1"


def test_operands_of_another_program_need_the_two_dashes(tool):
    tool(usage="[-- OPTION...]")
    assert tool.args("-j4", "--", "-j", "--x")["OPTION"] == ["-j", "--x"]
    assert tool.args()["OPTION"] == []
    assert tool.refused("x") == "unexpected operand 'x'"


@pytest.mark.parametrize("args, text", [
    (["--quietly"], "no option --quietly: did you mean --quiet?"),
    (["--quie"], "no option --quie: did you mean --quiet?"),
    (["--servers=a"], "no option --servers: did you mean --server?"),
    (["--zzz"], "no option --zzz"), (["-x"], "no option -x"), (["--fingerprint=1"], "no option --fingerprint"),
    (["--qarantine=x"], "no option --qarantine: did you mean --quarantine?"),
    (["--se"], "no option --se: did you mean --server?"),
    (["--quiet=1"], "--quiet: takes no value"), (["-j"], "-j: a value is missing"),
    (["--jobs"], "--jobs: a value is missing"), (["-help"], "no option -e: did you mean --help?")], ids=str)
def test_wrong_options(tool, args, text):
    assert tool().refused(*args) == text


def test_wrong_operands_show_the_usage(tool):
    tool(usage="FUNCTION")
    assert tool.refused() == "FUNCTION is missing: usage: gm-x [options] FUNCTION"
    assert tool.refused("a", "b") == "unexpected operand 'b': usage: gm-x [options] FUNCTION"
    tool(usage="[--] [FUNCTION]")
    assert tool.refused("a", "b") == "unexpected operand 'b': usage: gm-x [options] [--] [FUNCTION]"


def test_a_name_does_not_begin_with_a_dash(tool):
    assert tool(usage="[--] FUNCTION").refused("--", "-f") == "FUNCTION: begins with -: '-f'"


def test_many_operands(tool):
    """More than docopt, whose time grows with their square, could take in a minute."""
    tool("print(len(args['ID']), args['ID'][-1], args['--quiet'])", usage="[--] [A [ID...]]")
    assert tool.run(*map(str, range(100000)), "-q").out == b"99999 99999 True\n"


@pytest.mark.parametrize("args, argument", [
    (["f", "cmd", "-j", "--x"], ["-j", "--x"]), (["f", "--", "cmd", "-j", "--x"], ["-j", "--x"]),
    (["--", "f", "cmd", "-q"], ["-q"]), (["f", "cmd", "--", "a"], ["--", "a"]),
    (["f", "--", "cmd", "--", "-h"], ["--", "-h"]),
    (["f", "cmd", *"abcdefghijklmnopqrstuvwxyz"], [*"abcdefghijklmnopqrstuvwxyz"])], ids=" ".join)
def test_what_follows_function_belongs_to_command(tool, args, argument):
    found = tool(usage="FUNCTION [--] COMMAND [ARG...]", command=True).args("-j2", *args)
    assert (found["FUNCTION"], found["COMMAND"], found["ARG"]) == ("f", "cmd", argument)
    assert (found["--jobs"], found["--quiet"]) == ("2", False)


@pytest.mark.parametrize("args", [[], ["f"], ["f", "--"], ["--", "f"], ["--"]], ids=str)
def test_command_is_missing(tool, args):
    text = tool(usage="FUNCTION [--] COMMAND [ARG...]", command=True).refused(*args)
    missing = "COMMAND" if "f" in args else "FUNCTION"
    assert text == f"{missing} is missing: usage: gm-x [options] FUNCTION [--] COMMAND [ARG...]"


def test_help_and_version_need_nothing_else(tool, tmp_path):
    """Not docopt, which here cannot be imported, and not main."""
    (tmp_path / "docopt.py").write_text("raise ImportError('no docopt', name='docopt')\n")
    tool("1 / 0")
    for args in ["--help"], ["-h"], ["-qh", "x"]:
        assert tool.run(*args).out.decode() == DOC.format(usage="[--] [ID...]")
    assert tool.run("--version").out.decode() == f"gm-x {__version__}\n"
    result = tool.run(status=1)
    assert result.err.startswith(b"gm-x: cannot import docopt: cd ") and result.err.count(b"\n") == 1


def test_help_imports_nothing_heavy(tool, gm):
    def modules(*command):   # an editable installation's finder brings some of its own into every python3
        result = gm("python3", "-X", "importtime", *command, env=tool.env)
        return {line.rpartition(b"|")[2].strip().decode() for line in result.err.splitlines()}
    loaded = modules(tool().path, "--help") - modules("-c", "pass")
    assert "libgm.shell.run" in loaded
    assert not loaded & {"docopt", "re", "json", "typing", "dataclasses", "argparse", "logging", "subprocess",
                         "inspect", "datetime", "sqlite3", "difflib", "signal", "python3_gearman", "tabulate",
                         "tqdm", "socket"}


@pytest.mark.slow
@pytest.mark.parametrize("body, status, err", [
    ("return 0", 0, b""), ("pass", 0, b""), ("return 1", 1, b""), ("return 111", 111, b""),
    ("sys.exit(3)", 3, b""), ("raise errors.Error('a: b: c')", 1, b"gm-x: a: b: c\n"),
    ("raise errors.Unavailable('a: b')", 111, b"gm-x: a: b\n"),
    ("raise errors.CannotRun('c: not found', 127)", 127, b"gm-x: c: not found\n"),
    ("raise errors.Usage('--a: b')", 2, b"gm-x: --a: b: see gm-x --help\n"),
    ("raise KeyboardInterrupt", 130, b""), ("raise lines.ReaderGone('gone')", 0, b""),
    ("messages.warn('a\\n\\x1b[2J\\u202e')", 0, b"gm-x: a\\n\\x1b[2J\\u202e\n"),
    ("messages.warn('caf\\u00e9 \\udcff')", 0, "gm-x: café \\udcff\n".encode()),
    ("raise ValueError('x')", 1, b"gm-x: ValueError: x: run again with GM_DEBUG=1 for more\n")])
def test_exit_status_and_message(tool, body, status, err):
    result = tool(body).run(status=status)
    assert (result.out, result.err) == (b"", err)


def test_debug_shows_the_traceback(tool):
    result = tool("raise ValueError('x')").run(env={"GM_DEBUG": "1"}, status=1)
    assert result.err.startswith(b"Traceback") and result.err.endswith(b"ValueError: x\n")


def run_with(tool, gm, redirection, *args):
    """The tool under a shell's redirection."""
    script = f'"$0" "$@" {redirection}'
    return gm("sh", "-c", script, tool.path, *args, env=tool.env, status=None)


RECORDS = "output = lines.Output()\nfor n in range(100000): output.emit({'n': n})\noutput.close()"


@pytest.mark.parametrize("args", [[], ["--help"], ["--version"]], ids=str)
@pytest.mark.parametrize("redirection, why", [(">/dev/full", b"no space left on device"),
                                              (">&-", b"bad file descriptor")])
def test_failed_write_is_an_error(tool, gm, redirection, why, args):
    result = run_with(tool(RECORDS), gm, redirection, *args)
    assert result.status == 1
    assert result.err == b"gm-x: standard output: cannot write: " + why + b"\n"


@pytest.mark.parametrize("args", [[], ["--help"]], ids=str)
def test_reader_gone_is_silent(tool, args):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([tool(RECORDS).path, *args], stdout=writing, stderr=subprocess.PIPE,
                          env={**os.environ, **tool.env})
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_closed_descriptors_are_not_reused(tool, gm, tmp_path):
    """What a tool opens must not become its standard output."""
    tool("file = open('opened', 'wb')\nassert file.fileno() > 2\nlines.Output().flush()\nlist(lines.Input())")
    result = run_with(tool, gm, "<&- >&-")
    assert result.status == 1
    assert result.err == b"gm-x: standard input: cannot read: bad file descriptor\n"
    assert run_with(tool("raise errors.Unavailable('x')"), gm, "2>&-").status == 111


def test_sigint_ends_with_130(tool, gm):
    tool("os.write(1, b'ready')\nimport signal\nsignal.pause()")
    process = gm.start(tool.path, env=tool.env)
    until(lambda: process.out_path.read_bytes() == b"ready")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.err_path.read_bytes() == b""


def test_stopping_counts_signals_and_wakes(tool, gm):
    tool("""import select
from libgm.shell import signals
stop = signals.stopping()
poll = select.poll()
poll.register(stop.fd, select.POLLIN)
os.write(1, b"%d" % stop.count())
while stop.count() < 2:
    poll.poll()
    stop.clear()
    os.write(1, b"%d" % stop.count())""")
    process = gm.start(tool.path, env=tool.env)
    for number, said in (signal.SIGTERM, b"0"), (signal.SIGINT, b"01"):
        until(lambda: process.out_path.read_bytes() == said)
        process.send_signal(number)
    assert process.wait(20) == 0
    assert process.out_path.read_bytes() == b"012"


CONTROL = """from libgm.shell.signals import Control
reading, writing = os.pipe()
control = Control(60.0, reading, interrupt=%s)
control.on_term = lambda: os.write(1, b"on_term ")
os.write(1, b"ready ")
%s"""


def test_control_stops_at_the_first_term_and_gives_no_grace_at_the_second(tool, gm):
    tool(CONTROL % (True, """import time
while not control.stopping: control.wait(60)
os.write(1, b"%d " % (control.deadline() > time.monotonic() + 30))
while control.deadline() > time.monotonic(): control.wait(60)"""))
    process = gm.start(tool.path, env=tool.env)
    for number, said in (signal.SIGTERM, b"ready "), (signal.SIGINT, b"ready on_term 1 "):
        until(lambda: process.out_path.read_bytes() == said)
        process.send_signal(number)
    assert process.wait(20) == 0
    assert process.out_path.read_bytes() == b"ready on_term 1 "


@pytest.mark.parametrize("end", ["signal", "parent"])
def test_control_retires_at_hup_and_at_the_death_of_the_parent(tool, gm, end):
    tool(CONTROL % (False, f"if {end == 'parent'}: os.close(writing)\n"
                    "while not control.retired: control.wait(60)\nos.write(1, b'%d' % control.stopping)"))
    process = gm.start(tool.path, env=tool.env)
    until(lambda: process.out_path.read_bytes().startswith(b"ready "))
    if end == "signal":
        process.send_signal(signal.SIGINT)   # which a worker ignores
        process.send_signal(signal.SIGHUP)
    assert process.wait(20) == 0
    assert process.out_path.read_bytes() == b"ready 0"


PLACES = "os.write(1, (places.quarantine(args) + ' ' + places.servers(args)).encode())"


@pytest.fixture
def system(tmp_path):
    """A line for a tool that puts the machine's folder at a path of the test's own."""
    folder = tmp_path / "system"
    return folder, f"places.SYSTEM = {str(folder)!r}\n"


@pytest.mark.parametrize("args, env, found", [
    (["--quarantine=a", "-s", "b"], {"GM_QUARANTINE": "c", "GM_SERVERS": "d"}, "a b"),
    ([], {"GM_QUARANTINE": "c", "GM_SERVERS": "d"}, "c d"),
    ([], {"GM_QUARANTINE": "", "GM_SERVERS": None, "XDG_STATE_HOME": "/x"}, "/x/gearmang/quarantine.db 127.0.0.1:4730"),
    ([], {"GM_QUARANTINE": None, "HOME": "/h"}, "/h/.local/state/gearmang/quarantine.db 127.0.0.1:1"),
    ([], {"GM_QUARANTINE": None, "HOME": "/h", "XDG_STATE_HOME": "~/x"},   # a relative one is no path
     "/h/.local/state/gearmang/quarantine.db 127.0.0.1:1")])
def test_places(tool, system, args, env, found):
    assert tool(system[1] + PLACES).run(*args, env=env).out.decode() == found


def test_the_machine_s_folder_comes_first(tool, system):
    system[0].mkdir()
    assert tool(system[1] + PLACES).run(env={"GM_QUARANTINE": None}).out.decode() == f"{system[0]}/quarantine.db 127.0.0.1:1"


def as_stranger(tool, gm, env):
    """The tool run by a user that the system does not know."""
    change = ["unshare", "--user", "--map-user=54321"] if os.getuid() else \
        ["setpriv", "--reuid=54321", "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override", "--"]
    return gm(*change, tool.path, env={**tool.env, "GM_QUARANTINE": None, **env}, status=None, cwd="/")


@pytest.mark.parametrize("env", [{"HOME": None}, {"HOME": ""}, {"HOME": None, "XDG_STATE_HOME": "state"}], ids=str)
def test_no_home_is_no_default_place(tool, gm, system, env):
    result = as_stranger(tool(system[1] + PLACES), gm, env)
    assert (result.status, result.out) == (2, b"")
    assert result.err == b"gm-x: no home directory for quarantine.db: use --quarantine: see gm-x --help\n"
    tool(system[1] + "os.write(1, places.state_folder('--store', 'gearmand.db').encode())")
    assert b"for gearmand.db: use --store" in as_stranger(tool, gm, env).err
    assert as_stranger(tool, gm, {**env, "XDG_STATE_HOME": "/x"}).out == b"/x/gearmang"


@pytest.mark.parametrize("mode, file, allowed", [(0o070, None, False), (0o570, None, False), (0o570, 0o260, False),
                                                 (0o570, 0o460, True), (0o770, None, True)])
def test_the_machine_s_folder_that_is_closed_to_the_user(tool, gm, system, mode, file, allowed):
    """No tool works beside the machine's file in silence."""
    system[0].mkdir()
    if file:
        (system[0] / "quarantine.db").touch(file)
    tool(system[1] + PLACES)
    bound = () if os.getuid() else ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--")
    system[0].chmod(mode)
    try:
        result = gm(*bound, tool.path, env={**tool.env, "GM_QUARANTINE": None}, status=0 if allowed else 111)
    finally:
        system[0].chmod(0o700)
    if allowed:
        assert result.out.decode() == f"{system[0]}/quarantine.db 127.0.0.1:1"
    else:
        assert (result.out, result.err.decode()) == (b"", f"gm-x: {system[0]}: permission denied: add yourself to the group "
                                                     "gearmang, or use --quarantine\n")


@pytest.mark.parametrize("args", [("gm-dead", "--quarantine=q.db"), ("gm-python", "mod:f"), ("gm-server", "--store=s.db"),
                                  ("gm-work", "--quarantine=q.db", "f", "true")], ids=lambda args: args[0])
def test_a_working_directory_that_is_gone(gm, args):
    result = gm("sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@" </dev/null', "sh", *args, status=111)
    assert result.out == b""
    assert result.err.decode() == f"{args[0]}: working directory: no such file or directory\n"


def test_what_gm_dead_selects_by_is_told(gm):
    """`gm-drop -f resize` is what everybody tries first."""
    for tool in "gm-drop", "gm-requeue":
        for args, pipeline in [(["-f", "resize"], f"gm-dead -f resize | {tool}"),
                               (["-qf", "a b", "--until=2d"], f"gm-dead -f 'a b' --until=2d | {tool} --quiet"),
                               (["--quarantine=x", "--delayed"], f"gm-dead --quarantine=x --delayed | {tool} --quarantine=x")]:
            result = gm(tool, *args, status=2)
            assert result.err.decode().endswith(f": gm-dead selects: {pipeline}: see {tool} --help\n")
    assert b"gm-dead" not in gm("gm-bury", "-f", "resize", status=2).err


def test_the_options_that_select_are_gm_dead_s():
    from libgm.shell import hints, options
    table = options.option_table((ROOT / "bin/gm-dead").read_text())
    assert {name: table.get(name) for name in hints.SELECTION} == hints.SELECTION


@pytest.mark.slow
@pytest.mark.parametrize("args, meant", [
    (("--", "./resize.sh", "resize"), "gm-work resize -- ./resize.sh"),
    (("sh", "resize", "x"), "gm-work resize -- sh x"),
    (("f", "sh x.py"), "gm-work f -- sh x.py"), (("f", "sh x.py", "a b"), "gm-work f -- sh x.py 'a b'"),
    (("f", "./no-such"), None), (("f", "no such"), None), (("f", ""), None)], ids=str)
def test_what_was_meant_by_a_command_that_is_not_found(gm, args, meant):
    (gm.home / "resize.sh").write_text("#!/bin/sh\n")
    (gm.home / "resize.sh").chmod(0o755)
    result = gm("gm-work", *args, status=127, env={"PATH": f"{ROOT}/bin:{os.path.dirname(sys.executable)}:/bin"})
    end = "command not found" + (f": did you mean {meant}?" if meant else "")
    assert result.err.decode().endswith(f": cannot run: {end}\n") and result.err.count(b"\n") == 1


ACT = """output = lines.Output(quiet=args['--quiet'], acts=True, json=args['--jobs'] == 'json')
output.emit({'id': 1})
output.close()
messages.summarize(output, '1 job removed; 2 dead jobs left')"""


@pytest.mark.parametrize("args, out, err", [
    ([], b"", b"gm-x: 1 job removed; 2 dead jobs left\n"), (["-q"], b"", b""),
    (["--jobs=json"], b'{"id":1}\r\n', b"gm-x: 1 job removed; 2 dead jobs left\n")], ids=str)
def test_a_person_sees_what_was_done_and_records_only_where_asked_for(tool, gm, args, out, err):
    tool(ACT)
    leader, terminal = os.openpty()
    process = gm.start(tool.path, *args, env=tool.env, stdout=terminal)
    os.close(terminal)
    assert process.wait(20) == 0
    os.set_blocking(leader, False)
    try:
        shown = os.read(leader, 4096)
    except OSError:   # Linux says EIO where nothing was written and nobody has the terminal open
        shown = b""
    os.close(leader)
    assert (shown, process.err_path.read_bytes()) == (out, err)


def test_a_pipe_gets_the_records_and_no_summary(tool):
    result = tool(ACT).run()
    assert (result.records, result.err) == ([{"id": 1}], b"")
    assert tool.run("-q").out == b""


def test_numbers_and_durations(tool):
    tool("import json\n"
         "found = [options.number(args, '--jobs', low=1, high=99), options.duration(args, '--timeout')]\n"
         "os.write(1, json.dumps(found).encode())")
    assert tool.args() == [1, None]
    assert tool.args("-j", "99", "-t", "1.5h") == [99, 5400]
    for text in "0", "100", "x", "-1", "", "1.5", "٣", "9" * 5000:
        assert tool.refused("--jobs", text) == f"--jobs: not a number from 1 to 99: {text!r}"
    assert tool.refused("-t", "x") == "--timeout: not a duration: 'x' (a number with s, m, h, d or w)"


def test_times_choices_and_ids(tool):
    tool("import json\n"
         "found = [options.when(args, '--timeout', 1e9), options.choice(args, '--jobs', ('1', '2')), options.ids(args['ID'])]\n"
         "os.write(1, json.dumps(found).encode())")
    assert tool.args() == [None, "1", []]
    assert tool.args("-t", "2d", "-j", "2", "7", "08") == [1e9 - 172800, "2", [7, 8]]
    assert tool.args("-t", "1970-01-02")[0] == 86400
    assert tool.refused("-t", "x") == "--timeout: neither an age (2d) nor an ISO 8601 time: 'x'"
    assert tool.refused("-j", "3") == "--jobs: '3' is not one of 1, 2"
    for text in "x", "-", "1.5", "٣", str(1 << 63), "9" * 5000:
        assert tool.refused(text) == f"not an id: {text!r}"


@pytest.mark.parametrize("args, module, extra", [
    (("gm-check", "queue"), "nagiosplugin", "check"), (("gm-tally",), "ddsketch", "tally"), (("gm-blueox",), "zmq", "blueox"),
    (("gm-blueox",), "msgpack", "blueox")], ids=["check", "tally", "blueox", "msgpack"])
def test_a_library_that_is_not_installed_is_told_with_its_cure(gm, tmp_path, args, module, extra):
    (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError(name={module!r})\n")
    plugin = args[0] == "gm-check"
    result = gm(*args, env={"PYTHONPATH": str(tmp_path)}, status=3 if plugin else 1)
    said = result.out if plugin else result.err
    assert said.startswith(b"GEARMANG UNKNOWN - cannot import " if plugin else args[0].encode() + b": cannot import ")
    cure = f"{module}: cd {shlex.quote(str(ROOT))} && make venv && . .venv/bin/activate && pip install -e '.[{extra}]'\n"
    assert cure.encode() in said and said.count(b"\n") == 1

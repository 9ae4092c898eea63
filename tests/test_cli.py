"""libgm.shell, through small tools that are run: options, messages, exit statuses, signals."""

from __future__ import annotations

import os
import signal
import subprocess

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
    (["--zzz"], "no option --zzz"), (["-x"], "no option -x"),
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
    assert result.err.startswith(b"gm-x: cannot import docopt: pip install ") and result.err.count(b"\n") == 1


def test_help_imports_nothing_heavy(tool, gm):
    def modules(*command):   # an editable installation's finder brings some of its own into every python3
        result = gm("python3", "-X", "importtime", *command, env=tool.env)
        return {line.rpartition(b"|")[2].strip().decode() for line in result.err.splitlines()}
    loaded = modules(tool().path, "--help") - modules("-c", "pass")
    assert "libgm.shell.run" in loaded
    assert not loaded & {"docopt", "re", "json", "typing", "dataclasses", "argparse", "logging", "subprocess",
                         "inspect", "datetime", "sqlite3", "difflib", "signal", "python3_gearman", "tabulate",
                         "tqdm", "socket"}


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
os.write(1, b"%d%d" % (stop.set, stop.count))
while stop.count < 2:
    poll.poll()
    os.read(stop.fd, 9)
    os.write(1, b"%d%d" % (stop.set, stop.count))""")
    process = gm.start(tool.path, env=tool.env)
    for number, said in (signal.SIGTERM, b"00"), (signal.SIGINT, b"0011"):
        until(lambda: process.out_path.read_bytes() == said)
        process.send_signal(number)
    assert process.wait(20) == 0
    assert process.out_path.read_bytes() == b"001112"


@pytest.mark.parametrize("args, env, found", [
    (["--quarantine=a", "-s", "b"], {"GM_QUARANTINE": "c", "GM_SERVERS": "d"}, "a b"),
    ([], {"GM_QUARANTINE": "c", "GM_SERVERS": "d"}, "c d"),
    ([], {"GM_QUARANTINE": "", "GM_SERVERS": None, "XDG_STATE_HOME": "/x"}, "/x/gearmang 127.0.0.1:4730"),
    ([], {"GM_QUARANTINE": None, "HOME": "/h"}, "/h/.local/state/gearmang 127.0.0.1:1")])
def test_places(tool, args, env, found):
    """The last two are where the machine has no /var/lib/gearmang."""
    path, server = found.split()
    if path.endswith("/gearmang"):
        path = ("/var/lib/gearmang" if os.path.isdir("/var/lib/gearmang") else path) + "/quarantine.db"
    tool("os.write(1, (places.quarantine(args) + ' ' + places.servers(args)).encode())")
    assert tool.run(*args, env=env).out.decode() == f"{path} {server}"


def test_numbers_and_durations(tool):
    tool("import json\n"
         "found = [options.number(args, '--jobs', low=1, high=99), options.duration(args, '--timeout')]\n"
         "os.write(1, json.dumps(found).encode())")
    assert tool.args() == [1, None]
    assert tool.args("-j", "99", "-t", "1.5h") == [99, 5400]
    for text in "0", "100", "x", "-1", "", "1.5", "٣", "9" * 5000:
        assert tool.refused("--jobs", text) == f"--jobs: not a number from 1 to 99: {text!r}"
    assert tool.refused("-t", "x") == "--timeout: not a duration: 'x' (a number with s, m, h, d or w)"


@pytest.mark.parametrize("args, module, extra", [
    (("gm-check", "queue"), "nagiosplugin", "check"), (("gm-tally",), "ddsketch", "tally"), (("gm-blueox",), "zmq", "blueox"),
    (("gm-blueox",), "msgpack", "blueox")], ids=["check", "tally", "blueox", "msgpack"])
def test_a_library_that_is_not_installed_is_told_with_its_cure(gm, tmp_path, args, module, extra):
    (tmp_path / f"{module}.py").write_text(f"raise ModuleNotFoundError(name={module!r})\n")
    plugin = args[0] == "gm-check"
    result = gm(*args, env={"PYTHONPATH": str(tmp_path)}, status=3 if plugin else 1)
    said = result.out if plugin else result.err
    assert said.startswith(b"GEARMANG UNKNOWN - cannot import " if plugin else args[0].encode() + b": cannot import ")
    assert f"{module}: pip install 'gearmang[{extra}]', in a checkout '.[{extra}]'\n".encode() in said and said.count(b"\n") == 1

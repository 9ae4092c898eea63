"""Completions in the real shells: bash, zsh and fish, on a terminal where that is how they work."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import socket
import sqlite3
import subprocess
import sys

import pytest
from conftest import ROOT, until

pytestmark = pytest.mark.slow

FOLDER = ROOT / "completions"
END = "\x14"   # ctrl-t, bound to write down what the line has become


def need(program: str) -> str:
    path = shutil.which(program)
    if not path:
        pytest.fail(f"{program} is not installed (Debian: apt-get install {program})", pytrace=False)
    return path


class Fish:
    features = ""

    def __init__(self, gm):
        self.gm = gm
        need("fish")

    def __call__(self, line: str) -> list[str]:
        script = "source $argv[1]; complete -C $argv[2]"
        done = self.gm("fish", "--no-config", f"--features={self.features}", "-c", script, FOLDER / "gearmang.fish", line)
        assert done.err == b"", done
        whole = line.rpartition(" ")[2].rpartition("=")   # of --reason=, fish offers all of --reason=crash
        return [found.partition("\t")[0].removeprefix(whole[0] + whole[1]).rstrip("=")
                for found in done.out.decode().splitlines()]


class Fish4(Fish):
    """Fish as it is from version 4 on, where ? is no wildcard."""
    features = "qmark-noglob"


class Bash:
    SCRIPT = """source "$1"; COMP_LINE=$2 COMP_POINT=${#2}; _gearmang "${2%% *}"
                for found in "${COMPREPLY[@]}"; do printf '%s\\n' "$found"; done"""

    def __init__(self, gm):
        self.gm = gm

    def __call__(self, line: str) -> list[str]:
        done = self.gm("bash", "--norc", "-c", self.SCRIPT, "bash", FOLDER / "gearmang.bash", line, status=None)
        assert done.err == b"", done
        return [found.rstrip(" =") for found in done.out.decode().splitlines()]


class Terminal:
    """A shell on a terminal: type(keys), and typed(keys), what the line has become after them."""

    def __init__(self, gm, command: list, setup: str):
        self.gm, self.out = gm, gm.home / "line"
        self.master, slave = pty.openpty()
        self.shell = gm.popen(command, env={"TERM": "dumb", "OUT": str(self.out)}, stdin=slave, stdout=slave,
                              stderr=slave, start_new_session=True)
        os.close(slave)
        self.run(setup)

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def wait(self, path) -> str:
        """The text of a file that the shell writes whole; what it shows meanwhile is read and thrown away."""
        def there():
            while select.select([self.master], [], [], 0)[0]:
                os.read(self.master, 65536)
            return path.exists()
        until(there, what=f"{path} is there")
        text = path.read_text()
        path.unlink()
        return text

    def run(self, command: str) -> None:
        """One line, or a file to be sourced, to its end."""
        file, done = self.gm.home / "setup", self.gm.home / "done"
        file.write_text(command)
        self.type(f". {file}; mkdir {done}.d && mv {done}.d {done}\r")
        until(done.exists, what="the shell is ready")
        done.rmdir()

    def typed(self, keys: str) -> str:
        self.type(keys + END)
        line = self.wait(self.out)
        self.type("\x15")
        return line

    def close(self) -> None:
        os.close(self.master)
        self.shell.kill()


WRITE = 'printf %s "{0}" >"$OUT.new" && mv "$OUT.new" "$OUT"'
BASH_SETUP = f"""
source {FOLDER}/gearmang.bash
bind 'set completion-query-items 0' ; bind 'set page-completions off' ; bind 'set bell-style none'
bind -x '"\\C-t": {WRITE.format("$READLINE_LINE")}'
"""
ZSH_SETUP = f"""
fpath=({FOLDER} $fpath)
autoload -Uz compinit && compinit -u -D
zstyle ':completion:*' accept-exact false
unsetopt list_beep
LISTMAX=10000
compadd() {{
    local -a offered
    if ((! ${{argv[(I)-[OAD]*]}})); then   # those only ask what would match
        builtin compadd -O offered "$@"
        (($#offered)) && print -rl -- $offered >>$HOME/offered
    fi
    builtin compadd "$@"
}}
down() {{ {WRITE.format("$BUFFER")} }}
zle -N down
bindkey '{END}' down
"""


class Zsh:
    def __init__(self, gm):
        need("zsh")
        self.offered = gm.home / "offered"
        self.terminal = Terminal(gm, ["zsh", "-f", "-i"], ZSH_SETUP)

    def __call__(self, line: str) -> list[str]:
        self.offered.unlink(missing_ok=True)
        self.terminal.run("".join(f"export {name}='{self.terminal.gm.env[name]}'\n"
                                  for name in ("GM_SERVERS", "GM_QUARANTINE")))
        self.terminal.typed(line + "\t")
        return [found.rstrip("=") for found in self.offered.read_text().splitlines()] if self.offered.exists() else []


@pytest.fixture(params=[Bash, Zsh, Fish, Fish4], ids=lambda shell: shell.__name__.lower())
def shell(request, gm):
    """shell(line): what is offered where Tab is pressed at the end of line."""
    made = request.param(gm)
    yield made
    if isinstance(made, Zsh):
        made.terminal.close()


@pytest.fixture
def dead(gm, gearmand):
    """Jobs 1 to 3 dead: two of the function resize, one of report; one waiting, of the function render."""
    jobs = ("resize", "no space left"), ("resize", "no such photo"), ("report", "no such day")
    records = [{"function": function, "unique": f"{n}-job", "data": "x", "error": error}
               for n, (function, error) in enumerate(jobs)]
    gm("gm-bury", "-q", input="".join(json.dumps(record) + "\n" for record in records).encode())
    gm("gm-submit", "-q", "render", input=b"x\n")


def test_they_are_not_stale(tmp_path):
    subprocess.run([sys.executable, FOLDER / "generate", tmp_path], check=True)
    for made in tmp_path.iterdir():
        assert (FOLDER / made.name).read_bytes() == made.read_bytes(), \
            f"completions/{made.name} is stale: run completions/generate"


def test_options(shell):
    assert shell("gm-dead --rea") == ["--reason"]   # fish also matches letters that stand apart
    assert set(shell("gm-submit --uni")) == {"--unique", "--unique-data"}
    assert shell("gm-submit -- --u") == []
    assert shell("gm-dead 17 --fing") == ["--fingerprint"]
    assert shell("gm-work f -- cat --ti") == []


def test_values_that_are_known(shell):
    assert sorted(shell("gm-dead --reason=")) == sorted("error timeout crash lost hung rejected collected drained".split())
    assert sorted(shell("gm-dead -n 3 -r c")) == ["collected", "crash"]
    assert shell("gm-submit --priority lo") == ["low"]
    assert shell("gm-history --action=b") == ["bury"]
    assert sorted(shell("gm-check -w 5 ")) == ["age", "dead", "queue", "server", "workers"]
    assert shell("gm-work --tries=") == shell("gm-work --tries ") == []


def test_names_from_the_server_and_the_file(shell, gm, dead):
    assert sorted(shell("gm-work re")) == ["render", "report", "resize"]
    assert shell("gm-work -j 4 --via=rep") == ["report"]
    assert shell("gm-dead -f res") == ["resize"]
    assert sorted(shell("gm-submit --priority high re")) == ["render", "report", "resize"]
    assert sorted(shell("gm-drop ")) == ["1", "2", "3"]
    assert shell("gm-requeue 1 2") == ["2"]
    [print_] = {record["fingerprint"] for record in gm("gm-dead", "2").records}
    assert shell("gm-dead --fingerprint=" + print_[:4]) == [print_]
    [unique] = [record["unique"] for record in gm("gm-dead", "2").records]
    assert shell("gm-dead -u " + unique[:-1]) == [unique]


def test_the_file_and_the_server_that_are_named_are_asked(shell, gm, dead):
    gm.env.update(GM_QUARANTINE=str(gm.home / "none.db"))
    file = gm.home / "quarantine.db"
    assert sorted(shell(f"gm-dead --quarantine={file} -f re")) == ["render", "report", "resize"]
    assert sorted(shell(f"gm-dead --quarantine {file} ")) == ["1", "2", "3"]
    server, gm.env["GM_SERVERS"] = gm.env["GM_SERVERS"], "127.0.0.1:1"
    assert shell(f"gm-submit -s {server} ren") == ["render"]


def test_files_and_commands(shell, gm):
    (gm.home / "photo one.jpg").touch()
    (gm.home / "photo-two.jpg").touch()
    offered = [name.replace("\\", "") for name in shell("gm-submit f photo")]
    assert sorted(offered) == ["photo one.jpg", "photo-two.jpg"]
    assert shell("gm-dead --quarantine=photo-")[-1].endswith("photo-two.jpg")
    assert "gm-submit" in shell("gm-work -j 2 f gm-sub")
    assert "gm-submit" in shell("gm-work f -- gm-sub")
    assert any(name.endswith("photo-two.jpg") for name in shell("gm-work f -- cat photo-"))


HOSTILE = ["$(touch owned)", "`touch owned`", "x;touch owned", "a b", "it's", 'a"b', "a\\b", "~", "*", "x\x1b[2J",
           "x\u202ey", "x\ty", "-rf", "%n", "{a,b}", "ü"]


@pytest.fixture
def hostile(gm, gearmand):
    """A server with functions of names that would like to do something."""
    with socket.create_connection(("127.0.0.1", gearmand.port)) as worker:
        for name in HOSTILE:
            body = name.encode()
            worker.sendall(b"\0REQ" + (1).to_bytes(4, "big") + len(body).to_bytes(4, "big") + body)
        until(lambda: len(gearmand.status()) == len(HOSTILE), what="the functions are known")
        yield
    assert not (gm.home / "owned").exists()


def test_names_do_nothing_in_a_shell(shell, hostile):
    offered = shell("gm-work ")
    plain = [name for name in HOSTILE if "\x1b" not in name and "\u202e" not in name and "\t" not in name
             and name != "-rf"]
    if isinstance(shell, Bash):   # as they would be inserted
        offered = subprocess.run(["bash", "-c", "printf '%s\\n' " + " ".join(offered)], capture_output=True,
                                 text=True, env=shell.gm.env).stdout.splitlines()
    assert sorted(offered) == sorted(plain)


@pytest.mark.parametrize("program, command, setup", [
    ("bash", ["bash", "--norc", "--noprofile", "-i"], BASH_SETUP), ("zsh", ["zsh", "-f", "-i"], ZSH_SETUP)],
    ids=["bash", "zsh"])
def test_tab_on_a_terminal(gm, hostile, program, command, setup):
    """What Tab makes of a line, and what a tool gets when it is entered."""
    need(program)
    terminal = Terminal(gm, command, setup)
    try:
        assert terminal.typed("gm-dead --reaso\t").rstrip() == "gm-dead --reason="
        assert terminal.typed("gm-dead --reason=cr\t") == "gm-dead --reason=crash "
        assert terminal.typed("gm-submit --priority lo\t") == "gm-submit --priority low "
        terminal.run('gm-work() { printf "%s\\n" "$@" >args.new; mv args.new args; }\n')
        for keys, name in (("x\\;", "x;touch owned"), ("\\$", "$(touch owned)"), ("it", "it's"), ("a\\ ", "a b")):
            if program == "bash" and keys == "a\\ ":
                continue   # a word of several is left alone
            terminal.type(f"gm-work {keys}\t\r")
            assert terminal.wait(gm.home / "args") == name + "\n"
    finally:
        terminal.close()


@pytest.mark.parametrize("question", ["FUNCTION ", "ID "])
def test_what_is_away_or_busy_does_not_hold_tab_up(gm, question, tmp_path):
    gm("gm-work", "--until-empty", "f", "true", status=111)   # there is no server; it makes the file
    locked = sqlite3.connect(tmp_path / "quarantine.db", isolation_level=None)
    locked.execute("PRAGMA locking_mode=EXCLUSIVE")
    locked.execute("BEGIN EXCLUSIVE")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {"GM_SERVERS": f"127.0.0.1:{silent.getsockname()[1]}", "GM_TIMEOUT": "60", "GM_COMPLETE": question}
        assert gm("gm-dead", env=env, timeout=20).out == b""
    locked.close()

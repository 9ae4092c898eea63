"""Every page of man/: mandoc has nothing to say against it, and its EXAMPLES do what they show.

The examples are the `.Bd -literal` blocks under `.Sh EXAMPLES` or `.Sh RECIPES`, but those behind a line `.\\" not run`
(a unit file, a crontab). All of a page are one session: one bash, an 80 column terminal, standard input /dev/null, in
a fresh HOME, which is also where it begins; GM_SERVERS names a real gearmand, GM_QUARANTINE a file that is not there
yet. Nothing of it is left in the end, what runs in the background included.

    command             is run, so that a block can be pasted; it goes on over lines as bash's does (a here document)
    # what it shows     on standard output and standard error, as on a terminal: JSON lines, but tables by listings
    # ...               any lines, or none; within a line: any text, or none
                        spaces at the end of a line, how many there are, empty lines at the end, and colours do not
                        count; a unique or fingerprint, a handle, a time or an age counts as any other

A page that starts a server itself (a line with "gm-server") finds none running; there gm-server's default port is a
free one, and 4731 and 4732 are two more free ones. Behind one that ends in & the next line waits until it answers, as a
person does by typing.
The README's are the indented blocks of its first five minutes, all of them one session, too.
In a literal block write \\(aq for ', \\(ga for `, \\(ha for ^, \\(ti for ~ and \\e for \\, so that it can be copied
from every man's output.
"""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time

import pytest
from conftest import NO_SERVER, ROOT, free_port

pytestmark = pytest.mark.slow

PAGES = sorted((ROOT / "man").glob("*.[157]"), key=lambda page: page.name)
ESCAPES = {r"\(aq": "'", r"\(ga": "`", r"\(ha": "^", r"\(ti": "~", r"\e": "\\", r"\-": "-", r"\&": ""}
MARK = "\x1e"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NOT_RUN = r'.\" not run'
LIMIT = 150   # seconds for a page, on a busy machine
# what is in an example -> what it may be
ANY = {r"\.\.\.": ".*?", r"(?:\b[0-9a-f]{4,}…[0-9a-f]*|\b[0-9a-f]{8,})(?:-\d+)?": None, r"\bH:[\w.-]+:\d+": None,
       r"\b\d{4}-\d\d-\d\dT[\d:]+Z": None, r"\b\d+[smhdw]\b": None, r" {2,}": " +"}
TOKEN = re.compile("|".join(f"({what})" for what in ANY))
BECOMES = [becomes or what for what, becomes in ANY.items()]


def pattern(line: str) -> str:
    """The regular expression of a line that an example shows."""
    if line == "...":
        return "(?:.*\n)*?"
    made, at = "", 0
    for token in TOKEN.finditer(line):
        made += re.escape(line[at:token.start()]) + BECOMES[token.lastindex - 1]
        at = token.end()
    return made + re.escape(line[at:]) + " *\n"


class Example:
    """command: lines of shell; shows: the lines expected; line: where it stands in the page."""

    def __init__(self, line: int, command: str):
        self.line, self.command, self.shows = line, [command], []

    def matches(self, shown: str) -> bool:
        wanted = "\n".join(self.shows).rstrip().split("\n")
        return re.fullmatch("".join(pattern(line.rstrip()) for line in wanted), shown.rstrip() + "\n") is not None


def literal(text: str) -> str:
    """A line of a literal block as man shows it."""
    return re.sub(r"\\\(..|\\.", lambda match: ESCAPES[match[0]], text)


def literal_blocks(source: str) -> list[list[tuple[int, str]]]:
    """The literal blocks under EXAMPLES or RECIPES of a page, as lines with their numbers."""
    found, section, block, before = [], "", None, ""
    for number, line in enumerate(source.splitlines(), 1):
        if line.startswith(".Sh "):
            section = line[4:]
        elif section in ("EXAMPLES", "RECIPES") and line.startswith(".Bd -literal"):
            block = []
            if before != NOT_RUN:
                found.append(block)
        elif line == ".Ed":
            block = None
        elif block is not None:
            block.append((number, literal(line)))
        before = line
    return found


def indented_blocks(text: str) -> list[list[tuple[int, str]]]:
    """The blocks of a plain text that are indented by four."""
    found, block = [], None
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("    "):
            if block is None:
                block = []
                found.append(block)
            block.append((number, line[4:]))
        else:
            block = None
    return found


def complete(command: list[str]) -> bool:
    """Whether bash would run these lines, and not wait for more."""
    done = subprocess.run(["bash", "-n"], input="\n".join(command) + "\n", capture_output=True, text=True)
    return not (done.returncode or done.stderr or command[-1].endswith("\\"))


def examples(blocks: list[list[tuple[int, str]]]) -> list[Example]:
    found: list[Example] = []
    for block in blocks:
        current = None
        for number, line in block:
            if current and (line == "#" or line.startswith("# ")):
                current.shows.append(line[2:])
            elif current and not current.shows and not complete(current.command):
                current.command.append(line)
            else:
                current = Example(number, line)
                found.append(current)
    return found


def session(gm, commands: list[str]) -> list[str]:
    """What each command shows on a terminal. Fails the test when they are not done in time."""
    script = ["set +m", "mark() { local status=$?; printf '\\n\\036'; return $status; }",
              "answers() { until (: </dev/tcp/127.0.0.1/$1) 2>/dev/null; do sleep 0.05; done; }"]
    for command in commands:
        script += ["mark", command]
        if command.startswith("gm-server") and command.endswith("&"):
            port = re.search(r"--port=(\d+)", command)
            script.append("answers " + (port[1] if port else "${GM_SERVERS##*:}"))
    path = gm.home.parent / (gm.home.name + ".sh")
    path.write_text("\n".join(script) + "\n")
    master, slave = pty.openpty()
    subprocess.run(["stty", "-F", os.ttyname(slave), "cols", "80", "rows", "50", "-onlcr"], check=True)
    shell = gm.popen(["bash", path], env={"TERM": "xterm", "COLUMNS": None, "LINES": None},
                     stdin=subprocess.DEVNULL, stdout=slave, stderr=slave)
    os.close(slave)
    shown, deadline = b"", time.monotonic() + LIMIT
    try:
        while time.monotonic() < deadline:
            if select.select([master], [], [], 0.05)[0]:
                shown += os.read(master, 1 << 16)
            elif shell.poll() is not None:   # what runs on in the background may keep the terminal open
                break
        else:
            pytest.fail(f"not done in {LIMIT} s: {shown.decode('utf-8', 'replace')}")
    except OSError:   # how Linux says that nobody has the other end any more
        pass
    finally:
        os.close(master)
    shell.wait(LIMIT)
    return [text.removesuffix("\n") for text in COLOUR.sub("", shown.decode("utf-8", "replace")).split(MARK)[1:]]


def own_server(gm) -> dict[str, str]:
    """For examples that start a server: gm-server with another default port; 4731 and 4732 by their free ports."""
    ports = {name: str(free_port()) for name in ("4730", "4731", "4732")}
    wrapper = gm.home / ".bin" / "gm-server"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(str(ROOT / "bin/gm-server"))} --port={ports["4730"]} "$@"\n')
    wrapper.chmod(0o755)
    gm.env["PATH"] = f"{wrapper.parent}:{gm.env['PATH']}"
    gm.env["GM_SERVERS"] = f"127.0.0.1:{ports['4730']}"
    return ports


def check(gm, found: list[Example], name: str, ports: dict[str, str]) -> None:
    """Run them, and fail at the first that shows something else."""
    def real(text):
        return re.sub(r"\b473[012]\b", lambda match: ports.get(match[0], match[0]), text)
    shown = session(gm, [real("\n".join(example.command)) for example in found])
    for example, text in zip(found, shown):
        example.shows = [real(line) for line in example.shows]
        if not example.matches(text):
            pytest.fail(f"{name}:{example.line}: " + "\n".join(example.command) + "\nmust show:\n"
                        + "\n".join(example.shows) + "\nbut shows:\n" + text, pytrace=False)
    assert len(shown) == len(found), f"{name}: the shell ended at {found[len(shown) - 1].command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_has_nothing_against_it(page):
    if not shutil.which("mandoc"):
        pytest.fail("mandoc is not installed (Debian: apt-get install mandoc)", pytrace=False)
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
    assert (lint.stdout, lint.returncode) == ("", 0)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_literal_blocks_can_be_copied(page):
    block = False
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        block = line.startswith(".Bd -literal") or (block and line != ".Ed")
        wrong = block and re.search(r"['`^~]|\\(?!\(aq|\(ga|\(ha|\(ti|e|-|&)", line)
        assert not wrong, f"{page.name}:{number}: {wrong[0]} in a literal block: write \\(aq \\(ga \\(ha \\(ti or \\e"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_do_what_they_show(page, gm, request):
    found = examples(literal_blocks(page.read_text("utf-8")))
    if page.suffix == ".1":
        assert found, f"{page.name}: no examples"
    ports = {}
    if any("gm-server" in line for example in found for line in example.command):
        ports = own_server(gm)
    elif found:
        request.getfixturevalue("gearmand")
    assert gm.env["GM_SERVERS"] != NO_SERVER or not found
    check(gm, found, page.name, ports)


def test_the_tour_of_the_readme(gm):
    tour = (ROOT / "README").read_text("utf-8").partition("Five minutes\n")[2].partition("\nTools\n")[0]
    found = examples(indented_blocks(tour))
    assert len(found) > 5
    check(gm, found, "README", own_server(gm))

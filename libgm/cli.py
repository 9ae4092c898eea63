"""The one module that prints messages and exits: options, exit statuses, signals, `prog: ...` lines."""

from __future__ import annotations

import os
import sys

from . import __version__, units
from .errors import INTERRUPTED, NO, OK, USAGE, CannotRun, Error, Unavailable, Usage
from .lines import ReaderGone, safe

PROG = os.path.basename(sys.argv[0])


def warn(text: str) -> None:
    """One line `prog: text` on stderr, in one write."""
    try:
        os.write(2, f"{PROG}: {safe(text)}\n".encode("utf-8", "replace"))
    except OSError:
        pass


def run(main, doc: str, command: bool = False) -> None:
    """Parse sys.argv by doc, call main(args), exit with what it returns (None is 0).

    command: the first operand ends the options, and what follows it belongs to COMMAND (gm-work).
    """
    status = NO
    try:
        status = invoke(main, doc, command)
    except Usage as error:
        warn(f"{error}: see {PROG} --help")
        status = USAGE
    except ReaderGone:
        status = OK   # a lister has nothing more to say; tools that change things see to it themselves
    except Error as error:
        warn(str(error))
        status = error.status
    except KeyboardInterrupt:
        status = INTERRUPTED
    except ImportError as error:
        warn(f"cannot import {error.name}: pip install gearmang, or in a checkout: make venv && . .venv/bin/activate")
    except Exception as error:
        if os.environ.get("GM_DEBUG"):
            raise
        warn(f"{type(error).__name__}: {error}: run again with GM_DEBUG=1 for more")
    os._exit(status) if sys.stdout is None else sys.exit(status)


def invoke(main, doc: str, command: bool) -> int:
    argv = sys.argv[1:]
    table = options(doc)
    found, operands, dashes = parse(argv, table, command)
    if "--help" in found or "--version" in found:
        os.write(1, (f"{PROG} {__version__}\n" if "--version" in found else doc.strip() + "\n").encode())
        return OK
    import docopt
    ordered = []
    for name, value in found.items():
        ordered += [name if value is None else f"{name}={value}"]
    usage = doc.partition("Usage:")[2].partition("\n\n")[0]
    if "[--]" in usage or dashes:
        operands.insert(1 if command else 0, "--")
    try:
        args = docopt.docopt(doc, ordered + operands, help=False, options_first=command)
    except docopt.DocoptExit:
        raise Usage("usage: " + " ".join(usage.split())) from None
    return main(args) or OK


def options(doc: str) -> dict[str, tuple[str, bool]]:
    """Each option as typed, -j and --jobs, with its long name and whether it takes a value."""
    table = {}
    for line in doc.splitlines():
        words = line.split("  ")
        head = line.strip().partition("  ")[0]
        if not line.startswith(" ") or not head.startswith("-"):
            continue
        names = head.replace(",", " ").split()
        takes = any("=" in name for name in names)
        bare = [name.partition("=")[0] for name in names]
        for name in bare:
            table[name] = (bare[-1], takes)
    return table


def parse(argv: list[str], table: dict, command: bool) -> tuple[dict, list[str], bool]:
    """(options by long name, the last of each; operands; whether -- was there). Raises Usage."""
    found: dict[str, str | None] = {}
    operands: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return found, operands + rest, True
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            if name not in table:
                raise Usage(f"no option {name}" + nearest(name, table))
            take(found, table[name], name, value if equals else None, rest)
        elif word.startswith("-") and word != "-":
            letters = word[1:]
            while letters:
                name, letters = "-" + letters[0], letters[1:]
                if name not in table:
                    raise Usage(f"no option {name}" + nearest(word, table))
                if table[name][1]:
                    take(found, table[name], name, letters or None, rest)
                    letters = ""
                else:
                    take(found, table[name], name, None, rest)
        else:
            operands.append(word)
            if command:
                if rest[:1] == ["--"]:
                    rest.pop(0)
                return found, operands + rest, False
    return found, operands, False


def take(found: dict, option: tuple[str, bool], name: str, value: str | None, rest: list[str]) -> None:
    long, takes = option
    if takes and value is None:
        if not rest:
            raise Usage(f"{name}: a value is missing")
        value = rest.pop(0)
    if not takes and value is not None:
        raise Usage(f"{name}: takes no value")
    found.pop(long, None)
    found[long] = value


def nearest(name: str, table: dict) -> str:
    import difflib
    close = difflib.get_close_matches(name, [known for known in table if known.startswith("--")], 1, 0.5)
    return f": did you mean {close[0]}?" if close else ""


def quarantine(args: dict) -> str:
    """The quarantine file's path: the option, $GM_QUARANTINE, or the default place."""
    given = args.get("--quarantine") or os.environ.get("GM_QUARANTINE")
    if given:
        return given
    if os.path.isdir("/var/lib/gearmang"):
        return "/var/lib/gearmang/quarantine.db"
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(state, "gearmang", "quarantine.db")


def servers(args: dict) -> str:
    """The list of servers: the option, $GM_SERVERS, or the default."""
    return args.get("--server") or os.environ.get("GM_SERVERS") or "127.0.0.1:4730"


def number(args: dict, name: str, low: int = 0, high: int = 1 << 62) -> int | None:
    """The option as an integer, None where it is not given. Raises Usage."""
    text = args[name]
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
        raise Usage(f"{name}: not a number from {low}: {text!r}")
    return int(text)


def duration(args: dict, name: str) -> float | None:
    """The option in seconds, None where it is not given. Raises Usage."""
    return None if args[name] is None else units.duration(args[name], name)

"""The one module that prints messages and exits: options, exit statuses, signals, `prog: ...` lines."""

from __future__ import annotations

import os
import sys

from . import __version__, units
from .errors import INTERRUPTED, NO, OK, USAGE, Error, Usage
from .lines import Output, ReaderGone, safe

PROG = os.path.basename(sys.argv[0])
UNKNOWN = 3   # of a Nagios plugin
EXTRAS = {"nagiosplugin": "[check]", "ddsketch": "[tally]", "zmq": "[blueox]", "msgpack": "[blueox]"}
FEW = 16   # operands that docopt is shown; its time grows with their square, and the last name takes the rest


def warn(text: str) -> None:
    """One line `prog: text` on stderr, in one write."""
    try:
        os.write(2, f"{PROG}: {safe(text)}\n".encode("utf-8", "replace"))
    except OSError:
        pass


def run(main, doc: str, command: bool = False, plugin: str | None = None) -> None:
    """Parse sys.argv by doc, call main(args), exit with what it returns (None is 0).

    command: the first operand ends the options, and what follows it belongs to COMMAND (gm-work).
    plugin: the name of a Nagios plugin, for which every failure is UNKNOWN, said on standard output.
    """
    def fail(text: str, status: int) -> int:
        if plugin:
            return unknown(plugin, text)
        warn(text)
        return status
    status = UNKNOWN if plugin else NO
    try:
        occupy()
        status = invoke(main, doc, command)
    except Usage as error:
        status = fail(f"{error}: see {PROG} --help", USAGE)
    except ReaderGone:
        status = UNKNOWN if plugin else OK   # a lister has nothing more to say; those that change things see to it
    except Error as error:
        status = fail(str(error), error.status)
    except KeyboardInterrupt:
        status = UNKNOWN if plugin else INTERRUPTED
    except ImportError as error:
        extra = EXTRAS.get(error.name or "")
        status = fail(f"cannot import {error.name or error}: " +
                      (f"pip install 'gearmang{extra}', in a checkout '.{extra}'" if extra else
                       "pip install gearmang, or in a checkout: make venv && . .venv/bin/activate"), NO)
    except Exception as error:
        if os.environ.get("GM_DEBUG"):
            raise
        status = fail(f"{type(error).__name__}: {error}: run again with GM_DEBUG=1 for more", NO)
    os._exit(status) if sys.stdout is None else sys.exit(status)


def unknown(plugin: str, text: str) -> int:
    """Say on standard output that a plugin cannot tell: the status to exit with."""
    try:
        os.write(1, f"{plugin} UNKNOWN - {plain(text)}\n".encode("utf-8", "replace"))
    except OSError:
        pass
    return UNKNOWN


def plain(text: str) -> str:
    """text safe within a plugin's line, where | begins the performance data."""
    return safe(text).replace("|", "\\x7c")


def give_up_after(seconds: float, plugin: str) -> None:
    """End this process as UNKNOWN after that time, whatever it hangs in."""
    import threading

    def end():
        os._exit(unknown(plugin, f"not done in {seconds:g} s"))
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def occupy() -> None:
    """What is closed of 0, 1 and 2 stays unusable: else a socket would take its place, and be written to."""
    for fd, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)


def invoke(main, doc: str, command: bool) -> int:
    """The exit status of main(args), or of --help and --version, which need no docopt. Raises Error."""
    if "GM_COMPLETE" in os.environ:
        from .complete import answer
        answer(os.environ["GM_COMPLETE"], typed(options(doc), command))
        return OK
    found, operands, dashes = parse(sys.argv[1:], options(doc), command)
    if "--help" in found or "--version" in found:
        output = Output()
        output.write((f"{PROG} {__version__}\n" if "--version" in found else doc.strip() + "\n").encode())
        output.close()
        return OK
    return main(arguments(doc, found, operands, dashes, command)) or OK


def arguments(doc: str, found: dict, operands: list[str], dashes: bool, command: bool) -> dict:
    """What docopt makes of options and operands in order. Raises Usage."""
    import warnings
    with warnings.catch_warnings():   # Python 3.12 and later have one about its source
        warnings.simplefilter("ignore")
        import docopt
    usage = doc.partition("Usage:")[2].partition("\n\n")[0]
    ordered = [name if value is None else f"{name}={value}" for name, value in found.items()]
    operands, more = (operands[:FEW], operands[FEW:]) if "..." in usage else (operands, [])
    if "[--]" in usage or ("-- " in usage and dashes):
        operands.insert(1 if command else 0, "--")
    else:
        astray = [word for word in operands if "-- " in usage or word.startswith("-") and word != "-"]
        if astray:
            raise Usage(f"unexpected operand {astray[0]!r}")
    try:
        args = docopt.docopt(doc, ordered + operands, help=False, options_first=command)
    except docopt.DocoptExit:
        raise Usage(amiss(usage, [word for word in operands if word != "--"]) + "usage: " + " ".join(usage.split())) from None
    if (args.get("FUNCTION") or "").startswith("-"):
        raise Usage(f"FUNCTION: begins with -: {args['FUNCTION']!r}")
    if more:
        args[usage.rpartition("...")[0].replace("[", " ").split()[-1]] += more
    return args


def amiss(usage: str, operands: list[str]) -> str:
    """The beginning of a message about operands: the first that is missing, or that there is one too many."""
    names = [name for name in usage.split()[2:] if name != "[--]"]   # without the tool's and [options]
    wanted = [name for name in names if "[" not in name and "]" not in name]
    if len(operands) < len(wanted):
        return f"{wanted[len(operands)]} is missing: "
    return f"unexpected operand {operands[len(names)]!r}: " if len(operands) > len(names) else ""


def options(doc: str) -> dict[str, tuple[str, bool]]:
    """Each option as typed, -j and --jobs, with its long name and whether it takes a value."""
    table = {}
    for line in doc.splitlines():
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
    """(options by long name, the last of each; operands; whether -- came before them). Raises Usage."""
    found: dict[str, str | None] = {}
    operands: list[str] = []
    rest = argv[::-1]
    while rest:
        word = rest.pop()
        if word == "--":
            return found, operands + rest[::-1], True
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
                if rest[-1:] == ["--"]:
                    rest.pop()
                return found, operands + rest[::-1], False
    return found, operands, False


def typed(table: dict, command: bool) -> dict:
    """The options of a command line that is still being typed, as far as they can be read."""
    words = sys.argv[1:]
    while words:
        try:
            return parse(words, table, command)[0]
        except Usage:
            words.pop()
    return {}


def take(found: dict, option: tuple[str, bool], name: str, value: str | None, rest: list[str]) -> None:
    """Note an option, its value from the end of rest where it has none yet. Raises Usage."""
    long, takes = option
    if takes and value is None:
        if not rest:
            raise Usage(f"{name}: a value is missing")
        value = rest.pop()
    if not takes and value is not None:
        raise Usage(f"{name}: takes no value")
    found.pop(long, None)
    found[long] = value


def nearest(name: str, table: dict) -> str:
    """The end of a message about an option that there is not."""
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
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        most = f" to {high}" if high < 1 << 62 else ""
        raise Usage(f"{name}: not a number from {low}{most}: {text!r}")
    return int(text)


def duration(args: dict, name: str) -> float | None:
    """The option in seconds, None where it is not given. Raises Usage."""
    return None if args[name] is None else units.duration(args[name], name)


class Stopping:
    """SIGTERM and SIGINT from now on: .count of them, .set after the first, .fd readable when one came."""

    def __init__(self):
        import signal
        self.count = 0
        self.fd, wakeup = os.pipe()
        for fd in (self.fd, wakeup):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.note)

    def note(self, *_) -> None:
        self.count += 1

    @property
    def set(self) -> bool:
        return self.count > 0


def stopping() -> Stopping:
    """For a tool that stops in order: its signals, which no longer end it."""
    return Stopping()


def ignore_first_interrupt() -> None:
    """For a filter in a pipe that a terminal's Ctrl-C reaches as a whole: it ends with its input, or on the second SIGINT."""
    import signal
    signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.default_int_handler))

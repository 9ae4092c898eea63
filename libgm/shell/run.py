"""Running a tool: options, main(args), and the exit status that an error deserves."""

from __future__ import annotations

import os
import sys

from libgm import __version__
from libgm.errors import INTERRUPTED, NO, OK, USAGE, Error, Usage
from libgm.shell.lines import Output, ReaderGone, safe
from libgm.shell.messages import PROG, warn
from libgm.shell.options import arguments, options, parse, typed

UNKNOWN = 3   # of a Nagios plugin


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
        from libgm.shell.dependencies import advice
        name = error.name or str(error)
        status = fail(f"cannot import {name}: {advice(name.partition('.')[0])}", NO)
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
        from libgm.tools.complete import answer
        answer(os.environ["GM_COMPLETE"], typed(options(doc), command))
        return OK
    found, operands, dashes = parse(sys.argv[1:], options(doc), command)
    if "--help" in found or "--version" in found:
        output = Output()
        output.write((f"{PROG} {__version__}\n" if "--version" in found else doc.strip() + "\n").encode())
        output.close()
        return OK
    return main(arguments(doc, found, operands, dashes, command)) or OK

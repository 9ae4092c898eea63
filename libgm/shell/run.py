"""Running a tool: its options, main(args), and the exit status for how it ended."""

from __future__ import annotations

import os
import sys

from libgm import __version__
from libgm.errors import INTERRUPTED, NO, OK, UNAVAILABLE, USAGE, Error, Usage, reason
from libgm.shell import options
from libgm.shell.lines import Output, ReaderGone, safe
from libgm.shell.messages import PROG, warn

UNKNOWN = 3   # the exit status of a Nagios plugin that cannot tell


def run(main, doc: str, command: bool = False, plugin: str | None = None) -> None:
    """Parse sys.argv by doc, call main(args), and exit with the status it returns; None is 0.

    command: the first operand ends the options, and what follows it belongs to COMMAND (gm-work).
    plugin: the name of a Nagios plugin. Every failure is then UNKNOWN, reported on standard output.
    """
    def fail(text: str, status: int) -> int:
        if plugin:
            return report_unknown(plugin, text)
        warn(text)
        return status
    try:
        open_standard_descriptors()
        status = dispatch(main, doc, command)
    except Usage as error:
        status = fail(f"{error}: see {PROG} --help", USAGE)
    except ReaderGone:
        status = UNKNOWN if plugin else OK   # right for listers; a tool that changes things catches it
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
        lost = isinstance(error, OSError) and working_directory_error()
        status = fail(f"working directory: {lost}", UNAVAILABLE) if lost else \
            fail(f"{type(error).__name__}: {error}: run again with GM_DEBUG=1 for more", NO)
    os._exit(status) if sys.stdout is None else sys.exit(status)


def working_directory_error() -> str | None:
    """Why the working directory has no path, as after its removal, None if it has one."""
    try:
        os.getcwd()
    except OSError as error:
        return reason(error)
    return None


def report_unknown(plugin: str, text: str) -> int:
    """Report on standard output that a plugin cannot tell; the exit status for that."""
    try:
        os.write(1, f"{plugin} UNKNOWN - {plain(text)}\n".encode("utf-8", "replace"))
    except OSError:
        pass
    return UNKNOWN


def plain(text: str) -> str:
    """text made safe for a plugin's line, where | begins the performance data."""
    return safe(text).replace("|", "\\x7c")


def give_up_after(seconds: float, plugin: str) -> None:
    """End this process as UNKNOWN after that time, even if it hangs."""
    import threading

    def end():
        os._exit(report_unknown(plugin, f"not done in {seconds:g} s"))
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()


def open_standard_descriptors() -> None:
    """Open closed standard descriptors on /dev/null, so that no socket or file takes their numbers.

    Each is opened the wrong way round, so that using it is still an error.
    """
    for fd, mode in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)


def dispatch(main, doc: str, command: bool) -> int:
    """Answer --help, --version and completion here, without docopt, else call main(args); the exit status. Raises Error."""
    table = options.option_table(doc)
    if "GM_COMPLETE" in os.environ:
        from libgm.tools.complete import answer
        answer(os.environ["GM_COMPLETE"], options.partial_options(table, command))
        return OK
    found, operands, dashes = options.parse(sys.argv[1:], table, command)
    if "--help" in found or "--version" in found:
        output = Output()
        output.write((f"{PROG} {__version__}\n" if "--version" in found else doc.strip() + "\n").encode())
        output.close()
        return OK
    return main(options.match_usage(doc, found, operands, dashes, command)) or OK

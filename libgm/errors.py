"""Exit statuses, and the one family of errors that libgm raises. libgm.shell.run turns an error into a line and a status."""

from __future__ import annotations

OK = 0
NO = 1              # the answer is no, or some records failed
USAGE = 2
UNAVAILABLE = 111   # a server or a file is not available: try again later
CANNOT_RUN = 126    # COMMAND was found but cannot be run
NOT_FOUND = 127     # COMMAND was not found
INTERRUPTED = 130


class Error(Exception):
    """The base of all errors. The text is one line: `thing: what went wrong: why`."""

    status = NO


class Usage(Error):
    """Bad options or operands."""

    status = USAGE


class Strict(Exception):
    """Under --strict, a bad line or a refused job ends the input. What was done before stays done."""


class BadRecord(Error):
    """An input line that is no record, or a record that cannot be a job."""


class Unavailable(Error):
    """A server or a file that is not available now."""

    status = UNAVAILABLE


class Replaced(Unavailable):
    """The quarantine file is not the file any more that its path leads to. Trying again does not help."""


class CannotRun(Error):
    """COMMAND cannot be run: status 127 if it was not found, else 126."""

    def __init__(self, text: str, status: int = CANNOT_RUN):
        super().__init__(text)
        self.status = status


def reason(error: OSError) -> str:
    """The system's words for an error, in lower case, as the end of a message."""
    return (error.strerror or str(error) or type(error).__name__).lower()

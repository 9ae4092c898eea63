"""Candidates for the shells' completions: names from the servers and the quarantine file, within LIMIT seconds.

The question is $GM_COMPLETE, "KIND PREFIX". KIND is the placeholder for the value in a tool's usage. An answer is a line
per candidate: the candidate, a tab, and a description.
"""

from __future__ import annotations

import os

from libgm.errors import Error
from libgm.shell.lines import safe

LIMIT = 0.7   # seconds, so that a person who pressed Tab waits less than one
MOST = 100    # candidates
CUT = 60      # characters of a description


def answer(question: str, args: dict) -> None:
    """Print the candidates. args: the options typed so far, by long name. A source that is not available has none."""
    import threading
    kind, _, prefix = question.partition(" ")
    watchdog = threading.Timer(LIMIT, os._exit, (0,))   # a name server may not answer either
    watchdog.daemon = True
    watchdog.start()
    sources = {"FUNCTION": (from_file, from_servers), "GLOB": (from_file, from_servers),
               "ID": (ids,), "HEX": (fingerprints,), "KEY": (uniques,)}.get(kind, ())
    given: set[str] = set()
    for source in sources:
        try:
            for candidate, description in source(args, prefix):
                if len(given) >= MOST:
                    return
                if candidate.startswith(prefix) and candidate not in given and usable(candidate):
                    given.add(candidate)
                    line = f"{candidate}\t{safe(description)[:CUT]}".rstrip("\t") + "\n"
                    os.write(1, line.encode("utf-8", "replace"))
        except (Error, OSError, ValueError):
            pass


def usable(candidate: str) -> bool:
    """Whether the candidate is one line for a shell and shows as it is on a terminal."""
    return bool(candidate) and safe(candidate) == candidate and "�" not in candidate and not candidate.startswith("-")


def as_text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def store(args: dict):
    from libgm.quarantine.file import Store
    from libgm.shell import places
    return Store(os.path.expanduser(places.quarantine(args)), readonly=True)


def scan(args: dict, column: str, description: str, prefix: str):
    """(value, description) for each distinct value of an indexed column that begins with prefix, in order."""
    from libgm.quarantine import selection
    return (map(as_text, row) for row in selection.begun_with(store(args), column, description, prefix))


def from_file(args: dict, prefix: str):
    return scan(args, "function", "''", prefix)


def fingerprints(args: dict, prefix: str):
    return scan(args, "fingerprint", "error", prefix)


def uniques(args: dict, prefix: str):
    return scan(args, "unique_", "function || ': ' || error", prefix)


def ids(args: dict, prefix: str):
    """(id, description) of the jobs, the newest first."""
    from libgm.quarantine import selection
    for ident, *words in selection.paged(store(args), "job", ("id", "function", "error"), ("1", []), newest=True):
        yield str(ident), ": ".join(map(as_text, words))


def from_servers(args: dict, prefix: str):
    os.environ["GM_TIMEOUT"] = str(LIMIT / 2)
    from libgm.gearman import address
    from libgm.gearman.admin import Admin
    from libgm.shell import places
    for server in address.parse_servers(places.servers(args)):
        try:
            for queue in Admin(server).queues():
                yield as_text(queue.function), ""
        except Error:
            pass

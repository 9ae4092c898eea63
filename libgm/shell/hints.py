"""Hints: what a person probably meant by a command line that a tool cannot accept."""

from __future__ import annotations

import shlex
import shutil

from libgm.errors import Usage
from libgm.shell import options
from libgm.shell.messages import PROG

CLOSE = 0.75   # of 1, as difflib counts: two neighbours swapped in a name of eight letters are 0.88
AFTER_GM_DEAD = ("gm-drop", "gm-requeue")   # they act on the jobs that gm-dead selects
# The options by which gm-dead selects, as in options.option_table().
SELECTION = {
    "-f": ("--function", True), "-r": ("--reason", True), "-m": ("--match", True), "-u": ("--unique", True),
    "-n": ("--limit", True), "--fingerprint": ("--fingerprint", True), "--since": ("--since", True),
    "--until": ("--until", True), "--after": ("--after", True), "--delayed": ("--delayed", False)}
SELECTION.update({long: (long, takes) for long, takes in list(SELECTION.values())})


def unknown_option(name: str, word: str, argv: list[str], table: dict) -> str:
    """The end of a message about the option `name` in `word`, which is not in table, "" if there is no good guess."""
    if PROG in AFTER_GM_DEAD and name in SELECTION:
        return f": gm-dead selects: {selecting(argv, table)}"
    guess = nearest(word.lstrip("-"), [known[2:] for known in table if known.startswith("--")])
    return f": did you mean --{guess}?" if guess else ""


def nearest(name: str, names: list[str]) -> str | None:
    """The name that `name` nearly is, or is the beginning of."""
    import difflib
    begun = [known for known in names if len(name) > 1 and known.startswith(name)]
    if len(begun) == 1:
        return begun[0]
    return next(iter(difflib.get_close_matches(name, names, 1, CLOSE)), None)


def selecting(argv: list[str], table: dict) -> str:
    """The pipeline for a command line that gives gm-dead's options to a tool after it."""
    try:
        found, _, _ = options.parse(argv, {**SELECTION, **table}, False)
    except Usage:
        found = {}
    letters = {long: name for name, (long, _) in SELECTION.items() if not name.startswith("--")}
    selector, tool = ["gm-dead"], [PROG]
    for long, value in found.items():
        words = [long] if value is None else [letters[long], value] if long in letters else [f"{long}={value}"]
        if long in SELECTION or long == "--quarantine":
            selector += words
        if long not in SELECTION:
            tool += words
    return f"{shlex.join(selector)} | {shlex.join(tool)}"


def missing_command(function: str, command: str, arguments: list[str]) -> str:
    """The end of a message about gm-work's COMMAND that is not found, "" if there is no good guess."""
    first, *rest = command.split() or [""]
    if rest and shutil.which(first):
        meant = [function, "--", first, *rest, *arguments]
    elif shutil.which(function) and "/" not in command:
        meant = [command, "--", function, *arguments]
    else:
        return ""
    return f": did you mean {PROG} {shlex.join(meant)}?"

"""The command line of a tool: parsed by its usage text, its values checked."""

from __future__ import annotations

import os
import sys

from libgm import units
from libgm.errors import BadRecord, Usage

FEW = 16   # operands that docopt is given: its time grows with their square


def match_usage(doc: str, found: dict, operands: list[str], dashes: bool, command: bool) -> dict:
    """docopt's dictionary for options and operands in order. Operands beyond FEW go to the last name. Raises Usage."""
    import warnings
    with warnings.catch_warnings():   # Python 3.12 and later warn about docopt's source
        warnings.simplefilter("ignore")
        import docopt
    usage = doc.partition("Usage:")[2].partition("\n\n")[0]
    ordered = [name if value is None else f"{name}={value}" for name, value in found.items()]
    operands, more = (operands[:FEW], operands[FEW:]) if "..." in usage else (operands, [])
    if "[--]" in usage or ("-- " in usage and dashes):
        operands.insert(1 if command else 0, "--")
    else:
        astray = [word for word in operands if "-- " in usage or (word.startswith("-") and word != "-")]
        if astray:
            raise Usage(f"unexpected operand {astray[0]!r}")
    try:
        args = docopt.docopt(doc, ordered + operands, help=False, options_first=command)
    except docopt.DocoptExit:
        raise Usage(operand_error(usage, [word for word in operands if word != "--"]) +
                    "usage: " + " ".join(usage.split())) from None
    for name in [args["FUNCTION"]] if isinstance(args.get("FUNCTION"), str) else args.get("FUNCTION") or ():
        if name.startswith("-"):
            raise Usage(f"FUNCTION: begins with -: {name!r}")
    if more:
        args[usage.rpartition("...")[0].replace("[", " ").split()[-1]] += more
    return args


def operand_error(usage: str, operands: list[str]) -> str:
    """The beginning of a message: which operand is missing, or which is one too many."""
    names = [name for name in usage.split()[2:] if name != "[--]"]   # after the tool's name and [options]
    wanted = [name for name in names if "[" not in name and "]" not in name]
    if len(operands) < len(wanted):
        return f"{wanted[len(operands)]} is missing: "
    return f"unexpected operand {operands[len(names)]!r}: " if len(operands) > len(names) else ""


def option_table(doc: str) -> dict[str, tuple[str, bool]]:
    """Each option as typed (-j and --jobs), with its long name and whether it takes a value."""
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
    """(options by long name, operands, whether -- came before them). A repeated option: the last wins. Raises Usage."""
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
                raise unknown(name, name, argv, table)
            set_option(found, table[name], name, value if equals else None, rest)
        elif word.startswith("-") and word != "-":
            parse_letters(found, word, argv, table, rest)
        else:
            operands.append(word)
            if command:
                if rest[-1:] == ["--"]:
                    rest.pop()
                return found, operands + rest[::-1], False
    return found, operands, False


def parse_letters(found: dict, word: str, argv: list[str], table: dict, rest: list[str]) -> None:
    """Set the options of a word such as -qj4. Raises Usage."""
    letters = word[1:]
    while letters:
        name, letters = "-" + letters[0], letters[1:]
        if name not in table:
            raise unknown(name, word, argv, table)
        if table[name][1]:
            set_option(found, table[name], name, letters or None, rest)
            return
        set_option(found, table[name], name, None, rest)


def unknown(name: str, word: str, argv: list[str], table: dict) -> Usage:
    """The error for an option that is not in table."""
    from libgm.shell import hints
    return Usage(f"no option {name}" + hints.unknown_option(name, word, argv, table))


def set_option(found: dict, option: tuple[str, bool], name: str, value: str | None, rest: list[str]) -> None:
    """Set an option, with the next word of rest as its value if it needs one. Raises Usage."""
    long, takes = option
    if takes and value is None:
        if not rest:
            raise Usage(f"{name}: a value is missing")
        value = rest.pop()
    if not takes and value is not None:
        raise Usage(f"{name}: takes no value")
    found.pop(long, None)
    found[long] = value


def partial_options(table: dict, command: bool) -> dict:
    """The options of a command line that is still being typed, as far as they can be parsed."""
    words = sys.argv[1:]
    while words:
        try:
            return parse(words, table, command)[0]
        except Usage:
            words.pop()
    return {}


def number(args: dict, name: str, low: int = 0, high: int = 1 << 62) -> int | None:
    """The option as an integer, None if it is not given. Raises Usage."""
    text = args[name]
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        most = f" to {high}" if high < 1 << 62 else ""
        raise Usage(f"{name}: not a number from {low}{most}: {text!r}")
    return int(text)


def duration(args: dict, name: str) -> float | None:
    """The option in seconds, None if it is not given. Raises Usage."""
    return None if args[name] is None else units.duration(args[name], name)


def when(args: dict, name: str, now: float | None = None) -> float | None:
    """The option in epoch seconds, None if it is not given. now: what an age is counted back from. Raises Usage."""
    return None if args[name] is None else units.when(args[name], name, now)


def choice(args: dict, name: str, choices) -> str | None:
    """The option or operand, which must be one of choices, None if it is not given. Raises Usage."""
    text = args[name]
    if text is not None and text not in choices:
        raise Usage(f"{name}: {text!r} is not one of {', '.join(choices)}")
    return text


def function(name: str) -> bytes:
    """A function's name as a server has it. Raises Usage."""
    from libgm import job  # which few tools need
    try:
        return job.check_function(os.fsencode(name))
    except BadRecord as error:
        raise Usage(str(error)) from None


def ids(operands: list[str]) -> list[int]:
    """The job ids of operands. Raises Usage."""
    for operand in operands:
        if not (operand.isascii() and operand.isdigit() and len(operand) < 20 and int(operand) < 1 << 63):
            raise Usage(f"not an id: {operand!r}")
    return [int(operand) for operand in operands]


def wants_table(args: dict) -> bool:
    """Whether a listing is a table, as it is on a terminal; --table and --json force a form."""
    return args["--table"] or (os.isatty(1) and not args["--json"])


def exclude(args: dict, names, why: str) -> None:
    """Refuse options that do not go with another one. Raises Usage with that reason."""
    for name in names:
        if args[f"--{name}"]:
            raise Usage(f"--{name}: {why}")

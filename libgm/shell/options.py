"""The command line of a tool, read by its usage text."""

from __future__ import annotations

import sys

from libgm import units
from libgm.errors import Usage

FEW = 16   # operands that docopt is shown; its time grows with their square, and the last name takes the rest


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


def idents(operands: list[str]) -> list[int]:
    """The ids of operands. Raises Usage."""
    for operand in operands:
        if not (operand.isascii() and operand.isdigit() and int(operand) < 1 << 63):
            raise Usage(f"not an id: {operand!r}")
    return [int(operand) for operand in operands]

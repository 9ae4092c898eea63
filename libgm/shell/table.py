"""Listings: JSON lines for programs, a table for people."""

from __future__ import annotations

import os
import stat

from libgm.shell.lines import Output, safe
from libgm.shell.messages import warn
from libgm.shell.progress import Progress
from libgm.units import age, epoch

ROWS = 1000   # that are laid out together, so that memory stays bounded


class Listing:
    """A listing on standard output.

    args: has --json and --table, which force a form. columns: of (heading, function from record to cell). where: what
    is listed, for the message of an empty listing. stands_out(record): whether a terminal shows the row bold and red,
    unless $NO_COLOR is set.
    """

    def __init__(self, args: dict, columns: list, where: str, stands_out=lambda record: False):
        self.terminal = os.isatty(1)
        self.table = args["--table"] or (self.terminal and not args["--json"])
        self.columns, self.where, self.stands_out = columns, where, stands_out
        self.any = False
        self.rows: list[list] = []
        self.marks: list[bool] = []   # of the rows that stand out
        self.colour = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.output = Output()
        # no progress beside records on a terminal, nor in a pipe, whose reader may show its own
        self.progress = Progress("records") if not self.table and stat.S_ISREG(os.fstat(1).st_mode) else None
        self.above: list[int] | None = None   # the widths of the rows that are printed, which later rows keep

    def add(self, record: dict) -> None:
        """List a record."""
        self.any = True
        if not self.table:
            self.output.emit(record)
            if self.progress:
                self.progress.add()
            return
        self.marks.append(self.colour and self.stands_out(record))
        self.rows.append([cell(make(record)) for _, make in self.columns])
        if len(self.rows) >= ROWS:
            self.lay_out()

    def lay_out(self) -> None:
        """Print the rows at hand."""
        import shutil

        from tabulate import tabulate
        heads = [name for name, _ in self.columns]
        width = shutil.get_terminal_size((80, 24)).columns
        needs = self.above or [len(head) for head in heads]
        needs = [min(width, max(need, *(len(str(row[at])) for row in self.rows)))
                 for at, need in enumerate(needs)]
        while sum(needs) + 2 * (len(heads) - 1) > width and max(needs) > 8:
            weights = [*needs[:-1], needs[-1] / 2]   # the last column tells what is wrong: it keeps twice the room
            needs[weights.index(max(weights))] -= 1
        rows = [[value if isinstance(value, (int, float)) or len(value) <= need else cut(value, need, head == "unique")
                 for value, need, head in zip(row, needs, heads)] for row in self.rows]
        number = [all(isinstance(row[at], (int, float)) or not row[at] for row in rows)
                  for at in range(len(heads))]
        top = ["-" * need for need in needs] if self.above else heads
        text = tabulate([top, *rows], tablefmt="plain", disable_numparse=True,
                        colalign=["right" if right else "left" for right in number])
        top, *shown = [line.rstrip() for line in text.split("\n")]
        shown = [f"\x1b[1;31m{line}\x1b[m" if mark else line for line, mark in zip(shown, self.marks)]
        self.output.write("\n".join(shown if self.above else [top, *shown]).encode("utf-8", "replace") + b"\n")
        self.rows, self.marks, self.above = [], [], needs

    def close(self) -> None:
        """Print the rest. Tell a person where an empty listing was looked for."""
        if self.rows:
            self.lay_out()
        if not self.any and (self.table or self.terminal):
            warn(f"no {self.where}")
        if self.progress:
            self.progress.close()
        self.output.close()


def cut(text: str, size: int, end: bool) -> str:
    """text in size characters, with an ellipsis for the rest. end: keep its end too, where uniques differ."""
    keep = size // 3 if end else 0
    return text[:size - 1 - keep] + "…" + text[len(text) - keep:]


def cell(value):
    """A value as a table shows it: numbers stay numbers."""
    return value if isinstance(value, (int, float)) else safe(str(value))


def ago(now: float, name: str):
    """A function from a record to a cell: how long ago the record's time of that name was."""
    return lambda record: "" if record[name] is None else age(max(0, now - epoch(record[name])))


def shown(record: dict, name: str) -> str:
    """A field that may be bytes, as text for people."""
    if name in record:
        return record[name] or ""
    from binascii import a2b_base64
    return repr(a2b_base64(record[name + "_b64"]))[2:-1]

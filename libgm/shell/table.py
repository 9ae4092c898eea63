"""Listings: JSON lines for programs, a table for people."""

from __future__ import annotations

import os
import stat

from libgm.shell.lines import Output, safe
from libgm.shell.messages import warn
from libgm.shell.progress import Progress
from libgm.units import age, epoch

ROWS = 1000       # laid out together, so that memory stays bounded
# Forms of a table: a line for each row, another line for the last column, or a line for each cell where it is narrow.
LINES, FOLDED, BLOCKS = "lines", "folded", "blocks"
SHORT = 12        # characters that a column keeps at least, if it needs them
READABLE = 28     # characters that the last column keeps, which tells what is wrong
GAP = 2           # between columns
INDENT = 4        # before a last column that has its own line
BLOCK_LINES = 4   # of a value in a block


class Listing:
    """A listing on standard output.

    table: a table, else JSON lines. columns: of (heading, function from record to cell). where: what is listed, for the
    message of an empty listing. stands_out(record): whether a terminal shows the row bold and red, unless $NO_COLOR is
    set. lines: how many the last column may have of its own. spare: headings of columns that a narrow table leaves out,
    in this order. height: the lines that a table may have.
    """

    def __init__(self, table: bool, columns: list, where: str, stands_out=lambda record: False, lines: int = 1,
                 spare: tuple[str, ...] = (), height: int | None = None):
        self.lines, self.spare, self.height = lines, spare, height
        self.hidden = 0   # rows that the height had no room for
        self.table, self.terminal = table, os.isatty(1)
        self.columns, self.where, self.stands_out = columns, where, stands_out
        self.any = False
        self.rows: list[list] = []
        self.marks: list[bool] = []   # of the rows that stand out
        self.colour = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self.output = Output()
        # no progress beside records on a terminal, nor in a pipe, whose reader may show its own
        self.progress = Progress("records") if not self.table and stat.S_ISREG(os.fstat(1).st_mode) else None
        self.form = ""                        # LINES, FOLDED or BLOCKS once rows are printed
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
            self.print_rows()

    def print_rows(self) -> None:
        """Print the rows at hand, the first time under a heading."""
        import shutil
        width = shutil.get_terminal_size((80, 24)).columns
        first = not self.form
        if first:
            self.leave_out(width)
        heads = [name for name, _ in self.columns]
        self.form = self.form or best_form(heads, self.rows, width)
        if self.form == BLOCKS:
            entries = [block(heads, row, width) for row in self.rows]
        else:
            heading, *entries = self.aligned(heads, width)
            if first:
                self.print_lines(heading)
        for entry, mark in zip(entries, self.marks):
            if self.height is not None and (self.hidden or len(entry) > self.height):
                self.hidden += 1
                continue
            self.print_lines([line and f"\x1b[1;31m{line}\x1b[m" for line in entry] if mark else entry)
        self.rows, self.marks = [], []

    def leave_out(self, width: int) -> None:
        """Leave out spare columns, as few as let the rows stand on lines; none where that does not help."""
        columns, rows = self.columns, self.rows
        for name in ("", *self.spare):
            kept = [at for at, (head, _) in enumerate(columns) if head != name]
            columns, rows = [columns[at] for at in kept], [[row[at] for at in kept] for row in rows]
            if best_form([head for head, _ in columns], rows, width) != BLOCKS:
                self.columns, self.rows = columns, rows
                return

    def aligned(self, heads: list[str], width: int) -> list[list[str]]:
        """The lines of the heading, then of each row, in columns."""
        from tabulate import tabulate
        kept = len(heads) - (self.form == FOLDED)
        rows = [row[:kept] for row in self.rows]
        needs = needed(self.above or list(map(len, heads[:kept])), rows, width)
        widths = fitted(needs, least(needs, self.form), width) or self.above or needs
        cells = [[value if isinstance(value, (int, float)) else cut(value, size, head == "unique")
                  for value, size, head in zip(row, widths, heads)] for row in rows]
        numbers = [all(isinstance(row[at], (int, float)) or not row[at] for row in cells) for at in range(kept)]
        top = ["-" * size for size in widths] if self.above else heads[:kept]   # not printed again, but it keeps the widths
        text = tabulate([top, *cells], tablefmt="plain", disable_numparse=True,
                        colalign=["right" if number else "left" for number in numbers])
        self.above = widths
        entries = [[line] for line in text.split("\n")]
        if self.form == FOLDED:
            for entry, value in zip(entries, [heads[-1], *(row[-1] for row in self.rows)]):
                if value != "":
                    entry += [" " * INDENT + line for line in wrapped(str(value), width - INDENT, self.lines)]
        return entries

    def flush(self) -> None:
        """Print what was added so far."""
        if self.rows:
            self.print_rows()
        self.output.flush()

    def print_lines(self, lines: list[str]) -> None:
        if self.height is not None:
            self.height -= len(lines)
        self.output.write("".join(line.rstrip() + "\n" for line in lines).encode("utf-8", "replace"))

    def close(self) -> None:
        """Print the rest. Tell a person where an empty listing was looked for."""
        if self.rows:
            self.print_rows()
        if not self.any and (self.table or self.terminal):
            warn(f"no {self.where}")
        if self.progress:
            self.progress.close()
        self.output.close()


def best_form(heads: list[str], rows: list[list], width: int) -> str:
    """The form in which rows can be read in so many columns."""
    needs = needed(list(map(len, heads)), rows, width)
    if fitted(needs, least(needs, LINES), width):
        return LINES
    return FOLDED if fitted(needs[:-1], least(needs[:-1], FOLDED), width) else BLOCKS


def needed(widths: list[int], rows: list[list], width: int) -> list[int]:
    """The widths that show every cell whole, but none over width."""
    return [min(width, max(size, *(len(str(row[at])) for row in rows))) for at, size in enumerate(widths)]


def least(needs: list[int], form: str) -> list[int]:
    """The widths below which columns cannot be read. In LINES, the last column tells what is wrong."""
    sizes = [SHORT] * (len(needs) - 1) + [READABLE if form == LINES else SHORT]
    return [min(need, size) for need, size in zip(needs, sizes)]


def fitted(needs: list[int], least: list[int], width: int) -> list[int] | None:
    """Widths between least and needs that fit beside one another, None if there are none."""
    widths = list(needs)
    while sum(widths) + GAP * (len(widths) - 1) > width:
        weights = [size / 2 if low == READABLE else size for size, low in zip(widths, least)]   # it keeps twice the room
        able = [at for at, low in enumerate(least) if widths[at] > low]
        if not able:
            return None
        widths[max(able, key=weights.__getitem__)] -= 1
    return widths


def block(heads: list[str], row: list, width: int) -> list[str]:
    """A row as a line per column, a long value as up to BLOCK_LINES lines, and an empty line."""
    left = max(map(len, heads)) + GAP
    room = max(1, width - left)
    lines = []
    for head, value in zip(heads, row):
        text = cut(str(value), room * BLOCK_LINES, False)
        parts = [text[at:at + room] for at in range(0, len(text), room)]
        lines += [f"{head if not at else '':<{left}}{part}" for at, part in enumerate(parts)]
    return [*lines, ""]


def wrapped(text: str, size: int, lines: int) -> list[str]:
    """text in so many lines of size characters at most, with an ellipsis for the rest."""
    if lines == 1 or len(text) <= size:
        return [cut(text, size, False)]
    import textwrap
    return textwrap.wrap(text, size, max_lines=lines, placeholder="…")


def cut(text: str, size: int, end: bool) -> str:
    """text in size characters, with an ellipsis for the rest. end: keep its end too, where uniques differ."""
    if len(text) <= size:
        return text
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

"""What the options of gm-dead and gm-history select: rows in pages, so that no read transaction outlives a page."""

from __future__ import annotations

import os
import sqlite3
import time

from libgm import names
from libgm.errors import Unavailable, Usage
from libgm.quarantine.file import Store, raw, reason_of, text
from libgm.quarantine.jobs import COLUMNS, fetch, kept, select

BATCH_ROWS, BATCH_BYTES = 500, 1 << 20   # of a page
CAUSES = 20_000                          # of a page
FINGERPRINT = 12                         # hex digits of a whole one
COMPARED = {"since": "{time} >= ?", "until": "{time} <= ?", "unique": "unique_ = ?", "revised": "revision > ?"}
RECENT = 60.0                            # seconds that a death which raised a revision may take to be written


def functions(store: Store, table: str = "job") -> list[bytes]:
    """The functions that the file has jobs of, or the history entries."""
    source = f"{kept(store)} WHERE jobs > 0" if table == "job" else f"{table} WHERE function NOT NULL"
    return [raw(function) for function, in store.rows(f"SELECT DISTINCT function FROM {source}")]


def begun_with(store: Store, column: str, also: str, prefix: str):
    """Yield (value, also) of each distinct value of an indexed column that begins with prefix, in order: a step for each."""
    value, operator = prefix, ">="
    while True:
        row = store.execute(f"SELECT {column}, {also} FROM job WHERE {column} {operator} ? ORDER BY {column} LIMIT 1",
                            (value,)).fetchone()
        if row is None or not raw(row[0]).startswith(prefix.encode()):
            return
        yield row
        value, operator = row[0], ">"


def where(store: Store, selectors: dict, table: str = "job") -> tuple[str, list]:
    """SQL and values for selectors by name, None for those not given.

    function: a glob. since, until: epoch seconds of the last failure, or of what was done. revised: a revision that the
    row's is above. key, fingerprint: as far as they go. The others are exact. What is exact is compared as it stands, so that
    its index serves; a glob is by the functions that it matches.
    """
    column_of_time = "last_failed" if table == "job" else "time"
    terms, values = [], []
    for name, value in selectors.items():
        if value is None:
            continue
        if name == "function" and any(sign in value for sign in "*?["):
            known = functions(store, table)
            matching = [text(function) for function in known if names.matches(function, os.fsencode(value))]
            if len(matching) == len(known):
                continue
            # the + keeps several of them from being read by index and sorted, page after page
            column = "function" if len(matching) == 1 else "+function"
            terms.append(f"{column} IN ({', '.join('?' * len(matching))})")
            values += matching
            continue
        if name == "key" or (name == "fingerprint" and len(value) < FINGERPRINT):   # keys had 32 digits once
            terms.append(f"{name} BETWEEN ? AND ? || 'g'")
            values += [value, value]
            continue
        terms.append(COMPARED.get(name, f"{name} = ?").format(time=column_of_time))
        values.append(text(os.fsencode(value)) if name in ("function", "unique", "user") else value)
    return " AND ".join(terms) or "1", values


def last_id(store: Store, table: str = "job") -> int:
    """The highest id in a table, 0 where there is none."""
    return store.rows(f"SELECT max(id) FROM {table}")[0][0] or 0


def paged(store: Store, table: str, columns: tuple, selected: tuple[str, list], after: int = 0, limit: int | None = None,
          newest: bool = False, last: int | None = None):
    """Rows of a table in the order of their ids, or with newest the other way round: with ids above after and up to last
    (the highest there now), at most limit. columns: id first; data, where it is among them, last."""
    terms, values = selected
    last = last_id(store, table) if last is None else last
    order = "DESC" if newest else "ASC"
    ident = "+id" if "key BETWEEN" in terms else "id"   # +: a key's index serves better than the range of ids
    sql = (f"SELECT {select(store, columns)} FROM {table} WHERE {ident} > ? AND {ident} <= ? AND {terms} "
           f"ORDER BY id {order} LIMIT ?")
    heavy = columns[-1] == "data"
    left = -1 if limit is None else limit
    while left:
        page, size = [], 0
        cursor = store.execute(sql, (after, last, *values, min(left, BATCH_ROWS) if left > 0 else BATCH_ROWS))
        try:
            for found in cursor:
                page.append(found)
                size += len(found[-1]) if heavy else 0
                if size > BATCH_BYTES:
                    break
            else:
                size = 0
        except sqlite3.Error as error:
            raise Unavailable(f"{store.path}: {reason_of(error)}") from None
        finally:
            cursor.close()
        yield from page
        if not page or (len(page) < BATCH_ROWS and not size):
            return
        if newest:
            last = page[-1][0] - 1
        else:
            after = page[-1][0]
        left = left - len(page) if left > 0 else left


def pattern(match: str | None):
    """The compiled --match. Raises Usage."""
    if match is None:
        return None
    import re
    import warnings
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return re.compile(match)
    except (re.error, OverflowError, RecursionError) as error:
        raise Usage(f"--match: not a regular expression: {error}") from None


def jobs(store: Store, selectors: dict, after: int = 0, limit: int | None = None, newest: bool = False,
         last: int | None = None):
    """The selected rows, by jobs.COLUMNS, as paged() has them.

    match (a regular expression on the error) is tried here, not by SQLite: with no transaction open, however long it
    takes. Raises Usage.
    """
    selectors = dict(selectors)
    matches = pattern(selectors.pop("match", None))
    if matches is None:
        yield from paged(store, "job", COLUMNS, where(store, selectors), after, limit, newest, last)
        return
    for ident, error in paged(store, "job", ("id", "error"), where(store, selectors), after, None, newest, last):
        if limit == 0:
            return
        if matches.search(error or ""):
            found = fetch(store, ident)
            if found is not None and found[COLUMNS.index("state")] == selectors["state"]:
                limit = limit and limit - 1
                yield found


class Deaths:
    """The selected deaths from now on. selectors: as of jobs()."""

    def __init__(self, store: Store, selectors: dict):
        self.store, self.selectors = store, selectors
        self.version = self.data_version()
        self.last = last_id(store)
        self.revisions: dict[int, int] = {}
        self.revised()

    def data_version(self) -> int:
        """A number that changes when another process changes the file."""
        return self.store.rows("PRAGMA data_version")[0][0]

    def new(self):
        """Those since the last call, by jobs.COLUMNS. Raises Replaced where the path has another file now."""
        self.store.check_replaced()
        version = self.data_version()
        if version == self.version:
            return
        self.version = version
        yield from self.revised()
        last = last_id(self.store)
        yield from jobs(self.store, self.selectors, self.last, last=last)
        self.last = last

    def revised(self) -> list[tuple]:
        """Jobs that died again in a row that was there."""
        since = max(time.time() - RECENT, self.selectors.get("since") or 0)
        found = list(jobs(self.store, {**self.selectors, "since": since, "revised": 1}, last=self.last))
        before, self.revisions = self.revisions, {row[0]: row[1] for row in found}
        return [row for row in found if before.get(row[0]) != row[1]]


CAUSE = "function, fingerprint, count(*) AS count, min(first_failed) AS first, max(last_failed) AS last, max(id) AS sample"


def causes(store: Store, selectors: dict, after: int = 0, limit: int | None = None):
    """The selected jobs by cause, the most frequent first: dicts of count, function (bytes), reason, error (of the
    sample), fingerprint, first_failed, last_failed (epoch seconds), sample (an id, the newest). Raises Usage."""
    selectors = dict(selectors)
    matches = pattern(selectors.pop("match", None))
    state = selectors.pop("state")   # spelled out, since its index is a partial one
    terms, values = where(store, selectors)
    terms = f"state = '{state}' AND {terms}" + (" AND id > ?" if after else "")
    values = values + [after] * bool(after)
    found = _in_sql(store, terms, values, limit) if matches is None else _matching(store, terms, values, matches)[:limit]
    for function, fingerprint, count, first, last, sample, reason, error in found:
        yield {"count": count, "function": raw(function), "reason": reason, "error": error, "fingerprint": fingerprint,
               "first_failed": first, "last_failed": last, "sample": sample}


def _in_sql(store: Store, terms: str, values: list, limit: int | None):
    """Grouped along an index that has all it takes: memory does not grow with the jobs. Pages, by count and cause."""
    sql = (f"SELECT g.*, job.reason, job.error FROM (SELECT {CAUSE} FROM job WHERE {terms} GROUP BY function, fingerprint "
           "HAVING (-count(*), -max(id)) > (?, ?) ORDER BY count DESC, sample DESC LIMIT ?) AS g "
           "JOIN job ON job.id = g.sample ORDER BY count DESC, sample DESC")
    left, page, last = limit, [], (-(1 << 62), 0)
    while left is None or left > 0:
        page = store.rows(sql, (*values, *last, min(CAUSES, CAUSES if left is None else left)))
        yield from page
        if len(page) < CAUSES:
            return
        left = left and left - len(page)
        last = -page[-1][2], -page[-1][5]


def _matching(store: Store, terms: str, values: list, matches) -> list[tuple]:
    """The same where a regular expression has its say; memory grows with the causes."""
    found: dict = {}
    columns = ("id", "function", "fingerprint", "first_failed", "last_failed", "reason", "error")
    for ident, function, fingerprint, first, last, reason, error in paged(store, "job", columns, (terms, values)):
        if matches.search(error or ""):
            first = last if first is None else first
            count, before, since = found.get((function, fingerprint), (0, first, last))[:3]
            found[function, fingerprint] = (count + 1, min(before, first), max(since, last), ident, reason, error)
    return sorted(((*cause, *rest) for cause, rest in found.items()), key=lambda row: (-row[2], -row[5]))

"""Showing what is in quarantine: the listing, one job as a page, a payload as it is."""

from __future__ import annotations

import os
import time

from . import quarantine
from .cli import warn
from .errors import NO, OK, BadRecord, Usage
from .store import Store, raw
from .units import age, when

REASONS = ("error", "timeout", "crash", "lost", "hung", "rejected", "collected")


def idents(operands: list[str]) -> list[int]:
    """The ids of operands. Raises Usage."""
    for operand in operands:
        if not (operand.isascii() and operand.isdigit() and int(operand) < 1 << 63):
            raise Usage(f"not an id: {operand!r}")
    return [int(operand) for operand in operands]


def selectors(args: dict) -> dict:
    """What gm-dead's options select, as quarantine.where() takes it. Raises Usage."""
    if args["--reason"] is not None and args["--reason"] not in REASONS:
        raise Usage(f"--reason: {args['--reason']!r} is not one of {', '.join(REASONS)}")
    now = time.time()
    return {"state": "delayed" if args["--delayed"] else "dead", "function": args["--function"],
            "reason": args["--reason"], "match": args["--match"], "unique": args["--unique"],
            "fingerprint": args["--fingerprint"],
            **{name: when(args[f"--{name}"], f"--{name}", now) if args[f"--{name}"] else None
               for name in ("since", "until")}}


def columns(now: float, delayed: bool) -> list:
    """The table's columns: headings and what makes a cell of a record."""
    from .units import epoch

    def ago(name):
        return lambda record: "" if record[name] is None else age(now - epoch(record[name]))
    return [("id", lambda record: record["id"]), ("function", lambda record: shown(record, "function")),
            ("unique", lambda record: shown(record, "unique")),
            ("due in", lambda record: age(max(0, epoch(record["due"]) - now))) if delayed else ("failed", ago("last_failed")),
            ("tries", lambda record: record["attempts"]), ("requeues", lambda record: record["requeues"] or ""),
            ("reason", lambda record: "being sent" if record["state"] == "claimed" else record["reason"]),
            ("error", lambda record: record["error"] or "")]


def shown(record: dict, name: str) -> str:
    """A field that may be bytes, for people."""
    if name in record:
        return record[name] or ""
    from binascii import a2b_base64
    return repr(a2b_base64(record[name + "_b64"]))[2:-1]


def listing(store: Store, args: dict) -> int:
    """The selected jobs, oldest first."""
    from . import cli
    from .table import Listing
    wanted = selectors(args)
    after = cli.number(args, "--after", low=0) or 0
    limit = cli.number(args, "--limit", low=0)
    what = "delayed retries" if args["--delayed"] else "dead jobs"
    found = Listing(args, columns(time.time(), args["--delayed"]), f"{what} in {store.path}")
    try:
        for values in quarantine.select(store, wanted, after, limit):
            found.add(quarantine.record(values, store.lives))
    except BadRecord as error:
        raise Usage(str(error)) from None
    found.close()
    return OK


def show(store: Store, wanted: list[int], args: dict) -> int:
    """The jobs with these ids, in any state: records, or on a terminal a page each."""
    from .lines import Output
    status = OK
    page = args["--table"] or (os.isatty(1) and not args["--json"])
    output = Output()
    for ident in wanted:
        values = quarantine.fetch(store, ident)
        if values is None:
            warn(f"{ident}: " + ("requeued, dropped or done: gm-history tells"
                                 if quarantine.ever_was(store, ident) else "no such job"))
            status = NO
            continue
        record = quarantine.record(values, store.lives)
        if page:
            from .page import render
            output.write(render(record, raw(values[-1])))
        else:
            output.emit(record)
    output.close()
    return status


def write_data(store: Store, wanted: list[int]) -> int:
    """The payload of the one id on standard output, byte for byte."""
    from .lines import Output
    if len(wanted) != 1:
        raise Usage("--data takes one ID")
    values = quarantine.fetch(store, wanted[0])
    if values is None:
        warn(f"{wanted[0]}: no such job")
        return NO
    output = Output()
    path = values[quarantine.COLUMNS.index("payload_file")]
    if path is None:
        output.write(raw(values[-1]))
    else:
        with open(path, "rb") as payload:
            for chunk in iter(lambda: payload.read(1 << 20), b""):
                output.write(chunk)
                output.flush()
    output.close()
    return OK

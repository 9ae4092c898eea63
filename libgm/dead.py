"""Showing what is in quarantine: the listing, one job as a page, a payload as it is."""

from __future__ import annotations

import os
import time

from . import cli, history, job, quarantine, selection
from .cli import warn
from .errors import NO, OK, BadRecord, Unavailable, Usage
from .lines import Output
from .store import Store, raw
from .table import Listing
from .units import age, epoch, iso, when

REASONS = ("error", "timeout", "crash", "lost", "hung", "rejected", "collected")


def idents(operands: list[str]) -> list[int]:
    """The ids of operands. Raises Usage."""
    for operand in operands:
        if not (operand.isascii() and operand.isdigit() and int(operand) < 1 << 63):
            raise Usage(f"not an id: {operand!r}")
    return [int(operand) for operand in operands]


def check_alone(args: dict) -> None:
    """IDs name the jobs by themselves. Raises Usage."""
    for name in ("function", "reason", "match", "unique", "fingerprint", "since", "until", "after", "limit", "delayed", "group"):
        if args[f"--{name}"]:
            raise Usage(f"--{name}: selects among all jobs, and IDs are given")


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


def ago(now: float, name: str):
    """The maker of a cell: how long ago the record's time of that name was."""
    return lambda record: "" if record[name] is None else age(max(0, now - epoch(record[name])))


def columns(now: float, delayed: bool) -> list:
    """The table's columns: headings and what makes a cell of a record."""
    return [("id", lambda record: record["id"]), ("function", lambda record: shown(record, "function")),
            ("unique", lambda record: shown(record, "unique")),
            ("due in", lambda record: age(max(0, epoch(record["due"]) - now))) if delayed else
            ("failed", ago(now, "last_failed")),
            ("tries", lambda record: record["attempts"]), ("requeues", lambda record: record["requeues"] or ""),
            ("reason", lambda record: "being sent" if record["state"] == "claimed" else record["reason"]),
            ("error", lambda record: record["error"] or "")]


def cause_columns(now: float) -> list:
    return [("count", lambda record: record["count"]), ("function", lambda record: shown(record, "function")),
            ("since", ago(now, "first_failed")), ("last", ago(now, "last_failed")),
            ("sample", lambda record: record["sample"]), ("fingerprint", lambda record: record["fingerprint"]),
            ("error", lambda record: record["error"] or "")]


def shown(record: dict, name: str) -> str:
    """A field that may be bytes, for people."""
    if name in record:
        return record[name] or ""
    from binascii import a2b_base64
    return repr(a2b_base64(record[name + "_b64"]))[2:-1]


def listing(store: Store, args: dict) -> int:
    """The selected jobs, oldest first, or with --group their causes, the most frequent first."""
    wanted, now = selectors(args), time.time()
    after = cli.number(args, "--after", low=0) or 0
    limit = cli.number(args, "--limit", low=0)
    what = "delayed retries" if args["--delayed"] else "dead jobs"
    if args["--group"]:
        found = Listing(args, cause_columns(now), f"{what} in {store.path}")
        records = map(cause, selection.causes(store, wanted, after, limit))
    else:
        found = Listing(args, columns(now, args["--delayed"]), f"{what} in {store.path}")
        records = (quarantine.record(values, store.lives) for values in selection.jobs(store, wanted, after, limit))
    try:
        for record in records:
            found.add(record)
    except BadRecord as error:
        raise Usage(str(error)) from None
    if not found.any:
        found.where = not_any(store, wanted, what, bool(after))
    found.close()
    return OK


def not_any(store: Store, wanted: dict, what: str, after: bool) -> str:
    """What an empty listing is of: the whole file, a function that it has nothing of, or a selection."""
    if wanted["function"] is not None:
        known = sorted(function.decode("utf-8", "replace") for function in selection.functions(store))
        if wanted["function"] not in known:
            return f"{what} of {wanted['function']} in {store.path}" + \
                (f": it has some of {', '.join(known[:10])}" if known else "") + \
                (f" and {len(known) - 10} more" if len(known) > 10 else "")
    chosen = after or any(value is not None for name, value in wanted.items() if name != "state")
    return f"{what} {'that match ' if chosen else ''}in {store.path}"


def cause(found: dict) -> dict:
    """A cause as a record. Its sample is under that name, so that it is never mistaken for a job."""
    record: dict = {"count": found["count"]}
    job.put(record, "function", found["function"])
    record.update(reason=found["reason"], error=found["error"], first_failed=iso(found["first_failed"]),
                  last_failed=iso(found["last_failed"]), sample=found["sample"], fingerprint=found["fingerprint"])
    return record


def absent(store: Store, ident: int) -> str:
    """What to say of an id that has no row."""
    if not quarantine.ever_was(store, ident):
        return f"{ident}: no such job"
    done = history.last(store, ident)
    return f"{ident}: " + (f"{done}: see gm-history {ident}" if done else "tried again since: no longer delayed")


def show(store: Store, wanted: list[int], args: dict) -> int:
    """The jobs with these ids, in any state: records, or on a terminal a page each."""
    status = OK
    page = args["--table"] or (os.isatty(1) and not args["--json"])
    output = Output()
    for ident in wanted:
        values = quarantine.fetch(store, ident)
        if values is None:
            warn(absent(store, ident))
            status = NO
            continue
        record = quarantine.record(values, store.lives)
        if page:
            from .page import render
            output.write(render(record, raw(values[-1]), history.of_job(store, record)))
        else:
            output.emit(record)
    output.close()
    return status


def write_data(store: Store, wanted: list[int]) -> int:
    """The payload of the one id on standard output, byte for byte."""
    if len(wanted) != 1:
        raise Usage("--data takes one ID")
    values = quarantine.fetch(store, wanted[0])
    if values is None:
        warn(absent(store, wanted[0]))
        return NO
    output = Output()
    path = values[quarantine.COLUMNS.index("payload_file")]
    if path is None:
        output.write(raw(values[-1]))
    else:
        for chunk in payload_file(store, path):
            output.write(chunk)
            output.flush()
    output.close()
    return OK


def payload_file(store: Store, path: str):
    """The bytes of a payload too large for a row. Raises Unavailable; a record that was imported may name any file, and
    only a payload beside the quarantine file is read."""
    from . import spool
    name = os.path.basename(path)
    if spool.owner(store, name) is None:
        raise Unavailable(f"{path}: not the file of a payload: not read")
    try:
        fd = os.open(store.beside(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as payload:
            yield from iter(lambda: payload.read(1 << 20), b"")
    except OSError as error:
        raise Unavailable(f"{path}: cannot read the payload: {(error.strerror or str(error)).lower()}") from None

"""One quarantined job as a page for a person."""

from __future__ import annotations

import json
import os
import time

from libgm import job
from libgm.errors import NO, OK, BadRecord, Unavailable, Usage, reason
from libgm.quarantine import jobs, selection
from libgm.quarantine.audit import absent
from libgm.quarantine.file import Store, raw
from libgm.shell import options
from libgm.shell.lines import Output, safe
from libgm.shell.messages import warn
from libgm.shell.table import Listing, ago, shown
from libgm.tools import history
from libgm.units import age, epoch, iso, when

REASONS = ("error", "timeout", "crash", "lost", "hung", "rejected", "collected")


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


def listing(store: Store, args: dict) -> int:
    """The selected jobs, oldest first, or with --group their causes, the most frequent first."""
    wanted, now = selectors(args), time.time()
    after = options.number(args, "--after", low=0) or 0
    limit = options.number(args, "--limit", low=0)
    what = "delayed retries" if args["--delayed"] else "dead jobs"
    if args["--group"]:
        found = Listing(args, cause_columns(now), f"{what} in {store.path}")
        records = map(cause, selection.causes(store, wanted, after, limit))
    else:
        found = Listing(args, columns(now, args["--delayed"]), f"{what} in {store.path}")
        records = (jobs.record(values, store.lives) for values in selection.jobs(store, wanted, after, limit))
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


def show(store: Store, wanted: list[int], args: dict) -> int:
    """The jobs with these ids, in any state: records, or on a terminal a page each."""
    status = OK
    page = args["--table"] or (os.isatty(1) and not args["--json"])
    output = Output()
    for ident in wanted:
        values = jobs.fetch(store, ident)
        if values is None:
            warn(absent(store, ident))
            status = NO
            continue
        record = jobs.record(values, store.lives)
        if page:
            pass
            output.write(render(record, raw(values[-1]), history.of_job(store, record)))
        else:
            output.emit(record)
    output.close()
    return status


def write_data(store: Store, wanted: list[int]) -> int:
    """The payload of the one id on standard output, byte for byte."""
    if len(wanted) != 1:
        raise Usage("--data takes one ID")
    values = jobs.fetch(store, wanted[0])
    if values is None:
        warn(absent(store, wanted[0]))
        return NO
    output = Output()
    path = values[jobs.COLUMNS.index("payload_file")]
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
    from libgm.quarantine import payloads
    name = os.path.basename(path)
    if payloads.owner(store, name) is None:
        raise Unavailable(f"{path}: not the file of a payload: not read")
    try:
        fd = os.open(store.beside(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb") as payload:
            yield from iter(lambda: payload.read(1 << 20), b"")
    except OSError as error:
        raise Unavailable(f"{path}: cannot read the payload: {reason(error)}") from None


PAYLOAD = 4096   # bytes of a payload that are shown
LOST = "journalctl -k, or dmesg, on its host: was memory short?"   # what killed a worker can only be known there


def render(record: dict, data: bytes, history: list[dict]) -> bytes:
    """The page of a record, its payload and what was done with it (history.of_job), as UTF-8 that a terminal can take."""
    from libgm.quarantine.audit import ACTIONS
    from libgm.shell.table import shown
    now = time.time()

    def at(name):
        return "" if record[name] is None else f"{record[name]} ({age(abs(now - epoch(record[name])))} " + \
            ("ago)" if epoch(record[name]) <= now else "from now)")
    ended = record["signal"] or ("" if record["exit"] is None else f"exit status {record['exit']}")
    look = LOST if record["reason"] == "lost" and not record["error"].startswith("released") else ""
    lines = [f"job {record['id']}, revision {record['revision']}: {record['state']}, {record['reason']}", ""]
    for name, value in (("function", shown(record, "function")), ("unique", shown(record, "unique")),
                        ("priority", record["priority"]), ("error", record["error"]), ("look at", look), ("ended with", ended),
                        ("attempts", record["attempts"]), ("requeues", record["requeues"]),
                        ("first failed", at("first_failed")), ("last failed", at("last_failed")), ("due", at("due")),
                        ("server", f"{record['server'] or ''} {record['handle'] or ''}".strip()),
                        ("host", record["host"]), ("fingerprint", record["fingerprint"])):
        if value not in (None, ""):
            lines.append(f"  {name:<13} {safe(str(value))}")
    if record["stderr"]:
        lines += ["", "stderr:"] + ["  " + safe(line) for line in record["stderr"].split("\n")]
    lines += ["", f"payload ({len(data)} bytes):"] + ["  " + line for line in payload(data)]
    if record.get("payload_file"):
        lines.append(f"  in {safe(record['payload_file'])}")
    if history:
        lines += ["", "history:"]
        for entry in history:
            edited = ", edited" if entry["edited"] else ""
            lines.append(f"  {entry['time']} {ACTIONS.get(entry['action'], entry['action'])}{edited} by "
                         + safe(f"{entry['user']}@{entry['host']}: job {entry['job']}: {entry['error'] or ''}"))
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


def payload(data: bytes) -> list[str]:
    """Lines that show a payload: JSON laid out, text as it is, anything else as a hexdump."""
    cut = [] if len(data) <= PAYLOAD else [f"... {len(data) - PAYLOAD} bytes more: gm-dead --data"]
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return hexdump(data[:PAYLOAD]) + cut
    if text[:1] in ("{", "["):
        try:
            text = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    return [safe(line) for line in text[:PAYLOAD].split("\n")] + cut


def hexdump(data: bytes) -> list[str]:
    return [f"{at:08x}  {data[at:at + 16].hex(' '):<47}  |" +
            "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data[at:at + 16]) + "|"
            for at in range(0, len(data), 16)]

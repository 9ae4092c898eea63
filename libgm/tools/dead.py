"""gm-dead: list quarantined jobs, or show one as a page for a person."""

from __future__ import annotations

import json
import os
import time

from libgm import job
from libgm.errors import NO, OK, Unavailable, Usage, reason
from libgm.quarantine import jobs, processes, selection
from libgm.quarantine.audit import DONE, absent
from libgm.quarantine.file import Store, raw
from libgm.shell.lines import Output, ReaderGone, safe
from libgm.shell.messages import warn
from libgm.shell.table import Listing, ago, shown
from libgm.tools import history
from libgm.units import age, epoch, iso

LOOK = 0.25   # seconds between two looks for new deaths; ten times as long as a look takes, where that is more


def columns(now: float, delayed: bool) -> list:
    """The table's columns: headings and what makes a cell of a record."""
    return [("id", lambda record: record["id"]), ("function", lambda record: shown(record, "function")),
            ("unique", lambda record: shown(record, "unique")),
            ("due in", lambda record: age(max(0, epoch(record["due"]) - now))) if delayed else
            ("failed", ago(now, "last_failed")),
            ("tries", lambda record: record["attempts"]), ("requeues", lambda record: record["requeues"] or ""),
            ("reason", lambda record: "being sent" if record["state"] == "claimed" else record["reason"] or ""),
            ("error", lambda record: record["error"] or "")]


def cause_columns(now: float) -> list:
    """The columns of the table of causes."""
    return [("count", lambda record: record["count"]), ("function", lambda record: shown(record, "function")),
            ("reason", lambda record: record["reason"] or ""), ("since", ago(now, "first_failed")),
            ("last", ago(now, "last_failed")), ("sample", lambda record: record["sample"]),
            ("fingerprint", lambda record: record["fingerprint"] or ""), ("error", lambda record: record["error"] or "")]


def listing(store: Store, wanted: dict, after: int, limit: int | None, newest: bool, follow: bool, table: bool) -> int:
    """List the selected jobs with ids above after, at most limit, oldest or newest first. follow: then go on with each death
    as it happens. wanted: as of selection.jobs(). table: as Listing takes it."""
    found = Listing(table, columns(time.time(), wanted["state"] == "delayed"), "")
    deaths = selection.Deaths(store, wanted) if follow else None
    for values in selection.jobs(store, wanted, after, limit, newest, deaths.last if deaths else None):
        found.add(record_of(store, values))
    if deaths:
        go_on(store, deaths, found)
    return end(found, store, wanted, bool(after))


def list_causes(store: Store, wanted: dict, after: int, limit: int | None, table: bool) -> int:
    """List the causes of the selected jobs, the most frequent first; as listing()."""
    found = Listing(table, cause_columns(time.time()), "", lines=3)
    for values in selection.causes(store, wanted, after, limit):
        found.add(cause(values))
    return end(found, store, wanted, bool(after))


def end(found: Listing, store: Store, wanted: dict, after: bool) -> int:
    """End a listing; the exit status."""
    if not found.any:
        found.where = not_any(store, wanted, after)
    found.close()
    return OK


def record_of(store: Store, values: tuple) -> dict:
    """The record of a row by jobs.COLUMNS."""
    return jobs.record(values, lambda process: processes.lives(store, process))


def go_on(store: Store, deaths: selection.Deaths, found: Listing) -> None:
    """List deaths as they happen, until the reader of standard output goes away. Raises ReaderGone."""
    import select
    reader = select.poll()
    reader.register(1, 0)
    pause = 0.0
    while True:
        if any(event & select.POLLERR for _, event in reader.poll(pause * 1000)):
            raise ReaderGone("standard output: its reader has gone")
        begun = time.monotonic()
        for values in deaths.new():
            found.add(record_of(store, values))
        found.flush()
        pause = max(LOOK, 10 * (time.monotonic() - begun))


def not_any(store: Store, wanted: dict, after: bool) -> str:
    """What an empty listing lists: the whole file, a function that it has nothing of, or a selection."""
    what = f"{wanted['state']} jobs"
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


def show(store: Store, wanted: list[int], page: bool) -> int:
    """Show the jobs with these ids, in any state: a page each, or records."""
    status = OK
    output = Output()
    for ident in wanted:
        values = jobs.fetch(store, ident)
        if values is None:
            warn(absent(store, ident))
            status = NO
            continue
        record = record_of(store, values)
        if page:
            output.write(render(record, raw(values[-1]), history.of_job(store, record)))
        else:
            output.emit(record)
    output.close()
    return status


def write_data(store: Store, wanted: list[int]) -> int:
    """Write the payload of the one id to standard output, byte for byte."""
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
    now = time.time()

    def at(name):
        return "" if record[name] is None else f"{record[name]} ({age(abs(now - epoch(record[name])))} " + \
            ("ago)" if epoch(record[name]) <= now else "from now)")
    ended = record["signal"] or ("" if record["exit"] is None else f"exit status {record['exit']}")
    look = LOST if record["reason"] == "lost" and not (record["error"] or "").startswith("released") else ""
    why = f", {safe(record['reason'])}" if record["reason"] else ""
    lines = [f"job {record['id']}, revision {record['revision']}: {record['state']}{why}", ""]
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
    laid_out, shown_lines = payload(data)
    lines += ["", f"payload ({len(data)} bytes{', JSON laid out' * laid_out}):"] + ["  " + line for line in shown_lines]
    if record.get("payload_file"):
        lines.append(f"  in {safe(record['payload_file'])}")
    if history:
        lines += ["", "history:"]
        for entry in history:
            edited = ", edited" if entry["edited"] else ""
            why = f" ({entry['why']})" if entry["why"] else ""
            lines.append(f"  {entry['time']} {DONE.get(entry['action'], entry['action'])}{edited} by "
                         + safe(f"{entry['user']}@{entry['host']}: job {entry['job']}: {entry['error'] or ''}{why}"))
    return ("\n".join(lines) + "\n\n").encode("utf-8", "replace")


def payload(data: bytes) -> tuple[bool, list[str]]:
    """(whether it is JSON laid out, lines that show a payload); text is shown as it is, anything else as a hexdump."""
    cut = [] if len(data) <= PAYLOAD else [f"... {len(data) - PAYLOAD} bytes more: gm-dead --data"]
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return False, hexdump(data[:PAYLOAD]) + cut
    laid_out = None
    if text[:1] in ("{", "["):
        try:
            laid_out = json.dumps(json.loads(text), indent=2, ensure_ascii=False)
        except (ValueError, RecursionError):
            pass
    text = laid_out or text
    return laid_out is not None, [safe(line) for line in text[:PAYLOAD].split("\n")] + cut


def hexdump(data: bytes) -> list[str]:
    return [f"{at:08x}  {data[at:at + 16].hex(' '):<47}  |" +
            "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data[at:at + 16]) + "|"
            for at in range(0, len(data), 16)]

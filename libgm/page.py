"""One quarantined job as a page for a person."""

from __future__ import annotations

import json
import time

from .lines import safe
from .units import age, epoch

PAYLOAD = 4096   # bytes of a payload that are shown
LOST = "journalctl -k, or dmesg, on its host: was memory short?"   # what killed a worker can only be known there


def render(record: dict, data: bytes, history: list[dict]) -> bytes:
    """The page of a record, its payload and what was done with it (history.of_job), as UTF-8 that a terminal can take."""
    from .dead import shown
    from .history import ACTIONS
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

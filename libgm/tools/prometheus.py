"""gm-status --prometheus: a snapshot in Prometheus' text format, for the textfile collector of node_exporter.

https://prometheus.io/docs/instrumenting/exposition_formats/ and .../practices/naming/ are the rules.
"""

from __future__ import annotations

from libgm import job, names
from libgm.tools.status import Snapshot
from libgm.units import epoch


def escape(value: str) -> str:
    """A label's value as the format has it."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def family(name: str, about: str, samples: list[tuple[dict, float]]) -> str:
    """HELP, TYPE and a line per (labels, value); nothing where there are no samples."""
    lines = [f"# HELP gearmang_{name} {about}", f"# TYPE gearmang_{name} gauge"]
    for labels, value in samples:
        shown = ",".join(f'{label}="{escape(of)}"' for label, of in labels.items())
        lines.append(f"gearmang_{name}{{{shown}}} {value}" if shown else f"gearmang_{name} {value}")
    return "\n".join(lines) + "\n" if samples else ""


def text(snapshot: Snapshot, file_up: bool | None) -> bytes:
    """A snapshot as text. file_up: whether the quarantine file can be read, None where there is none yet."""
    found, kept = snapshot.queues(), labelled((None, row) for row in snapshot.quarantine([]))
    up = {server for server, _ in found}
    rows = labelled((server, row) for server, of_server in found for row in of_server)
    parts = [family("up", "Whether the server answers.",
                    [({"server": str(server)}, int(server in up)) for server in snapshot.servers])]
    for name, field, about in (("waiting_jobs", "waiting", "Jobs that no worker has begun."),
                               ("running_jobs", "running", "Jobs in a worker's hands, as gearmand counts them."),
                               ("workers", "workers", "Connected workers that can do the function.")):
        parts.append(family(name, about, [(labels, row[field]) for labels, row in rows]))
    parts.append(family("queued_jobs", "Queued jobs by priority.",
                        [({**labels, "priority": name}, row[name]) for labels, row in rows for name in job.PRIORITIES
                         if row[name] is not None]))
    if file_up is not None:
        parts.append(family("quarantine_up", "Whether the quarantine file can be read.", [({}, int(file_up))]))
    for name, field, about in (("delayed_jobs", "delayed", "Retries that wait for their time."),
                               ("overdue_jobs", "overdue", "Delayed retries whose time has passed."),
                               ("held_jobs", "held", "Jobs that are held until an outage ends."),
                               ("dead_jobs", "dead", "Jobs in quarantine.")):
        parts.append(family(name, about, [(labels, row[field]) for labels, row in kept]))
    parts.append(family("paused", "Whether the work on the function is paused.",
                        [(labels, int(row["paused"] is not None)) for labels, row in kept]))
    for name, field, about in (("oldest_dead_timestamp_seconds", "oldest_dead", "When the job failed that is longest dead."),
                               ("oldest_start_timestamp_seconds", "oldest_start", "When the job began that runs longest.")):
        parts.append(family(name, about, [(labels, epoch(row[field])) for labels, row in kept if row[field]]))
    return "".join(parts).encode()


def labelled(pairs) -> list[tuple[dict, dict]]:
    """(labels, row) of each (server or None, row), one for each function even if its server lists it twice.

    Bytes that are not UTF-8 become \\xff in a label, and backslashes are doubled, so that different names stay different.
    """
    found: dict[tuple, dict] = {}
    for server, row in pairs:
        key = server and str(server), names.text(row["function"].replace(b"\\", b"\\\\"))
        found[key] = merged(found[key], row) if key in found else row
    return [({**({"server": server} if server else {}), "function": function}, row) for (server, function), row in found.items()]


def merged(row: dict, other: dict) -> dict:
    """Two rows as one: counts are added, of times the earlier stays."""
    done = {}
    for name, value in row.items():
        values = [one for one in (value, other[name]) if one is not None]
        done[name] = sum(values) if all(isinstance(one, int) for one in values) and values else min(values, default=None)
    return done

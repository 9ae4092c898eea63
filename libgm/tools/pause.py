"""What gm-pause and gm-resume do: the pauses of functions, kept in the quarantine file."""

from __future__ import annotations

import os
import time

from libgm import job, units
from libgm.errors import NO, OK
from libgm.quarantine import audit, outages, pauses, processes
from libgm.quarantine.file import Store
from libgm.quarantine.pauses import Pause
from libgm.shell.lines import Output
from libgm.shell.messages import PROG, warn
from libgm.units import counted


def open_store(path: str, create: bool) -> Store:
    """The file, this process entered in it. A file of an earlier version has no pauses, so it is migrated."""
    if not create:
        Store(path, readonly=True).close()   # that it is there
    store = Store(path, create=True)
    processes.join(store, PROG)
    return store


# ---- gm-pause


def pause(path: str, servers: list, globs: list[bytes], until: float | None, why: str | None, output: Output) -> int:
    """Pause functions; the exit status: NO where other workers of them go on, or may.

    globs: names or globs. until: epoch seconds, None for until gm-resume.
    """
    store = open_store(path, create=True)
    try:
        now = time.time()
        with store.transaction():
            for glob in globs:
                pauses.begin(store, glob, now, until, why, audit.user())
                audit.write_down_function(store, "pause", glob, why)
        others, unknown = other_workers(store, servers)
        status = NO if unknown else OK
        for glob in globs:
            covered = Pause(glob, now, until, why, audit.user())
            reached = sum(covered.covers(function) for function in pauses.workers(store))
            left = sum(count for function, count in others.items() if covered.covers(function))
            status = NO if left else status
            record: dict = {}
            job.put(record, "function", glob)
            record.update(until=units.iso(until), why=why, reached=reached, others=left)
            output.emit(record)
            if output.summarized:
                name = glob.decode("utf-8", "replace")
                warn(f"{name}: paused; {reached} gm-work reached" +
                     (f"; not reached: {counted(left, 'other worker')}" if left else ""))
        output.close()
        return status
    finally:
        processes.part(store)


def other_workers(store: Store, servers: list) -> tuple[dict[bytes, int], bool]:
    """Workers by function that the servers know and this file does not; whether some server could not be asked."""
    from libgm.gearman import admin
    here = os.uname().nodename
    ours = {f"gm-work:{here}:{pid}".encode() for pid in pauses.worker_pids(store)}
    found: dict[bytes, int] = {}
    answers, problems = admin.ask_all(servers, admin.Admin.workers)
    for error in problems:
        warn(str(error))
    for _, seen in answers:
        for _, _, client, functions in seen:
            if client not in ours:
                for function in functions:
                    found[function] = found.get(function, 0) + 1
    return found, bool(problems)


# ---- gm-resume


def resume(path: str, globs: list[bytes], why: str | None, output: Output) -> int:
    """End pauses and brakes; the exit status: NO where a glob had none."""
    store = open_store(path, create=False)
    try:
        status = OK
        for glob in globs:
            ended = end(store, glob, why)
            if not ended:
                warn(f"{glob.decode('utf-8', 'replace')}: neither paused nor held")
                status = NO
            for function, what in ended:
                record: dict = {}
                job.put(record, "function", function)
                record["ended"] = what
                output.emit(record)
                if output.summarized:
                    warn(f"{function.decode('utf-8', 'replace')}: " + ("resumed" if what == "pause" else "brake ended"))
        output.close()
        return status
    finally:
        processes.part(store)


def end(store: Store, glob: bytes, why: str | None) -> list[tuple[bytes, str]]:
    """End the pauses and brakes of the functions that a glob matches, and the pause of that very glob.

    Returns what was ended, each a (function or glob, "pause" or "brake").
    """
    now, ended = time.time(), []
    matches = Pause(glob, 0.0, None, None, None)
    with store.transaction():
        for standing in pauses.standing(store, now):
            if standing.glob == glob or matches.covers(standing.glob):
                pauses.end(store, standing.glob)
                ended.append((standing.glob, "pause"))
        for function in outages.standing(store):
            if matches.covers(function):
                outages.end_brake(store, function, now)
                ended.append((function, "brake"))
        for function in sorted({function for function, _ in ended}):
            audit.write_down_function(store, "resume", function, why)
    return sorted(ended)

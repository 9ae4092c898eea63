"""Processes of jobs whose worker is dead or hung: found by what their environment says, ended by group."""

from __future__ import annotations

import os
import time

from libgm import job
from libgm.errors import Error, Unavailable
from libgm.quarantine import processes, starts
from libgm.quarantine.file import Store, raw
from libgm.units import iso
from libgm.worker.orphans import Processes, end

MARK_WAIT = 2.0   # seconds that a worker which is stopped inside a write may keep us from marking its starts


def overstaying(store: Store, older: float | None, job_older: float | None) -> list[dict]:
    """What overstays, as dicts: workers older than `older`, jobs running longer than `job_older` (seconds; None: not
    asked for), starts whose owner is dead (start), what still runs of those (orphan).

    Each holds `kind`, what gm-reap prints of it, and under `targets` the (pid, start time) of what to end.
    """
    now, here = time.time(), (os.uname().nodename, processes.namespace())
    under_way: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for pid, started, run in Processes(store):
        under_way.setdefault(run, []).append((pid, started))
    owners = {ident: values for ident, *values in store.execute(
        "SELECT id, tool, host, namespace, pid, pid_start, started, function FROM process ORDER BY id").fetchall()}
    starts_of: dict[int, list] = {}
    for start in store.execute("SELECT process, run, function, unique_, handle, started, attempts FROM start "
                               "WHERE process <> ? ORDER BY process, run", (starts.NOBODY,)).fetchall():
        starts_of.setdefault(start[0], []).append(start)
    found = []
    for ident, (tool, host, namespace, pid, pid_start, began, function) in owners.items():
        if older is not None and tool == "gm-work" and now - began > older and processes.lives(store, ident):
            ours = (host, namespace) == here
            entry = described("worker", ident, host, pid, function, began, now, ours)
            runs = [(ident, starts.PIPE), *(start[:2] for start in starts_of.get(ident, ()))]
            jobs = [target for run in runs for target in under_way.get(run, ())]
            entry["targets"] = [(pid, pid_start), *jobs] if ours else []
            found.append(entry)
    for ident, began_here in starts_of.items():
        living = processes.lives(store, ident)
        host, namespace = owners[ident][1:3] if ident in owners else (None, None)
        for _, run, function, unique, handle, began, attempts in began_here:
            began = starts.since(store, ident, run, began)
            if began is None or (living and (job_older is None or now - began <= job_older)):
                continue
            targets = under_way.get((ident, run)) or under_way.get((ident, starts.PIPE), [])
            ours = (host, namespace) == here
            entry = described("job" if living else "start", ident, host, None, function, began, now, ours)
            job.put(entry, "unique", raw(unique))
            entry.update(handle=handle, attempts=attempts, run=run, targets=targets if living and ours else [])
            found.append(entry)
            for target in () if living else targets:
                orphan = {**entry, "kind": "orphan", "pid": target[0], "here": True, "targets": [target]}
                found.append(orphan)
    return found


def described(kind: str, worker: int, host, pid, function, began, now: float, ours: bool) -> dict:
    entry: dict = {"kind": kind, "worker": worker, "host": host, "pid": pid}
    job.put(entry, "function", None if function is None else raw(function))
    entry.update(since=iso(began), age=None if began is None else max(0, round(now - began, 1)), here=ours)
    return entry


def reap(store: Store, entry: dict, how: str, grace: float, report) -> str | None:
    """End what an entry names; how: hung (counts as an attempt) or released (does not). What was done, None for nothing.

    It ends them also where the file cannot be written: report(text) tells, and the mark is made afterwards. Raises
    Error where something is left.
    """
    kind, marked = entry["kind"], False
    if kind == "start":   # nothing runs; it counts as it is, but for being forgiven
        if how == "released":
            starts.give_back(store, entry["worker"], entry["run"])
            return how
        return None
    if not entry["targets"]:
        return None
    if kind != "orphan":
        try:
            with store.patience(MARK_WAIT):
                starts.mark(store, entry["worker"], how, entry.get("run"))
            marked = True
        except Unavailable as error:
            report(f"{error}: ending it all the same")
    left = end(entry["targets"], grace)
    if kind != "orphan" and not marked:
        starts.mark(store, entry["worker"], how, entry.get("run"))
    if left:
        raise Error(f"{kind} of worker {entry['worker']}: cannot end process {left[0][0]}: not permitted, "
                    "or stuck in the kernel")
    return "killed" if how == "hung" else "released"

"""The release of delayed jobs when they are due: retries, held jobs, jobs of gm-at. gm-delivery(7), rule 2."""

from __future__ import annotations

import time

from libgm import wire
from libgm.errors import Error, Replaced
from libgm.gearman.connection import ServerLost
from libgm.quarantine import claims, jobs, pauses, processes
from libgm.quarantine.file import Store, raw
from libgm.shell.messages import warn
from libgm.shell.signals import Control
from libgm.shell.trouble import Trouble
from libgm.worker.memory import outgrown

HORIZON_SLACK = 60.0       # seconds beyond --max-delay before a due time is taken for a stepped clock


def release_due(store: Store, settings) -> int:
    """Submit the delayed jobs of workers with our server list that are due; how many. Claim, submit, acknowledged, remove.

    Raises Error where a server is lost or refuses some: what was not acknowledged stays, and its claim is void again.
    """
    released, submitter = 0, None
    accepted: list = []
    refused: list = []
    try:
        while True:
            now = time.time()
            claimed = claims.claim_due(store, settings.server_list, now, now + settings.max_delay + HORIZON_SLACK)
            if not claimed:
                return released
            if submitter is None:
                from libgm.gearman.client import Submitter
                submitter = Submitter(settings.servers, on_accept=lambda found, handle, server: accepted.append(found),
                                      on_refuse=lambda found, error: refused.append(error))
            accepted.clear()
            try:
                lost = send(submitter, claimed)
                claims.remove_released(store, accepted)
            finally:
                claims.void(store)
            released += len(accepted)
            if lost or refused:
                raise lost or refused[0]
    finally:
        if submitter is not None:
            submitter.close()


def send(submitter, claimed: list[dict]) -> ServerLost | None:
    """Submit claimed rows; the error where no server takes them."""
    try:
        for found in claimed:
            function, unique, data, priority = resubmission(found)
            submitter.submit(function, unique, data, priority, found, name=raw(found["unique_"]))
        submitter.finish()
    except ServerLost as error:
        return error
    return None


def resubmission(found: dict) -> tuple[bytes, bytes, bytes, str]:
    """(function, wire unique, payload, priority) of a delayed retry's row."""
    function, header = raw(found["function"]), jobs.header(found)
    return (function, *wire.pack(function, raw(found["unique_"]), header, raw(found["data"])), header.priority)


def run_releaser(settings, parent_fd: int) -> int:
    """Run the process that releases delayed retries on time while the workers are busy; it ends with the parent."""
    control = Control(0, parent_fd)
    warn_of_droppers(settings)
    store = None
    trouble = Trouble()
    paused = ""
    while not (control.stopping or control.retired):
        try:
            store = store or open_store(settings)
            paused = tell_pause(store, settings.function, paused)
            released = release_due(store, settings)
            trouble.over()
            pause = 1.0
            if released and outgrown():
                break   # a large payload came by: whoever replaces us starts small
        except Replaced:
            break   # a worker tells
        except Error as error:
            pause = trouble.say(f"delayed retries: {error}")
        control.wait(pause)
    if store:
        processes.part(store)
    return 0


def tell_pause(store: Store, function: bytes, before: str) -> str:
    """Report once, for all workers, that the function is paused, and that it goes on; the pause in words, "" for none."""
    pause = pauses.find(store, function, time.time())
    now = str(pause) if pause else ""
    if now != before:
        warn(f"{function.decode('utf-8', 'replace')}: {now or 'resumed'}")
    return now


def warn_of_droppers(settings) -> None:
    """Tell which servers drop a job whose worker goes away: none of what gm-work promises then holds for it."""
    from libgm.gearman.admin import ask_all
    answers, _ = ask_all(settings.servers, lambda admin: admin.drops_released_jobs())
    for server, drops in answers:
        if drops:
            warn(f"{server}: this server drops the job of a worker that goes away, as geard does: a job that is given back, "
                 "or that kills its worker, is lost")


def open_store(settings) -> Store:
    """The file, this process entered in it: what it claims is void when it dies."""
    store = Store(settings.quarantine, create=True)
    processes.join(store, "gm-work releaser", settings.function, settings.server_list)
    return store

"""Claims: a row is marked as being sent, sent, and removed where it still is what was sent.

gm-delivery(7), rules 2 and 5. A claim names its process, and the number of the sending: the one after the row's, or after an
earlier claim's. Every death of a job raises its row's revision and takes the claim away, so (id, revision, process) tells
whether a row still is what was sent.

A claim is void when its process is dead, or has given up. Its number outlives it: what is sent again in the same way (as a
retry, as a requeue, waited for or not) repeats it, so that the server merges it with the copy that it may have got before.
Whatever else is sent takes the next number, so that it never merges with a copy that may still run.
"""

from __future__ import annotations

import json

from libgm import wire
from libgm.quarantine import audit, pauses, processes
from libgm.quarantine.file import Store
from libgm.quarantine.jobs import COLUMNS, select

LISTED = "id IN (SELECT value FROM json_each(:ids))"
CLAIMED = 8 << 20   # bytes of payload of due retries that are claimed at once,
MOST = 1000         # and how many of them
RETRY = "retry"     # how a delayed retry is sent


def listed(idents) -> str:
    """Ids as a value that a statement takes, however many they are."""
    return json.dumps(list(idents))


def number(sends: int, claim_sends: int | None, claim_digest: str | None, how: str) -> int:
    """The number of a sending: a void claim's of the same way is repeated, any other goes on from the later one.

    sends: the row's. claim_sends, claim_digest: of its last claim, and None where there was none since it died; the latter
    also where nothing can be left of what that sent.
    """
    if claim_sends is None:
        return wire.next_sends(sends)
    if claim_digest == how:
        return claim_sends
    return wire.next_sends(claim_sends if wire.later(claim_sends, sends) else sends)


def claim(store: Store, numbers: dict[int, int | None], how: str) -> None:
    """Claim rows that are sent in one way, within a transaction of the caller's. numbers: by id, None for one that is sent as
    another job."""
    recorded = ", claim_sends = ifnull(sent.value, claim_sends), claim_digest = :how" if store.version >= 3 else ""
    store.execute(f"UPDATE job SET claim = :process, nonce = NULL{recorded} FROM json_each(:numbers) AS sent "
                  "WHERE job.id = CAST(sent.key AS INTEGER)",
                  {"process": store.process, "how": how, "numbers": json.dumps(numbers)})


def still(store: Store, sent: dict[int, int]) -> set[int]:
    """Of rows that were sent (id: revision when they were claimed), those that still are what was sent."""
    return {ident for ident, in store.rows(
        "SELECT job.id FROM json_each(?) AS sent CROSS JOIN job ON job.id = CAST(sent.key AS INTEGER) "   # CROSS: by id
        "WHERE job.revision = sent.value AND +job.claim = ?", (json.dumps(sent), store.process))}


def remove(store: Store, sent: dict[int, int], edited: bool = False, why: str | None = None) -> set[int]:
    """Take out requeued rows that still are what was sent, and write that down, within a transaction of the caller's; their
    ids. sent: as of still()."""
    found = still(store, sent)
    values = {"ids": listed(found)}
    audit.write_down_where(store, "requeue", LISTED, values, edited, why)
    store.execute(f"DELETE FROM job WHERE {LISTED}", values)
    return found


def give_back(store: Store, idents: list[int]) -> None:
    """End claims whose copies were refused or have ended, where they are still ours: the next sending takes another number."""
    with store.transaction(durable=False):
        store.execute("UPDATE job SET claim = NULL" + (", claim_digest = NULL" if store.version >= 3 else "") +
                      f" WHERE {LISTED} AND +claim = :process", {"process": store.process, "ids": listed(idents)})


def void(store: Store) -> None:
    """Make every claim of this process void: copies of what it sent may be anywhere."""
    ours = (store.process,)
    if store.execute("SELECT 1 FROM job WHERE claim = ? LIMIT 1", ours).fetchone():
        with store.transaction(durable=False):
            store.execute("UPDATE job SET claim = NULL WHERE claim = ?", ours)


def void_dead(store: Store) -> None:
    """Make the claims of dead processes void, within a transaction of the caller's."""
    for process, in store.execute("SELECT DISTINCT claim FROM job WHERE claim IS NOT NULL").fetchall():
        if not processes.lives(store, process):
            store.execute("UPDATE job SET claim = NULL WHERE claim = ?", (process,))


def claim_due(store: Store, servers: str, now: float, horizon: float) -> list[dict]:
    """Claim delayed jobs of workers with the same server list that are due, but not those of paused functions.

    now, horizon: epoch seconds. A retry that is due beyond horizon is due now, since the clock was stepped; a job of gm-at,
    which has never failed, waits for its time only. Returns dicts by COLUMNS whose `sends` is the number to send them under.
    What this process had claimed before and could not finish is void first.
    """
    void(store)
    due = "state = 'delayed' AND servers = ? AND (due <= ? OR (due > ? AND last_failed IS NOT NULL))"
    values: list = [servers, now, horizon]
    paused = pauses.delayed(store, now)
    if paused:
        due += f" AND function NOT IN ({', '.join('?' * len(paused))})"
        values += paused
    if store.execute(f"SELECT 1 FROM job WHERE {due} LIMIT 1", values).fetchone() is None:
        return []
    claimed, size = [], 0
    with store.transaction():
        void_dead(store)
        cursor = store.execute(f"SELECT claim_sends, claim_digest, {select(store)} FROM job WHERE {due} AND claim IS NULL "
                               "ORDER BY due LIMIT ?", (*values, MOST))
        for before, how, *found in cursor:
            row = dict(zip(COLUMNS, found))
            row["sends"] = number(row["sends"], before, how, RETRY)
            claimed.append(row)
            size += len(found[-1])
            if size > CLAIMED:
                break
        cursor.close()
        claim(store, {row["id"]: row["sends"] for row in claimed}, RETRY)
    return claimed


def remove_released(store: Store, released: list[dict]) -> None:
    """Remove delayed retries that a server has acknowledged; a row that has changed since stays."""
    with store.transaction():
        found = still(store, {values["id"]: values["revision"] for values in released})
        store.execute(f"DELETE FROM job WHERE {LISTED}", {"ids": listed(found)})

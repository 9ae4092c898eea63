"""Claims: a row is marked as being sent, sent, and removed where it still is what was sent.

Delayed retries are claimed when they are due. A requeue claims a batch of rows, each by the nonce that names its sending: a
row that has our claim and that nonce still is what was sent under it: a death takes both away. So one statement acts on
all rows of a nonce, and those that died meanwhile are not among them. A nonce outlives its claim: what a dead process may
have sent already merges with what is sent under it again.
"""

from __future__ import annotations

import json

from libgm.quarantine import audit
from libgm.quarantine.file import Store
from libgm.quarantine.jobs import COLUMNS

LISTED = "id IN (SELECT value FROM json_each(:ids))"
SENT = f"{LISTED} AND +claim = :process AND nonce = :nonce"   # +: found by id, not by the index of claims
CLAIMED = 8 << 20   # bytes of payload of due retries that are claimed at once


def listed(idents) -> str:
    """Ids as a value that a statement takes, however many they are."""
    return json.dumps(list(idents))


def claim(store: Store, nonce: str, idents: list[int]) -> None:
    """Claim rows that are to be sent under a nonce, within a transaction of the caller's."""
    store.execute(f"UPDATE job SET claim = :process, nonce = :nonce WHERE {LISTED}",
                  {"process": store.process, "nonce": nonce, "ids": listed(idents)})


def remove(store: Store, nonce: str, idents: list[int], edited: bool) -> set[int]:
    """Take out the rows that still are what was sent under a nonce, and write that down, within a transaction of the
    caller's; their ids."""
    values = {"process": store.process, "nonce": nonce, "ids": listed(idents)}
    still = {ident for ident, in store.rows(f"SELECT id FROM job WHERE {SENT}", values)}
    audit.write_down_where(store, "requeue", edited, SENT, values)
    store.execute(f"DELETE FROM job WHERE {SENT}", values)
    return still


def give_back(store: Store, idents: list[int]) -> None:
    """Give back claims of what was not sent, or has ended, where they are still ours: its nonce is of no more use."""
    with store.transaction(durable=False):
        store.execute(f"UPDATE job SET claim = NULL, nonce = NULL WHERE {LISTED} AND +claim = :process",
                      {"process": store.process, "ids": listed(idents)})


def give_back_all(store: Store) -> None:
    """Give back every claim of this process; what was sent under a nonce and not acknowledged keeps that."""
    ours = (store.process,)
    if store.execute("SELECT 1 FROM job WHERE claim = ? LIMIT 1", ours).fetchone():
        with store.transaction(durable=False):
            store.execute("UPDATE job SET claim = NULL WHERE claim = ?", ours)


def void_dead_claims(store: Store) -> None:
    """Take back the claims of dead processes, within a transaction of the caller's. What they sent may arrive again."""
    for process, in store.execute("SELECT DISTINCT claim FROM job WHERE claim IS NOT NULL").fetchall():
        if not store.lives(process):
            store.execute("UPDATE job SET claim = NULL WHERE claim = ?", (process,))


def claim_due(store: Store, servers: str, now: float, horizon: float, limit: int = 200) -> list[dict]:
    """Claim delayed retries of workers with the same server list that are due, or due beyond horizon (the clock stepped).

    now, horizon: epoch seconds. Returns dicts by COLUMNS.
    """
    due = "state = 'delayed' AND servers = ? AND (due <= ? OR due > ?)"
    if store.execute(f"SELECT 1 FROM job WHERE {due} LIMIT 1", (servers, now, horizon)).fetchone() is None:
        return []
    ours = store.process
    with store.transaction():
        void_dead_claims(store)
        claimed, size = [], 0
        cursor = store.execute(f"SELECT {', '.join(COLUMNS)} FROM job WHERE {due} AND claim IS NULL "
                               "ORDER BY due LIMIT ?", (servers, now, horizon, limit))
        for found in cursor:
            claimed.append(dict(zip(COLUMNS, found)))
            size += len(found[-1])
            if size > CLAIMED:
                break
        cursor.close()
        store.execute_many("UPDATE job SET claim = ? WHERE id = ?", [(ours, found["id"]) for found in claimed])
    return claimed


def remove_released(store: Store, released: list[dict]) -> None:
    """Remove delayed retries that a server has acknowledged; a row that has changed since stays."""
    with store.transaction():
        store.execute_many("DELETE FROM job WHERE id = ? AND revision = ? AND claim = ?",
                             [(found["id"], found["revision"], store.process) for found in released])

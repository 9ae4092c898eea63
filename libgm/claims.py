"""The claims of a requeue: a batch of rows at a time, each by the nonce that names its sending.

A row that has our claim and that nonce still is what was sent under it: a death takes both away. So one statement acts on
all rows of a nonce, and those that died meanwhile are not among them. A nonce outlives its claim: what a dead process may
have sent already merges with what is sent under it again.
"""

from __future__ import annotations

import json

from . import audit
from .store import Store

LISTED = "id IN (SELECT value FROM json_each(:ids))"
SENT = f"{LISTED} AND +claim = :process AND nonce = :nonce"   # +: found by id, not by the index of claims


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


def forget_nonces(store: Store, idents: list[int]) -> None:
    """Give back claims of what was not sent, or has ended: its nonce is of no more use."""
    with store.transaction(durable=False):
        store.execute(f"UPDATE job SET claim = NULL, nonce = NULL WHERE {LISTED} AND +claim = :process",
                      {"process": store.process, "ids": listed(idents)})


def give_back_all(store: Store) -> None:
    """Give back every claim of this process; what was sent under a nonce and not acknowledged keeps that."""
    ours = (store.process,)
    if store.execute("SELECT 1 FROM job WHERE claim = ? LIMIT 1", ours).fetchone():
        with store.transaction(durable=False):
            store.execute("UPDATE job SET claim = NULL WHERE claim = ?", ours)

"""Invoices: an order is written to the spool, with the customer's logo. It judges its failures itself: set aside at once.

    gm-work --pipe invoice -- gm-python invoices:invoice
"""

import json
from pathlib import Path

from libgm.python import Quarantine

SPOOL = Path("spool-2025")


def invoice(job):
    order = json.loads(job.data.decode("latin-1"))   # what the old shop wrote is in Latin-1
    number = order["order"]
    if order["format"] != "pdf":
        raise Quarantine(f"order {number}: format '{order['format']}' of {number % 90 + 10} dpi is no longer written")
    if order["left"]:
        raise Quarantine(f"customer {number * 7} <mail-{number}@example.org> has left on {order['left']}")
    try:
        Path(order["logo"]).read_bytes()
    except OSError as error:
        raise Quarantine(f"logo of order {number}: {error.strerror}: {error.filename}")
    try:
        (SPOOL / f"{number}.json").write_bytes(job.data)
    except OSError as error:
        raise Quarantine(f"order {number}, request {hash(job.data) & 0xffffffffff:#x}: "
                         f"cannot write '{error.filename}': {error.strerror}")
    return f"invoice {number}"

#!/usr/bin/env python3
"""Orders as job records on standard output: make-orders.py NUMBER. Of a thousand 8 have a wrong path, and 2 nobody wants."""

import json
import sys
from base64 import b64encode
from pathlib import Path

number = int(sys.argv[1])
wrong, unwanted = number * 8 // 1000, number * 2 // 1000
Path("new").mkdir(exist_ok=True)
Path("new/logo.png").touch()
for n in range(1, number + 1):
    order = {"order": n, "customer": "Müller & Söhne" if n % 3 else "Smith",
             "logo": "new/logo.png", "format": "pdf", "left": None}
    place = n * 7919 % number   # spread over the whole
    if place < wrong:
        order.update(customer="Čapek", logo=f"old/logo-{n}.png")
        Path(f"new/logo-{n}.png").touch()
    elif place < wrong + unwanted * 3 // 5:
        order["left"] = f"2025-11-{n % 30 + 1:02}"
    elif place < wrong + unwanted:
        order["format"] = f"fax-{n % 4 + 1}"
    text = json.dumps(order, ensure_ascii=False)
    job = {"function": "invoice", "unique": f"order-{n}"}
    if place >= wrong and n % 3 == 1:   # of the old shop
        job["data_b64"] = b64encode(text.encode("latin-1")).decode()
    else:
        job["data"] = text
    print(json.dumps(job))

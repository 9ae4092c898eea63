#!/usr/bin/env python3
"""Write a Maildir of real-world mail, one in twenty of it hostile, and the truth about it.

Usage: make-mail.py COUNT SEED MAILDIR TRUTH.jsonl [SHAPE...]

The same COUNT and SEED make the same mail. A line of TRUTH.jsonl is a message: its digest, its shape, its subject,
the digests of its images, those of them that cannot be read, and why the message itself cannot be read.
"""

import itertools
import json
import sys
from hashlib import sha256
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(EXAMPLES))

import shapes  # noqa: E402  it needs images.py from there

HOSTILE_EVERY = 20


def order(count, names):
    """The shape of each message: all of the names in turn, the hostile ones where a twentieth of the mail is due."""
    made = dict.fromkeys(names, 0)
    good, hostile = ([name for name in names if (name in shapes.HOSTILE) == wanted] for wanted in (False, True))
    good, hostile = itertools.cycle(good or hostile), itertools.cycle(hostile or good)
    for number in range(count):
        ring = hostile if number % HOSTILE_EVERY == HOSTILE_EVERY - 1 else good
        name = next(name for name in ring if made[name] < shapes.FEW.get(name, count))
        made[name] += 1
        yield name


def main(count, seed, maildir, truth_path, *names):
    for folder in ("new", "cur", "tmp"):
        (Path(maildir) / folder).mkdir(parents=True, exist_ok=True)
    new = Path(maildir) / "new"
    post = shapes.Post(int(seed), sorted(path for path in (EXAMPLES / "demo/photos").glob("*.jpg") if path.name != "rocket.jpg"))
    with open(truth_path, "w", encoding="utf-8") as truth:
        for number, name in enumerate(order(int(count), names or list(shapes.SHAPES))):
            post.begin(number)
            data = shapes.SHAPES[name](post)
            file_name = f"{1367488800 + number}.M{number}.{name}"
            (new / file_name).write_bytes(data)
            if name == "the_very_same_letter":
                (new / (file_name + "-again")).write_bytes(data)
            print(json.dumps({
                "message": sha256(data).hexdigest()[:32], "shape": name, "file": file_name,
                "subject": None if post.why else post.subject, "unreadable": post.why,
                "images": sorted({image for image, bad in post.images if not bad}),
                "bad": {image: bad for image, bad in post.images if bad}}), file=truth)


if __name__ == "__main__":
    main(*sys.argv[1:])

#!/usr/bin/env python3
"""Compare what came out of the mail chain with the truth about the mail; exit status 1 where they differ.

Usage: account.py TRUTH.jsonl DEAD.jsonl

To be run in the folder where images/, small/ and sent/ are. DEAD.jsonl: what gm-dead --json says.
"""

import json
import os
import sys
from collections import Counter
from hashlib import sha256
from pathlib import Path

from PIL import Image

wrong = []


def check(what, wanted, found):
    """Say a number, or what is missing and what is too much."""
    print(f"  {len(found):6}  {what}")
    if wanted != found:
        missing, more = sorted(wanted - found), sorted(found - wanted)
        wrong.append(f"{what}: {len(missing)} are missing, {len(more)} are too many: {(missing + more)[:3]}")


def lines(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def named_by_content(name):
    with open(f"images/{name}", "rb") as file:
        return sha256(file.read()).hexdigest() == name


def is_small(name):
    with Image.open(f"small/{name}") as picture:
        picture.load()
        return max(picture.size) <= 120


def main(truth_path, dead_path):
    truth, dead = lines(truth_path), lines(dead_path)
    readable = [letter for letter in truth if not letter["unreadable"]]
    images = {image for letter in readable for image in letter["images"]}
    pairs = {(letter["message"], image) for letter in readable for image in letter["bad"]}
    jobs = [(record["function"], json.loads(record["data"])) for record in dead]
    dead_messages = {job["message"] for function, job in jobs if function == "decode_mail"}
    dead_images = {(job["message"], job["image"]) for function, job in jobs if function == "extract_image"}
    elsewhere = {(function, str(job)) for function, job in jobs if function not in ("decode_mail", "extract_image")}
    sent = {name.removesuffix(".json") for name in os.listdir("sent")}
    waits = {letter["message"] for letter in readable if letter["bad"]}

    print(f"  {len(truth):6}  different messages, of {len({letter['shape'] for letter in truth})} shapes, and of these")
    check("are in sent/, each once", {letter["message"] for letter in readable} - waits, sent)
    check("wait for an image that is in quarantine", waits, {message for message, _ in dead_images})
    check("are in quarantine, for they cannot be read", {letter["message"] for letter in truth} - {
        letter["message"] for letter in readable}, dead_messages)
    if len(sent) + len({message for message, _ in dead_images}) + len(dead_messages) != len(truth):
        wrong.append("these do not add up")
    print(f"  {len(images) + len(pairs):6}  different images in messages that can be read, and of these")
    check("are in images/, each once, byte for byte", images, set(filter(named_by_content, os.listdir("images"))))
    check("are in small/, each once", images, {name.removesuffix(".jpg") for name in filter(is_small, os.listdir("small"))})
    check("are in quarantine, for they are no images or broken", pairs, dead_images)
    check("jobs in quarantine that should not be there", set(), elsewhere)
    subjects = {letter["message"]: letter["subject"] for letter in readable if letter["subject"] is not None}
    check("subjects read as they were written", {(message, subject) for message, subject in subjects.items() if message in sent},
          {(message, json.loads(Path(f"sent/{message}.json").read_text(encoding="utf-8"))["subject"])
           for message in sent if message in subjects})
    check("files left in inbox/new", set(), set(os.listdir("inbox/new")))

    twice = sum(number - 1 for number in Counter((function, json.dumps(job, sort_keys=True)) for function, job in jobs).values())
    if twice:
        print(f"  {twice:6}  jobs are in quarantine once more, for the stage before was killed and repeated")
    for line in wrong:
        print(f"account: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""The five stages of the mail chain, each the worker of a queue of its own: gm-work --pipe STAGE -- gm-python stages:STAGE

    fetch_mail     data: a file name in inbox/new     spool/MESSAGE.eml   the message as it came; out of the inbox
    decode_mail    {"message"}                        parts/IMAGE         what it has attached, as it came
                                                      mail/MESSAGE.json   its headers, and which images it has
    extract_image  {"message", "image"}               images/IMAGE.jpg    proven to be an image; once, in however many
    resize         {"message", "image"}               small/IMAGE.jpg     messages it is
    send_complete  {"message"}                        sent/MESSAGE.json   all its images are there: the notice

MESSAGE and IMAGE are digests of what they name. A stage first makes its files safe, then submits the next job, and is
done only then.
"""

from __future__ import annotations

import io
import json
import os
import warnings

import letter
from PIL import Image, UnidentifiedImageError
from spool import digest, keep, load

from libgm.python import Quarantine

SIZE = 120, 120                      # pixels of a small picture, at most
Image.MAX_IMAGE_PIXELS = 50_000_000  # more is refused, before anything is unpacked
warnings.simplefilter("error", Image.DecompressionBombWarning)


def fetch_mail(job):
    """Into the spool under the digest of the message, then out of the inbox."""
    new, seen = f"inbox/new/{job.text}", f"inbox/cur/{job.text}:2,S"
    raw = load(new if os.path.exists(new) else seen)   # it is seen where this is a repeat
    message = digest(raw)[:32]
    keep(f"spool/{message}.eml", raw)
    job.submit("decode_mail", {"message": message})
    if os.path.exists(new):
        os.rename(new, seen)
    job.extra(bytes=len(raw))


def decode_mail(job):
    message = job.json["message"]
    try:
        headers, images = letter.read(load(f"spool/{message}.eml"))
    except letter.Unreadable as error:
        raise Quarantine(str(error)) from None
    names = [digest(data) for data in images]
    for name, data in zip(names, images):
        keep(f"parts/{name}", data)
    keep(f"mail/{message}.json", json.dumps({**headers, "images": names}).encode())
    for name in names:
        job.submit("extract_image", {"message": message, "image": name})
    if not names:
        job.submit("send_complete", {"message": message})
    job.extra(images=len(names))


def extract_image(job):
    name = job.json["image"]
    data = load(f"parts/{name}")
    if not data:
        raise Quarantine("an empty file")
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            job.extra(width=picture.width, height=picture.height, bytes=len(data))
    except UnidentifiedImageError:
        raise Quarantine("not an image") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Warning) as error:
        raise Quarantine(str(error)) from None
    keep(f"images/{name}", data)
    job.submit("resize", job.json)


def resize(job):
    message, name = job.json["message"], job.json["image"]
    small = f"small/{name}.jpg"
    if not os.path.exists(small):
        with Image.open(f"images/{name}") as picture:
            picture.draft("RGB", SIZE)
            picture = picture.convert("RGB")
        picture.thumbnail(SIZE)
        file = io.BytesIO()
        picture.save(file, "JPEG")
        keep(small, file.getvalue())
    # the picture first, then the question: of two that finish the last images of a message, one at least sees both
    if all(os.path.exists(f"small/{image}.jpg") for image in json.loads(load(f"mail/{message}.json"))["images"]):
        job.submit("send_complete", {"message": message})


def send_complete(job):
    """What a person waits for; here it goes to a folder."""
    message = job.json["message"]
    found = json.loads(load(f"mail/{message}.json"))
    keep(f"sent/{message}.json", json.dumps({**found, "small": [f"small/{name}.jpg" for name in found["images"]]}).encode())
    job.extra(images=len(found["images"]))

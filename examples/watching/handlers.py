"""gm-work --pipe resize -- gm-python handlers:resize. A payload is WIDTH PHOTO; the sizes go into the event."""

from PIL import Image


def resize(job):
    width, _, path = job.text.partition(" ")
    with Image.open(path) as photo:
        job.extra(width=photo.width, height=photo.height, kB=photo.fp.seek(0, 2) / 1000)
        photo.thumbnail((int(width), int(width)))
    return f"{photo.width}x{photo.height}"

# gm-work --pipe resize -- gm-python --setup=setup images:resize
import io

from PIL import Image

from libgm.python import Quarantine


def setup():
    return (640, 640)


def resize(job, size):
    try:
        image = Image.open(io.BytesIO(job.data))
    except OSError as error:
        raise Quarantine(f"no picture: {error}")
    job.extra(width=image.width, height=image.height)
    image.thumbnail(size)
    smaller = io.BytesIO()
    image.convert("RGB").save(smaller, "JPEG")
    return smaller.getvalue()

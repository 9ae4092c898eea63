"""The worker of the queue `photo`; data is a file name in uploads: gm-work --pipe photo -- gm-python photos:make_sizes"""

import io
import json
import os
import warnings

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from libgm.python import Quarantine

SIZES = {"large": 480, "medium": 240, "small": 96}   # pixels of the longer side
KEPT = ExifTags.Base.Make, ExifTags.Base.Model, ExifTags.Base.DateTime   # of EXIF; the place it was taken at is not
Image.MAX_IMAGE_PIXELS = 60_000_000   # more is refused, before anything is unpacked
warnings.simplefilter("error", Image.DecompressionBombWarning)


def make_sizes(job):
    """Three pictures of uploads/NAME, upright and without its location, and what is to be said of it in shown/NAME.json."""
    name, path = job.text, f"uploads/{job.text}"
    if not os.path.getsize(path):
        raise Quarantine("an empty file")
    try:
        with Image.open(path) as photo:
            width, height, exif = photo.width, photo.height, photo.getexif()
            job.extra(width=width, height=height, bytes=os.path.getsize(path))
            upright = ImageOps.exif_transpose(photo)
    except UnidentifiedImageError:
        raise Quarantine("not an image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise Quarantine(str(error)) from None
    except ValueError as error:   # what Pillow says of a PNG whose text does not fit
        raise Quarantine(f"PNG: {error}") from None
    except MemoryError:
        raise Quarantine(f"{width} x {height} pixels take more memory than a worker may have") from None
    kept = Image.Exif()
    kept.update({tag: exif[tag] for tag in KEPT if tag in exif})
    for size, pixels in SIZES.items():
        upright.thumbnail((pixels, pixels))
        write(f"{size}/{name}.jpg", as_jpeg(upright, kept))
    write(f"shown/{name}.json", json.dumps({
        "name": name, "width": width, "height": height, "camera": str(exif.get(ExifTags.Base.Model, "")),
        "turned": exif.get(ExifTags.Base.Orientation, 1) != 1, "placed": ExifTags.IFD.GPSInfo in exif}).encode())


def as_jpeg(picture, exif):
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", exif=exif, quality=85)
    return file.getvalue()


def write(path, data):
    """There whole or not at all, so that to do it twice is to do it once."""
    made = f"tmp/{os.getpid()}"
    with open(made, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(made, path)

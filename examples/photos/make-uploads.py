#!/usr/bin/env python3
"""Fill a folder with uploads: photographs as cameras make them, other image files, and what people and enemies send.

Usage: make-uploads.py FOLDER
"""

import sys
from pathlib import Path

from PIL import ExifTags, Image

EXAMPLES = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(EXAMPLES))

from images import bomb, encoded, slow_jpeg, wordy_png  # noqa: E402

STORED = {   # how a camera that is held so stores what is upright: by orientation, the inverse of what a viewer does
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}


def exif(orientation, camera):
    found = Image.Exif()
    found[ExifTags.Base.Make], found[ExifTags.Base.Model] = camera.split(" ", 1)
    found[ExifTags.Base.DateTime] = "2013:05:02 10:00:00"
    found[ExifTags.Base.Orientation] = orientation
    found.get_ifd(ExifTags.IFD.GPSInfo).update({
        ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSLatitude: (37.0, 46.0, 30.0),
        ExifTags.GPS.GPSLongitudeRef: "W", ExifTags.GPS.GPSLongitude: (122.0, 25.0, 10.0)})
    return found


def seen_through(picture):
    """The picture with a transparent corner."""
    picture = picture.convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, picture.width // 4, picture.height // 4))
    return picture


def uploads(photographs):
    """(file name, content) of each"""
    cameras = "Apple iPhone 5", "Canon EOS 6D", "NIKON D600", "SONY DSC-RX100"
    for number, (name, photo) in enumerate(photographs.items()):
        for orientation in (number % 8 + 1, (number + 3) % 8 + 1, (number + 6) % 8 + 1):
            stored = photo.transpose(STORED[orientation]) if orientation in STORED else photo
            yield (f"{name}-{orientation}.jpg",
                   encoded(stored, "JPEG", quality=90, exif=exif(orientation, cameras[number % len(cameras)])))
    cat, coffee, china, clock = (photographs[name] for name in ("cat", "coffee", "china", "clock"))
    yield "grey.jpg", encoded(cat.convert("L"), "JPEG")
    yield "print.jpg", encoded(coffee.convert("CMYK"), "JPEG")
    yield "progressive.jpg", encoded(china, "JPEG", progressive=True)
    for kind in "png", "webp", "tiff", "bmp":
        yield f"scan.{kind}", encoded(clock, kind.upper())
    yield "transparent.png", encoded(seen_through(cat), "PNG")
    yield "transparent-grey.png", encoded(seen_through(coffee).convert("LA"), "PNG")
    yield "transparent.webp", encoded(seen_through(china), "WEBP")
    yield "drawing.gif", encoded(coffee.quantize(16), "GIF")
    yield "drawing.png", encoded(china.quantize(64), "PNG")
    yield "bad-truncated.jpg", (EXAMPLES / "demo/photos/rocket.jpg").read_bytes()
    yield "bad-bomb.png", bomb(30_000)
    yield "bad-text.png", wordy_png(encoded(cat, "PNG"), 30_000_000)
    yield "bad-notes.jpg", b"Dear Lensmob, where is my picture?\n"
    yield "bad-empty.jpg", b""
    yield "bad-memory.png", encoded(Image.new("RGB", (6000, 6000), "navy"), "PNG")
    yield "bad-slow.jpg", slow_jpeg(2000)


def main(folder):
    Path(folder).mkdir()
    photographs = {}
    for path in sorted((EXAMPLES / "demo/photos").glob("*.jpg")):
        if path.stem != "rocket":
            with Image.open(path) as photo:
                photographs[path.stem] = photo.convert("RGB")
    for name, content in uploads(photographs):
        (Path(folder) / name).write_bytes(content)


if __name__ == "__main__":
    main(*sys.argv[1:])

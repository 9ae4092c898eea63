"""Mail as it comes: the shapes of messages that make-mail.py writes, each a function that makes one.

A shape takes a Post, which has the dice and the pictures, and returns the message's bytes. What it says on the way,
post.has(picture), post.has(picture, bad=why), post.bad(why), post.subject, is the truth that account.py compares with.
"""

from __future__ import annotations

import binascii
import random
from email.headerregistry import Address
from email.message import EmailMessage, Message, MIMEPart
from email.mime.base import MIMEBase
from email.mime.image import MIMEImage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from hashlib import sha256
from pathlib import Path

from images import bomb, encoded, wordy_png
from images import slow_jpeg as slow
from PIL import Image, ImageDraw

SHAPES: dict = {}        # name -> function
HOSTILE: set = set()     # of those, the ones that something cannot be read of
FEW: dict = {}           # of those, how many at most: they are large, or slow on purpose
BIG = 20_000_000         # bytes


def shape(hostile: bool = False, few: int = 0):
    def add(function):
        name = function.__name__
        SHAPES[name] = function
        if hostile:
            HOSTILE.add(name)
        if few:
            FEW[name] = few
        return function
    return add


class Post:
    """What a shape makes a message of: dice from the seed, photographs to cut pictures from, and the truth."""

    def __init__(self, seed: int, photographs: list[Path]):
        self.photographs = []
        for path in photographs:
            with Image.open(path) as photograph:
                self.photographs.append(photograph.convert("RGB"))
        self.seed = seed
        self.shown: list[bytes] = []     # pictures of earlier messages
        self.begin(0)

    def begin(self, number: int) -> None:
        self.number, self.dice = number, random.Random(f"{self.seed}:{number}")
        random.seed(self.dice.random())   # email draws its boundaries from there
        self.images: list[tuple[str, str | None]] = []
        self.why: str | None = None
        self.subject: str | None = f"Pictures, letter {number}"

    # ---- the truth

    def has(self, data: bytes, bad: str | None = None) -> bytes:
        """The message holds this image; bad: why it cannot be read."""
        self.images.append((sha256(data).hexdigest(), bad))
        if not bad and len(data) < BIG:
            self.shown.append(data)
        return data

    def bad(self, why: str) -> None:
        """The message cannot be read at all: what is in it does not count."""
        self.why = why

    # ---- pictures

    def picture(self, kind: str = "JPEG") -> bytes:
        """An image file that no other message has: a cut from a photograph, with a number on it."""
        photograph = self.dice.choice(self.photographs)
        width, height = self.dice.randint(80, 200), self.dice.randint(60, 150)
        left, top = self.dice.randint(0, photograph.width - width), self.dice.randint(0, photograph.height - height)
        cut = photograph.crop((left, top, left + width, top + height))
        ImageDraw.Draw(cut).text((3, 3), f"{self.number}.{len(self.images)}", fill="white")
        return encoded(cut, kind)

    def jpeg(self) -> bytes:
        return self.has(self.picture())

    def png(self) -> bytes:
        return self.has(self.picture("PNG"))

    # ---- messages

    def head(self, message: Message) -> Message:
        """Put the usual headers on it."""
        message["From"] = "Ann Sender <ann@example.org>"
        message["To"] = "Box <box@example.net>"
        message["Date"] = "Thu, 02 May 2013 10:00:00 +0000"
        message["Message-ID"] = f"<{self.seed}.{self.number}@example.org>"
        if self.subject is not None:
            message["Subject"] = self.subject
        return message

    def mixed(self, *parts: Message, kind: str = "mixed", boundary: str | None = None) -> MIMEMultipart:
        return self.head(MIMEMultipart(kind, boundary or f"=-{self.seed}-{self.number}", parts))

    def page(self, *lines: bytes) -> bytes:
        """A message line by line, after the usual headers."""
        return b"\n".join((bytes(self.head(Message())).rstrip(b"\n"), *lines, b""))


def text(words: str = "See the picture.\n", charset: str = "utf-8") -> MIMEText:
    return MIMEText(words, "plain", charset)


def image(data: bytes, kind: str = "jpeg", name: str = "photo.jpg", **headers: str) -> MIMEImage:
    part = MIMEImage(data, kind)
    part.add_header("Content-Disposition", "attachment", filename=name)
    for header, value in headers.items():
        part[header.replace("_", "-")] = value
    return part


def attachment(data: bytes, kind: str, name: str | None = None) -> MIMEBase:
    part = MIMEBase(*kind.split("/"))
    part.set_payload(base64(data))
    part["Content-Transfer-Encoding"] = "base64"
    if name is not None:
        part.add_header("Content-Disposition", "attachment", filename=name)
    return part


def base64(data: bytes, width: int = 57) -> str:
    return "".join(binascii.b2a_base64(data[at:at + width]).decode() for at in range(0, len(data), width))


def uuencoded(data: bytes, name: bytes) -> list[bytes]:
    return [b"begin 644 " + name, *(binascii.b2a_uu(data[at:at + 45]).rstrip(b"\n") for at in range(0, len(data), 45)),
            b"`", b"end"]


def nested(part: Message) -> MIMEBase:
    """part as message/rfc822"""
    holder = MIMEBase("message", "rfc822")
    holder.attach(part)
    return holder


# ---- well made

@shape()
def plain_text(post):
    return bytes(post.head(text("Nothing but words.\n")))


@shape()
def one_attachment(post):
    return bytes(post.mixed(text(), image(post.jpeg())))


@shape()
def several_formats(post):
    parts = [image(post.has(post.picture(kind)), kind.lower(), f"photo.{kind.lower()}")
             for kind in post.dice.sample(("PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG"), 3)]
    return bytes(post.mixed(text(), *parts))


@shape()
def alternative(post):
    return bytes(post.mixed(text(), MIMEText("<p>See <b>nothing</b>.", "html"), kind="alternative"))


@shape()
def inline_by_cid(post):
    message = post.head(EmailMessage())
    message.set_content("See the picture.\n")
    message.add_alternative('<p>See <img src="cid:a@example.org"> and <img src="cid:b@example.org">', subtype="html")
    for cid in "<a@example.org>", "<b@example.org>":
        message.get_payload()[1].add_related(post.png(), "image", "png", cid=cid)
    return bytes(message)


@shape()
def mixed_alternative_related(post):
    message = post.head(EmailMessage())
    message.set_content("See the picture.\n")
    message.add_alternative('<p>See <img src="cid:a@example.org">', subtype="html")
    message.get_payload()[1].add_related(post.jpeg(), "image", "jpeg", cid="<a@example.org>")
    message.add_attachment(post.jpeg(), "image", "jpeg", filename="another.jpg")
    return bytes(message)


@shape()
def forwarded(post):
    inner = MIMEMultipart("mixed", "=-inner", [text(), image(post.jpeg())])
    inner["Subject"] = "The one that is passed on"
    return bytes(post.mixed(text("Fwd.\n"), nested(inner)))


@shape()
def forwarded_twice(post):
    innermost = MIMEMultipart("mixed", "=-2", [text(), image(post.png(), "png", "photo.png")])
    inner = MIMEMultipart("mixed", "=-1", [text("Fwd.\n"), nested(innermost), image(post.jpeg())])
    return bytes(post.mixed(text("Fwd: Fwd.\n"), nested(inner), image(post.jpeg())))


@shape()
def the_same_image_twice(post):
    data = post.jpeg()
    return bytes(post.mixed(text(), image(data, name="a.jpg"), image(data, name="b.jpg")))


@shape()
def an_image_seen_before(post):
    return bytes(post.mixed(text(), image(post.has(post.dice.choice(post.shown or [post.picture()])))))


@shape()
def the_very_same_letter(post):
    """Delivered twice: make-mail.py writes it under two names."""
    return bytes(post.mixed(text(), image(post.jpeg())))


@shape()
def octet_stream(post):
    return bytes(post.mixed(text(), attachment(post.jpeg(), "application/octet-stream", "IMG_0001.JPG")))


@shape()
def format_flowed(post):
    part = text("Lines that \nflow on, \nand one > quoted.\n-- \nAnn\n")
    part.set_param("format", "flowed")
    part.set_param("delsp", "yes")
    return bytes(post.mixed(part, image(post.jpeg())))


@shape()
def odd_charsets(post):
    charset, words = post.dice.choice((
        ("iso-2022-jp", "写真を見てください"), ("koi8-r", "Смотри фотографию"), ("windows-1252", "Voilà, “ici” – 5 €"),
        ("gb2312", "请看照片"), ("euc-kr", "사진을 보세요"), ("iso-8859-8", "ראה תמונה"), ("utf-16", "UTF-16, see?"),
        ("shift_jis", "写真")))
    post.subject = f"{words} {post.number}"
    message = post.mixed(image(post.jpeg()))
    part = MIMEBase("text", "plain", charset=charset)
    part.set_payload(base64(words.encode(charset)))
    part["Content-Transfer-Encoding"] = "base64"
    message.attach(part)
    return bytes(message)


@shape()
def crlf(post):
    return bytes(post.mixed(text(), image(post.jpeg()))).replace(b"\n", b"\r\n")


@shape()
def signed(post):
    return bytes(post.mixed(post_part(post), attachment(post.dice.randbytes(900), "application/pkcs7-signature", "smime.p7s"),
                            kind="signed"))


def post_part(post) -> MIMEMultipart:
    return MIMEMultipart("mixed", "=-signed", [text(), image(post.jpeg())])


@shape()
def bounce(post):
    status = MIMEBase("message", "delivery-status")
    status.set_payload([Message(), Message()])
    status.get_payload()[0]["Reporting-MTA"] = "dns; mx.example.net"
    status.get_payload()[1]["Final-Recipient"] = "rfc822; nobody@example.net"
    returned = MIMEBase("text", "rfc822-headers")
    returned.set_payload("Subject: it came back\n")
    return bytes(post.mixed(text("It could not be delivered.\n"), status, returned, kind="report"))


@shape()
def invitation(post):
    return bytes(post.mixed(text(), MIMEText("BEGIN:VCALENDAR\nEND:VCALENDAR\n", "calendar"), image(post.png(), "png")))


@shape()
def international_file_name(post):
    part = MIMEImage(post.jpeg(), "jpeg")
    part.add_header("Content-Disposition", "attachment", filename=("utf-8", "", "Фото-" + "длинно" * 12 + ".jpg"))
    return bytes(post.mixed(text(), part))


@shape(few=6)
def three_thousand_parts(post):
    head = post.page(b'Content-Type: multipart/mixed; boundary="=-p"', b"")
    part = b"--=-p\nContent-Type: text/plain\n\nOne of many.\n"
    return head + part * 3000 + b"--=-p\n" + bytes(image(post.jpeg())) + b"\n--=-p--\n"


@shape()
def forty_levels(post):
    part = MIMEMultipart("mixed", "=-40", [image(post.jpeg())])
    for level in range(39, 0, -1):
        part = MIMEMultipart("mixed", f"=-{level}", [part])
    return bytes(post.head(part))


@shape(few=2)
def twenty_megabytes_of_archive(post):
    return bytes(post.mixed(text(), attachment(post.dice.randbytes(BIG), "application/zip", "all.zip"), image(post.jpeg())))


@shape(few=2)
def twenty_megabytes_of_image(post):
    side = 2600
    picture = Image.frombytes("RGB", (side, side), post.dice.randbytes(side * side * 3))
    return bytes(post.mixed(text(), image(post.has(encoded(picture, "BMP")), "bmp", "scan.bmp")))


# ---- made by programs that know better, and still to be read

@shape()
def image_by_another_name(post):
    return bytes(post.mixed(text(), image(post.jpeg(), "gif", "photo.gif")))


@shape()
def eight_bits(post):
    data = post.jpeg()
    return (post.page(b"MIME-Version: 1.0", b'Content-Type: multipart/mixed; boundary="=-8"', b"", b"--=-8",
                      b"Content-Type: image/jpeg", b"Content-Transfer-Encoding: binary", b"").rstrip(b"\n")
            + b"\n\n" + data + b"\n--=-8--\n")


@shape()
def image_in_quoted_printable(post):
    part = MIMEBase("image", "png", name="photo.png")
    part.set_payload(binascii.b2a_qp(post.png(), istext=False).decode())
    part["Content-Transfer-Encoding"] = "quoted-printable"
    return bytes(post.mixed(text(), part))


@shape()
def uuencode_in_the_text(post):
    return post.page(b"", b"See below.", b"", *uuencoded(post.jpeg(), b"photo.jpg"), b"", b"Ann")


@shape()
def uuencode_as_encoding(post):
    return post.page(b"MIME-Version: 1.0", b'Content-Type: multipart/mixed; boundary="=-u"', b"", b"--=-u",
                     b"Content-Type: image/jpeg", b"Content-Transfer-Encoding: x-uuencode", b"",
                     *uuencoded(post.jpeg(), b"photo.jpg"), b"--=-u--")


@shape()
def data_url(post):
    url = binascii.b2a_base64(post.png(), newline=False).decode()
    return bytes(post.head(MIMEText(f'<p>See <img alt="it" src="data:image/png;base64,{url}">', "html")))


@shape()
def ragged_base64(post):
    part = MIMEImage(post.jpeg(), "jpeg")
    letters = part.get_payload().replace("\n", "")
    lines = []
    while letters:
        width = post.dice.randint(1, 99)
        lines.append(letters[:width] + post.dice.choice(("", " ", "\t  ")))
        letters = letters[width:]
    part.set_payload("\n".join(lines) + "\n\n")
    return bytes(post.mixed(text(), part))


@shape()
def base64_in_one_line(post):
    part = MIMEImage(post.jpeg(), "jpeg")
    part.set_payload(part.get_payload().replace("\n", "") + "\n")
    return bytes(post.mixed(text(), part))


@shape()
def wrong_charset(post):
    return post.page(b"MIME-Version: 1.0", b"Content-Type: text/plain; charset=us-ascii", b"", b"caf\xe9 \xff\xfe \xc3\xa9")


@shape()
def unknown_charset(post):
    part = MIMEBase("text", "plain", charset="x-klingon")
    part.set_payload("qapla'\n")
    return bytes(post.mixed(part, image(post.jpeg())))


@shape()
def broken_encoded_words(post):
    post.subject = None
    broken = post.dice.choice((b"=?utf-8?b?w6k=w?= =?utf-8?q?=C3?=", b"=?utf-8?b?####?=", b"=?utf-8?q?never ended",
                               b"=?x-klingon?q?qapla?=", b"=?utf-8?x?what?=",
                               b"=?iso-8859-1?q?caf=E9?= and =?utf-8?b?4pi", b"=??q??="))
    return b"Subject: " + broken + b"\nX-Also: " + broken * 3 + b"\n" + bytes(post.mixed(text(), image(post.jpeg())))


@shape()
def raw_eight_bit_headers(post):
    post.subject = None
    return (b"Subject: caf\xe9 \xf0\x9f\x93\xb7\nFrom: \xc4nn <ann@example.org>\n"
            + bytes(post.mixed(text(), image(post.jpeg()))))


@shape()
def no_headers_but_mime(post):
    post.subject = ""
    return bytes(MIMEMultipart("mixed", f"=-{post.seed}-{post.number}", [text(), image(post.jpeg())]))


@shape()
def no_mime_version(post):
    message = post.mixed(text(), image(post.jpeg()))
    del message["MIME-Version"]
    return bytes(message)


@shape()
def a_very_long_header_line(post):
    post.subject = None
    return b"Subject: " + b"very " * 40_000 + b"long\n" + bytes(post.mixed(text(), image(post.jpeg())))


@shape()
def five_thousand_recipients(post):
    people = ",\n ".join(str(Address(f"Person {number}", f"p{number}", "example.com")) for number in range(5000))
    return f"Cc: {people}\n".encode() + bytes(post.mixed(text(), image(post.jpeg())))


@shape()
def line_ends_of_all_kinds(post):
    lines = bytes(post.mixed(text("a\nb\nc\n"), image(post.jpeg()))).split(b"\n")
    ends = b"\r", b"\r\n", b"\n"   # an empty line that ended in \n would melt into a \r before it
    return b"".join(line + post.dice.choice(ends if line else ends[:2]) for line in lines)


@shape()
def nul_bytes(post):
    return bytes(post.mixed(text("before NUL after\n", "us-ascii"), image(post.jpeg()))).replace(b"before NUL", b"before \0\0\0")


@shape()
def broken_quoted_printable(post):
    part = MIMEBase("text", "plain", charset="utf-8")
    part.set_payload("=ZZ =C3 = \nend=\n=")
    part["Content-Transfer-Encoding"] = "quoted-printable"
    return bytes(post.mixed(part, image(post.jpeg())))


@shape()
def boundaries_in_preamble_and_epilogue(post):
    message = post.mixed(text(), image(post.jpeg()), boundary="=-b")
    message.preamble = "This is a message in MIME format.\n--=-b-not\n--=-\n"
    message.epilogue = "\n--=-b\nContent-Type: image/png\n\nnot a part\n"
    return bytes(message)


@shape()
def a_boundary_that_begins_another(post):
    inner = MIMEMultipart("mixed", "=-a-b", [text(), image(post.jpeg())])
    return bytes(post.mixed(inner, image(post.png(), "png"), boundary="=-a"))


@shape()
def empty_parts(post):
    return bytes(post.mixed(MIMEPart(), text(""), attachment(b"", "application/pdf", "empty.pdf"), image(post.jpeg())))


@shape()
def from_line_of_an_mbox(post):
    return b"From ann@example.org Thu May  2 10:00:00 2013\n" + bytes(post.mixed(text(">From here.\n"), image(post.jpeg())))


@shape()
def winmail_dat(post):
    tnef = b"\x78\x9f\x3e\x22" + post.dice.randbytes(2000)
    return bytes(post.mixed(text(), attachment(tnef, "application/ms-tnef", "winmail.dat")))


@shape()
def file_name_with_a_path(post):
    return bytes(post.mixed(text(), image(post.jpeg(), name="../../../etc/passwd; touch $(x)\u202egpj.exe")))


@shape()
def header_names_in_any_case(post):
    message = bytes(post.mixed(text(), image(post.jpeg())))
    return message.replace(b"Content-Type:", b"CONTENT-type:").replace(b"boundary=", b"\n\tBOUNDARY=")


# ---- images that cannot be read, in messages that can

@shape(hostile=True)
def truncated_jpeg(post):
    data = post.picture()
    return bytes(post.mixed(text(), image(post.has(data[:len(data) * 6 // 10], bad="truncated")), image(post.jpeg())))


@shape(hostile=True)
def base64_garbage(post):
    letters = "".join(post.dice.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", k=4000))
    part = MIMEImage(b"", "jpeg")
    part.set_payload(letters + "\n")
    post.has(binascii.a2b_base64(letters), bad="not an image")
    return bytes(post.mixed(text(), part))


@shape(hostile=True)
def an_empty_image(post):
    return bytes(post.mixed(text(), image(post.has(b"", bad="empty")), image(post.jpeg())))


@shape(hostile=True)
def words_in_place_of_an_image(post):
    words = f"This is no picture but number {post.number}.\n".encode()
    return bytes(post.mixed(text(), image(post.has(words, bad="not an image"), "png", "photo.png")))


@shape(hostile=True)
def damaged_png(post):
    data = post.picture("PNG")
    middle = len(data) // 2
    data = data[:middle] + b"\xff" * 40 + data[middle + 40:]
    return bytes(post.mixed(text(), image(post.has(data, bad="checksum"), "png", "photo.png")))


@shape(hostile=True, few=10)
def decompression_bomb(post):
    return bytes(post.mixed(text(), image(post.has(bomb(20_000 + post.number), bad="bomb"), "png", "photo.png")))


@shape(hostile=True, few=10)
def png_with_a_huge_text(post):
    return bytes(post.mixed(text(), image(post.has(wordy_png(post.picture(), 20_000_000), bad="text chunk"), "png", "photo.png")))


@shape(hostile=True, few=1)
def slow_jpeg(post):
    data = slow(1_500 + post.number)
    return bytes(post.mixed(text(), image(post.has(data, bad="too slow")), image(post.jpeg())))


# ---- messages that cannot be read

@shape(hostile=True, few=1)
def an_empty_file(post):
    post.bad("empty")
    return b""


@shape(hostile=True)
def noise(post):
    post.bad("no header")
    return post.dice.randbytes(3000).replace(b":", b";")


@shape(hostile=True)
def cut_short(post):
    message = bytes(post.mixed(text(), image(post.picture())))
    post.bad("truncated")
    return message[:len(message) * post.dice.randint(40, 90) // 100]


@shape(hostile=True)
def no_boundary(post):
    message = bytes(post.mixed(text(), image(post.picture()), boundary="=-gone"))
    post.bad("no boundary")
    return message.replace(b'; boundary="=-gone"', b"")


@shape(hostile=True)
def another_boundary(post):
    message = bytes(post.mixed(text(), image(post.picture()), boundary="=-here"))
    post.bad("boundary not found")
    return message.replace(b'boundary="=-here"', b'boundary="=-there"')


@shape(hostile=True, few=2)
def a_thousand_levels(post):
    post.bad("nested too deeply")
    opening = (b'Content-Type: multipart/mixed; boundary="=-%d"\n\n--=-%d\n' % (level, level) for level in range(1000))
    return post.page(b"".join(opening), b"", b"down here", *(b"--=-%d--" % level for level in reversed(range(1000))))


@shape(hostile=True, few=2)
def twenty_thousand_parts(post):
    post.bad("too many parts")
    part = b"--=-p\nContent-Type: text/plain\n\nOne of very many.\n"
    return post.page(b'Content-Type: multipart/mixed; boundary="=-p"', b"", part * 20_000 + b"--=-p--")


@shape(hostile=True)
def a_fragment(post):
    post.bad("message/partial")
    return post.page(b"MIME-Version: 1.0", b'Content-Type: message/partial; id="x@example.org"; number=2; total=3', b"",
                     base64(post.dice.randbytes(600)).encode())

#!/usr/bin/env python3
"""One page of what became of the uploads: the pictures, what is known of them, and what is in quarantine and why.

Usage: contact-sheet.py DEAD.jsonl BACK.jsonl PAGE.html

To be run in the folder where the pictures are. Both are of gm-dead: DEAD.jsonl what is there now, BACK.jsonl what went back.
"""

import json
import sys
from html import escape
from pathlib import Path
from urllib.parse import quote

PAGE = """<!DOCTYPE html>
<meta charset="utf-8">
<title>Contact sheet</title>
<style>
body {{ font: 14px sans-serif; margin: 2em }}
figure {{ display: inline-block; width: 200px; margin: 0 12px 18px 0; vertical-align: top }}
figure div {{ height: 100px; display: flex; align-items: end }}
figcaption {{ color: #555; font-size: 12px; overflow-wrap: anywhere }}
figcaption b {{ color: black }}
.back img {{ outline: 3px solid #c00; outline-offset: 2px }}
i {{ font-style: normal; background: #eee; padding: 0 .3em }}
table {{ border-collapse: collapse }}
td, th {{ text-align: left; padding: .2em 1em .2em 0; border-bottom: 1px solid #ddd }}
</style>
<h1>{shown} pictures, {back} of them back from the quarantine</h1>
{figures}
<h1>{dead} uploads in quarantine</h1>
<table>
<tr><th>upload<th>reason<th>error<th>attempts
{rows}
</table>
"""


def lines(path):
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


def figure(picture, back):
    name, file = escape(picture["name"]), quote(picture["name"] + ".jpg")
    marks = [mark for mark, wanted in (("turned upright", picture["turned"]), ("location removed", picture["placed"]),
                                       ("came back", back)) if wanted]
    return (f'<figure class="{"back" if back else "first"}"><div><a href="large/{file}">'
            f'<img src="small/{file}" alt="{name}"></a></div>'
            f'<figcaption><b>{name}</b> {picture["width"]} × {picture["height"]} <a href="medium/{file}">medium</a><br>'
            f'{escape(picture["camera"])} {" ".join(f"<i>{mark}</i>" for mark in marks)}</figcaption></figure>')


def row(record):
    return "<tr>" + "".join(f"<td>{escape(str(record[field]))}" for field in ("data", "reason", "error", "attempts"))


def main(dead_path, back_path, page_path):
    pictures = [json.loads(path.read_text("utf-8")) for path in sorted(Path("shown").iterdir())]
    dead, back = lines(dead_path), {record["data"] for record in lines(back_path)}
    came_back = [picture["name"] in back for picture in pictures]
    Path(page_path).write_text(PAGE.format(
        shown=len(pictures), back=sum(came_back), figures="\n".join(map(figure, pictures, came_back)),
        dead=len(dead), rows="\n".join(map(row, dead))), "utf-8")
    print(f"{page_path}: {len(pictures)} pictures, {sum(came_back)} back from the quarantine, {len(dead)} uploads still there")


if __name__ == "__main__":
    main(*sys.argv[1:])

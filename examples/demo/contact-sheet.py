#!/usr/bin/env python3
"""Put the pictures of a folder on one sheet; those that dead.jsonl names are marked.

Usage: contact-sheet.py FOLDER DEAD.JSONL SHEET.JPG
"""

import json
import os
import sys

from PIL import Image, ImageDraw

COLUMNS, CELL, CAPTION, GAP = 4, (240, 180), 18, 12

folder, dead, sheet_path = sys.argv[1:]
with open(dead, encoding="utf-8") as lines:
    errors = {os.path.basename(json.loads(record["data"])["photo"]): record["error"].split(": ")[-1].split(" (")[0]
              for record in map(json.loads, lines)}
names = sorted(os.listdir(folder))
rows = -(-len(names) // COLUMNS)
step = CELL[0] + GAP, CELL[1] + CAPTION + GAP
sheet = Image.new("RGB", (GAP + COLUMNS * step[0], GAP + rows * step[1]), "white")
draw = ImageDraw.Draw(sheet)
for number, name in enumerate(names):
    left, top = GAP + number % COLUMNS * step[0], GAP + number // COLUMNS * step[1]
    with Image.open(os.path.join(folder, name)) as picture:
        picture.thumbnail(CELL)
        sheet.paste(picture, (left + (CELL[0] - picture.width) // 2, top + (CELL[1] - picture.height) // 2))
    back = name in errors
    draw.text((left, top + CELL[1] + 2), f"{name}: {errors[name]}"[:38] if back else name,
              fill="red" if back else "black")
    if back:
        draw.rectangle((left - 3, top - 3, left + CELL[0] + 2, top + CELL[1] + 2), outline="red", width=3)
sheet.save(sheet_path)
print(f"{sheet_path}: {len(names)} pictures, {sum(name in errors for name in names)} back from the quarantine")

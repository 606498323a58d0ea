"""A contact sheet: lines of small pictures with a title each, as one image. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

CELL, GAP, MARGIN, TITLES, HEAD = 112, 8, 28, 190, 92
PAPER, INK, FAINT, FRAME = "#ffffff", "#1c2733", "#6b7885", "#000000"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a sheet."""

    title: str
    note: str
    pictures: Sequence[Image.Image]


def draw(title: str, subtitle: str, lines: Sequence[Line]) -> Image.Image:
    """Return a sheet (RGB): a heading, then for each line its title, its note and its pictures, fitted to cells."""
    columns = max((len(line.pictures) for line in lines), default=1)
    width = max(2 * MARGIN + TITLES + columns * (CELL + GAP) - GAP, 640)
    height = HEAD + max(1, len(lines)) * (CELL + GAP) - GAP + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((MARGIN, 24), title, fill=INK, font=ImageFont.load_default(26))
    pen.text((MARGIN, 58), subtitle, fill=FAINT, font=ImageFont.load_default(15))
    for number, line in enumerate(lines):
        top = HEAD + number * (CELL + GAP)
        pen.text((MARGIN, top + CELL // 2 - 20), _shortened(line.title), fill=INK, font=ImageFont.load_default(18))
        pen.text((MARGIN, top + CELL // 2 + 4), line.note, fill=FAINT, font=ImageFont.load_default(14))
        for column, picture in enumerate(line.pictures):
            left = MARGIN + TITLES + column * (CELL + GAP)
            sheet.paste(_cell(picture), (left, top))
    return sheet


def _cell(picture: Image.Image) -> Image.Image:
    scaled = ImageOps.contain(picture.convert("RGB"), (CELL, CELL), Image.Resampling.LANCZOS)
    return ImageOps.pad(scaled, (CELL, CELL), color=FRAME)


def _shortened(text: str, most: int = 20) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

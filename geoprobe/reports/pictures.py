"""Static pictures in fewer bytes: a page has one for each chart, and each repeats itself."""

from __future__ import annotations

import base64
import heapq
import re
import struct
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from geoprobe.reports.theme import FONT

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PNG = "data:image/png;base64,"
_SVG = "data:image/svg+xml;base64,"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_MOST_COLOURS = 256

_TAG = re.compile(r"<[^<>]*>")
_USELESS = re.compile(
    r' (?:class|role|aria-[a-z]+|pointer-events)="[^"]*"| opacity="1"|'
    + re.escape(f' font-family="{FONT}"')
)
_UNSEEN = re.compile(
    r"<path(?= [^<>]*class=\"(?:back|fore)ground\")(?![^<>]* (?:fill|stroke)=)[^<>]*/>"
)
_LONG = re.compile(r"\d+\.\d{4,}(?![\d.e])")


def lean(picture: str) -> str:
    """The same picture, to the eye, in fewer bytes.

    Args:
        picture: A data URI of a PNG or an SVG; anything else stays as it is.
    """
    if picture.startswith(_PNG):
        image = base64.b64decode(picture.removeprefix(_PNG))
        return _PNG + base64.b64encode(_with_palette(image)).decode()
    if picture.startswith(_SVG):
        text = base64.b64decode(picture.removeprefix(_SVG)).decode()
        return _SVG + base64.b64encode(_plain(text).encode()).decode()
    return picture


def _plain(svg: str) -> str:
    """Without names for scripts, which an image has none of, and with the font said once."""
    svg = _TAG.sub(lambda tag: _LONG.sub(_short, _USELESS.sub("", tag[0])), _UNSEEN.sub("", svg))
    return svg.replace("<svg ", f'<svg font-family="{FONT}" ', 1)


def _short(number: re.Match[str]) -> str:
    """A coordinate to a thousandth of a pixel."""
    return f"{float(number[0]):.3f}".rstrip("0").rstrip(".")


def _with_palette(image: bytes) -> bytes:
    """With a colour a byte: where there are more than 256, those most alike become one.

    Only what the renderer writes is read: 8 bits, four channels, each less its left neighbour.
    """
    chunks = list(_chunks(image))
    (width, height, *kind) = struct.unpack(">IIBBBBB", chunks[0][1])
    data = zlib.decompress(b"".join(content for name, content in chunks if name == b"IDAT"))
    rows = np.frombuffer(data, np.uint8).reshape(height, -1)
    if kind != [8, 6, 0, 0, 0] or (rows[:, 0] != 1).any():
        return image
    pixels = np.cumsum(rows[:, 1:].reshape(height, width, 4), axis=1, dtype=np.uint8)
    if (pixels[..., 3] != 255).any():
        return image
    red, green, blue = (pixels[..., channel].astype(np.uint32) for channel in range(3))
    shown = (red << 16 | green << 8 | blue).reshape(-1)
    # Many times as fast as np.unique, which sorts the pixels.
    counted = pl.Series("colour", shown).value_counts().sort("colour")
    colours, counts = counted["colour"].to_numpy(), counted["count"].to_numpy()
    each = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(np.uint8)
    groups = _groups(each)
    # Of each group the colour that is there most, which is that of an even area.
    palette = np.stack([each[group[counts[group].argmax()]] for group in groups])
    place = np.zeros(1 << 24, np.uint8)
    for number, group in enumerate(groups):
        place[colours[group]] = number
    lines = np.zeros((height, width + 1), np.uint8)  # in front of each line, 0: as it is
    lines[:, 1:] = place[shown].reshape(height, width)
    made = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(lines.tobytes(), 8)),
        (b"IEND", b""),
    ]
    return _SIGNATURE + b"".join(map(_chunk, made))


def _groups(colours: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    """At most 256 groups of colours: the one that spreads most is halved where it does."""

    def measured(group: NDArray[np.int64]) -> tuple[int, int, NDArray[np.int64]]:
        spread = np.ptp(colours[group], axis=0)
        # Each group begins with another colour, so no two tie down to the arrays.
        return -int(spread.max()), int(group[0]), group

    heap = [measured(np.arange(len(colours)))]
    while len(heap) < _MOST_COLOURS and heap[0][0] < 0:
        group = heapq.heappop(heap)[2]
        channel = np.ptp(colours[group], axis=0).argmax()
        values = colours[group, channel].astype(np.int64)
        low = 2 * values <= values.min() + values.max()
        heapq.heappush(heap, measured(group[low]))
        heapq.heappush(heap, measured(group[~low]))
    return [group for _, _, group in sorted(heap, key=lambda found: found[1])]


def _chunks(image: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(_SIGNATURE)
    while at < len(image):
        (size,) = struct.unpack(">I", image[at : at + 4])
        yield image[at + 4 : at + 8], image[at + 8 : at + 8 + size]
        at += 12 + size


def _chunk(named: tuple[bytes, bytes]) -> bytes:
    name, content = named
    end = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + end

"""How charts look, on light and on dark paper, and their static pictures."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from geoprobe.errors import UsageError

VEGA_LITE = "6.4"
MOST_SVG_MARKS = 500
"""Above this many marks a static picture is a PNG: an SVG would be larger and slower."""

FONT = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#7A5195")
"""Okabe and Ito's colours, told apart with any colour vision; the yellow is darkened."""
PHASE_COLOURS = {
    "warmup": "#E69F00",
    "entropy-seeking": "#009E73",
    "compression-seeking": "#8C6BB1",
}
LIGHT = {
    "mark": "#0072B2",
    "ink": "#2b2f33",
    "soft": "#6b7177",
    "grid": "#e4e6e8",
    "line": "#9aa0a6",
}
DARK = {
    "mark": "#5AAEE0",
    "ink": "#e3e5e8",
    "soft": "#a3a9b0",
    "grid": "#33383e",
    "line": "#6f767d",
}


def config(colours: Mapping[str, str]) -> dict[str, Any]:
    """A Vega-Lite config."""
    text = {
        "labelColor": colours["soft"],
        "titleColor": colours["ink"],
        "labelFontSize": 11,
        "titleFontSize": 11.5,
        "titleFontWeight": "normal",
    }
    return {
        "background": None,
        "lineBreak": "\n",
        "font": FONT,
        "view": {"stroke": None},
        "range": {"category": [colours["mark"], *RUN_COLOURS[1:]]},
        "mark": {"color": colours["mark"]},
        "rule": {"color": colours["mark"]},
        "text": {"color": colours["ink"]},
        "axis": {
            **text,
            "domainColor": colours["line"],
            "tickColor": colours["line"],
            "gridColor": colours["grid"],
            "titlePadding": 6,
        },
        "legend": {**text, "symbolSize": 90, "titlePadding": 4},
        "header": {**text, "labelColor": colours["ink"], "labelFontSize": 12},
        "title": {
            "color": colours["soft"],
            "fontSize": 12,
            "fontWeight": "normal",
            "anchor": "start",
            "offset": 8,
        },
    }


def picture(spec: dict[str, Any], *, marks: int, width: int) -> str:
    """A static picture of a chart as a data URI: SVG, or PNG for many marks."""
    if marks > MOST_SVG_MARKS:
        return "data:image/png;base64," + base64.b64encode(png(spec, width, scale=1.5)).decode()
    return "data:image/svg+xml;base64," + base64.b64encode(svg(spec, width).encode()).decode()


def svg(spec: dict[str, Any], width: int) -> str:
    """A chart as SVG that follows the reader's light or dark paper."""
    from vl_convert import vegalite_to_svg

    text: str = vegalite_to_svg(
        _sized(spec, width),
        vl_version=VEGA_LITE,
        config={
            **config(LIGHT),
            "aria": False,
        },  # the caption describes it; labels a mark are large
        allowed_base_urls=[],
    )
    text = _renumbered(text)
    start = text.index(">") + 1
    return f"{text[:start]}<style>{_dark_rules()}</style>{text[start:]}"


def png(spec: dict[str, Any], width: int, *, scale: float = 2) -> bytes:
    """A chart as PNG on white paper."""
    from vl_convert import vegalite_to_png

    image: bytes = vegalite_to_png(
        _sized(spec, width),
        vl_version=VEGA_LITE,
        config={**config(LIGHT), "background": "white"},
        scale=scale,
        allowed_base_urls=[],
    )
    return _deflated(image)


def _deflated(image: bytes) -> bytes:
    """The same PNG packed harder: the renderer packs for speed, and charts are mostly flat."""
    chunks, data, at = [], b"", 8
    while at < len(image):
        (size,) = struct.unpack(">I", image[at : at + 4])
        kind, content = image[at + 4 : at + 8], image[at + 8 : at + 8 + size]
        if kind == b"IDAT":
            data += content
        else:
            chunks.append((kind, content))
        at += 12 + size
    packed = (b"IDAT", zlib.compress(zlib.decompress(data), 9))
    chunks.insert(len(chunks) - 1, packed)  # before IEND
    return image[:8] + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


@cache
def script_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that may stand in an HTML page."""
    from vl_convert import javascript_bundle

    bundle: str = javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    for closing in ("</script", "<!--", "<script"):
        if closing in bundle.lower():
            raise UsageError(
                f"The installed vl-convert-python has {closing!r} in its script bundle, and a "
                "report cannot hold that; install another version (>=1.9,<2)."
            )
    return bundle


def _renumbered(text: str) -> str:
    """Ids counted from 0: the renderer counts them over all charts of a process."""
    known: dict[str, str] = {}

    def anew(match: re.Match[str]) -> str:
        before, kind, old = match.groups()
        return f"{before}{kind}{known.setdefault(kind + old, str(len(known)))}"

    return re.sub(r'( id="|"url\(#)(gradient_|clip)(\d+)(?=["\)])', anew, text)


def _sized(spec: dict[str, Any], width: int) -> dict[str, Any]:
    return {**spec, "width": width} if spec.get("width") == "container" else spec


def _dark_rules() -> str:
    """Turns the light paper's inks into the dark one's wherever the reader asks for dark."""
    rules = "".join(
        f'[{kind}="{LIGHT[name]}"]{{{kind}:{DARK[name]}}}'
        for name in LIGHT
        for kind in ("fill", "stroke")
    )
    return f"@media (prefers-color-scheme:dark){{{rules}}}"

"""How charts look, on light and on dark paper, and their static pictures."""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
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


_WORD = re.compile(r"\w+")
_SHAPE = re.compile(r"<(?:path|rect|line|circle) [^<>]*/>")
_HIDDEN = re.compile(r'<text [^<>]* opacity="0"[^<>]*>[^<>]*</text>')
"""Labels that gave way to others."""


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
        image = _rastered(spec, width, 1.5)
        return "data:image/png;base64," + base64.b64encode(image).decode()
    return "data:image/svg+xml;base64," + base64.b64encode(svg(spec, width).encode()).decode()


def svg(spec: dict[str, Any], width: int) -> str:
    """A chart as SVG that follows the reader's light or dark paper."""
    text = _renumbered(_drawn(spec, width, config(LIGHT)))
    start = text.index(">") + 1
    return f"{text[:start]}<style>{_dark_rules()}</style>{text[start:]}"


def png(spec: dict[str, Any], width: int, *, scale: float = 2) -> bytes:
    """A chart as PNG on white paper."""
    return _deflated(_rastered(spec, width, scale))


def _rastered(spec: dict[str, Any], width: int, scale: float) -> bytes:
    from vl_convert import svg_to_png

    text = _drawn(spec, width, {**config(LIGHT), "background": "white"})
    text = _SHAPE.sub(_without_layer, _HIDDEN.sub("", text))
    image: bytes = svg_to_png(text, scale=scale)
    return image


def _drawn(spec: dict[str, Any], width: int, colours: dict[str, Any]) -> str:
    from vl_convert import vegalite_to_svg

    text: str = vegalite_to_svg(
        _seen(spec) | ({"width": width} if spec.get("width") == "container" else {}),
        vl_version=VEGA_LITE,
        config={**colours, "aria": False},  # the caption describes it; labels a mark are large
        allowed_base_urls=[],
    )
    return text


def _seen(spec: dict[str, Any]) -> dict[str, Any]:
    """A specification without what no picture shows: tooltips, and columns that it never names.

    Fields of tooltips would group what a chart counts or sums, but no chart leaves that to Vega.
    """
    own = {name: part for name, part in spec.items() if name != "datasets"}
    seen: dict[str, Any] = _without_tooltips(own)
    named = set(_words(seen))
    seen["datasets"] = {}
    for name, rows in spec.get("datasets", {}).items():
        columns = dict.fromkeys(column for row in rows for column in row)
        kept = {column for column in columns if named.issuperset(_words(column))}
        seen["datasets"][name] = [{k: v for k, v in row.items() if k in kept} for row in rows]
    return seen


def _without_tooltips(part: Any) -> Any:
    if isinstance(part, dict):
        return {k: _without_tooltips(value) for k, value in part.items() if k != "tooltip"}
    return [_without_tooltips(value) for value in part] if isinstance(part, list) else part


def _words(part: Any) -> Iterator[str]:
    """All words of all texts, those of expressions among them."""
    if isinstance(part, str):
        yield from _WORD.findall(part)
    elif isinstance(part, dict | list):
        for inner in part.values() if isinstance(part, dict) else part:
            yield from _words(inner)


def _without_layer(shape: re.Match[str]) -> str:
    """A shape that is only filled, or only drawn round, with the opacity of just that.

    Of what has an opacity as a whole the renderer makes a layer, which takes long.
    """
    tag = shape[0]
    kinds = [kind for kind in ("fill", "stroke") if f' {kind}="' in tag]
    if len(kinds) != 1 or "-opacity=" in tag:
        return tag
    return tag.replace(' opacity="', f' {kinds[0]}-opacity="')


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


def _dark_rules() -> str:
    """Turns the light paper's inks into the dark one's wherever the reader asks for dark."""
    rules = "".join(
        f'[{kind}="{LIGHT[name]}"]{{{kind}:{DARK[name]}}}'
        for name in LIGHT
        for kind in ("fill", "stroke")
    )
    return f"@media (prefers-color-scheme:dark){{{rules}}}"

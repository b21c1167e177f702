"""Text, symbols and numbers as LaTeX has them. Names are hostile: they are set as they are read."""

from __future__ import annotations

import math
import re

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "`": r"\textasciigrave{}",
    # Behind \\ and \midrule these two would be read as their argument.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    # Two of these in a row become one sign.
    "-": "-{}",
    "'": "'{}",
    "?": "?{}",
    "!": "!{}",
}
_LETTERS = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ι": "iota",
    "κ": "kappa", "λ": "lambda", "μ": "mu", "ρ": "rho", "σ": "sigma", "τ": "tau",
    "φ": "phi", "ψ": "psi", "ω": "omega", "Δ": "Delta", "Λ": "Lambda", "Σ": "Sigma",
    "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
_SIGNS = {"±": "pm", "×": "times", "≤": "le", "≥": "ge", "≈": "approx", "∞": "infty", **_LETTERS}
_POWERS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-", strict=True))
_INDICES = dict(zip("₀₁₂₃₄₅₆₇₈₉₋", "0123456789-", strict=True))
_NAMES = {"alpha", "beta", "gamma", "eps", "kappa", "lambda", "mu", "psi", "rho", "sigma", "tau"}
"""Words that stand for letters in a symbol of a card."""
_PIECES = re.compile(r"[_^](?:-?\w+?(?=[_^]|\b)|-)|[A-Za-z]+|\d+|\s+|.", re.DOTALL)

SIGNIFICANT = 4
"""Digits of a value that has no standard error."""
_LARGEST, _SMALLEST = 1e5, 1e-4
"""Beyond these a number is written with a power of ten."""
_TWO_DIGITS = 1.95
"""An error that begins with less is given to two digits: the next digit is a large part of it."""
_NEGLIGIBLE = 1e-6
"""An error so far below the value that the value is exact in a table."""


def clean(text: str) -> str:
    """Text on one line, without control and direction marks."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(str(text).split()))


def escape(text: str) -> str:
    """Any text, set as it is read."""
    return _escaped(clean(text))


def _escaped(shown: str) -> str:
    out = []
    for place, c in enumerate(shown):
        if c in "-'?!" and shown[place + 1 : place + 2] not in ("-", "'", "`"):
            out.append(c)  # nothing follows that it would join
        elif c in _SIGNS:
            out.append(f"$\\{_SIGNS[c]}$")
        elif c in _POWERS:
            out.append(f"$^{{{_POWERS[c]}}}$")
        elif c in _INDICES:
            out.append(f"$_{{{_INDICES[c]}}}$")
        else:
            out.append(_ESCAPES.get(c, c))
    return "".join(out)


def comment(text: str) -> str:
    """Lines of a comment, which nothing in the text can leave."""
    return f"% {clean(text)}"


def symbol(text: str) -> str:
    r"""The symbol of a card: Greek letters, indices and powers set as such.

    `alpha_k` gives `$\alpha_{k}$`, `RankMe_-k` gives `RankMe$_{-k}$`.
    """
    out = ""
    before = ""
    for piece in _PIECES.findall(clean(text)):
        if piece[0] in "_^" and len(piece) > 1:
            out += f"${piece[0]}{{{_inner(piece[1:])}}}$"
        elif piece in _NAMES and not before.isalnum():
            out += f"$\\{_letter(piece)}$"
        else:
            out += _escaped(piece)
        before = piece[-1]
    return re.sub(r"(?<!\\)\$(?<!\\)\$", "", out)  # math that touches math is one


def _inner(name: str) -> str:
    """An index or a power: a Greek letter, a sign and letters, or a word."""
    if name in _NAMES:
        return f"\\{_letter(name)}"
    sign, word = ("-", name[1:]) if name.startswith("-") else ("", name)
    word = word.replace("_", r"\_")
    return sign + (word if len(word) == 1 or word.isdigit() else f"\\mathrm{{{word}}}")


def _letter(name: str) -> str:
    return "epsilon" if name == "eps" else name


def number(value: float | None, stderr: float | None) -> str | None:
    r"""A value and its standard error in math mode, with the digits that the error warrants.

    Args:
        value: The value; None gives None.
        stderr: Its standard error, if there is one.

    Returns:
        `$12.3 \pm 0.4$`, `$576$`, `$(1.23 \pm 0.02) \times 10^{6}$`.
    """
    if value is None:
        return None
    if not stderr:
        return f"${_alone(value, SIGNIFICANT)}$"
    if abs(value) * _NEGLIGIBLE > stderr:
        return f"${_alone(value, 7)} \\pm {_alone(stderr, 1)}$"
    size = math.floor(math.log10(stderr))
    decimals = -size + (stderr / 10.0**size < _TWO_DIGITS)
    largest = max(abs(value), stderr)
    if largest >= _LARGEST or largest < _SMALLEST or decimals < -1:
        power = math.floor(math.log10(largest))
        scale = 10.0**power
        shown = [_fixed(v / scale, max(0, decimals + power)) for v in (value, stderr)]
        return f"$({shown[0]} \\pm {shown[1]}) \\times 10^{{{power}}}$"
    return f"${_fixed(value, decimals)} \\pm {_fixed(stderr, decimals)}$"


def _alone(value: float, digits: int) -> str:
    """A number without an error, in math mode."""
    if value == 0:
        return "0"
    if value == round(value) and abs(value) < 10 * _LARGEST:
        return f"{value:.0f}"
    power = math.floor(math.log10(abs(value)))
    if not _SMALLEST <= abs(value) < _LARGEST:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa} \\times 10^{{{int(exponent)}}}"
    return _fixed(value, max(0, digits - 1 - power))


def _fixed(value: float, decimals: int) -> str:
    """So many decimals; fewer than none rounds to tens. Zero has no sign."""
    rounded = round(value, decimals)
    return f"{rounded + 0.0:.{max(0, decimals)}f}"

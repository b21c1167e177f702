"""What other packages call the places that autoencoders are trained on, and geoprobe's sites."""

from __future__ import annotations

import re

_NORMED_OUTPUTS = re.compile(r"gemma-?[23]|olmo-?[23]", re.IGNORECASE)
"""Families with norms behind attention and MLP, where TransformerLens's outputs are behind them."""

_NUMBER = r"(?P<n>[0-9]{1,4})"

_HOOKS = (
    ("blocks.{n}.hook_resid_post", "block.{n}"),
    ("blocks.0.hook_resid_pre", "embed"),
    ("blocks.{n}.hook_attn_out", "attention.{n}"),
    ("blocks.{n}.hook_mlp_out", "mlp.out.{n}"),
    ("blocks.{n}.ln2.hook_normalized", "mlp.in.{n}"),
    ("blocks.{n}.mlp.hook_post", "neurons.{n}"),
    ("ln_final.hook_normalized", "final"),
)
"""Hook points of TransformerLens, which SAELens names sites by, and sites."""

_BEHIND_NORMS = {"attention.{n}": None, "mlp.out.{n}": "mlp.add.{n}"}
"""What the outputs are in families that have norms behind them; there is no site for attention."""

_MODULE = r"(?:(?:model|transformer|gpt_neox|backbone|decoder|language_model)\.)*"
_BLOCK = rf"{_MODULE}(?:layers|h)\.{_NUMBER}"

_MODULES = (
    (_BLOCK, "block.{n}"),
    (rf"{_BLOCK}\.(?:mlp|feed_forward)", "mlp.out.{n}"),
    (rf"{_BLOCK}\.(?:self_attn|attn|attention)", "attention.{n}"),
    (rf"{_MODULE}(?:norm|ln_f|final_layer_norm|final_layernorm)", "final"),
    (rf"{_MODULE}(?:embed_tokens|embed_in)", "embed"),
    (rf"resid_post(?:_layer_?{_NUMBER})?", "block.{n}"),
    (rf"mlp_out(?:_layer_?{_NUMBER})?", "mlp.out.{n}"),
    (rf"(?:attention|attn)_out(?:_layer_?{_NUMBER})?", "attention.{n}"),
)
"""Paths of modules of transformers, whose outputs are meant, and dictionary_learning's names."""


def site_of(name: str, model: str = "", layer: int | None = None) -> str | None:
    """The site that another package's name stands for.

    Args:
        name: A hook point of TransformerLens, the path of a module, or a name that
            dictionary_learning's training script gives (`resid_post_layer_3`).
        model: The model's name, since hooks of the same name are elsewhere in some families.
        layer: The layer, where the name does not say.

    Returns:
        The site, `block.3` or the like; None where there is none or the name is unknown.
    """
    if match := re.fullmatch(rf"blocks\.{_NUMBER}\.hook_resid_pre", name):
        n = int(match["n"])
        return f"block.{n - 1}" if n else "embed"
    for hook, site in _HOOKS:
        if match := re.fullmatch(re.escape(hook).replace(r"\{n\}", _NUMBER), name):
            return _numbered(_behind(site, model), match, None)
    for pattern, site in _MODULES:
        if match := re.fullmatch(pattern, name):
            return _numbered(site, match, layer)
    return None


def hook_of(site: str, model: str = "") -> str | None:
    """TransformerLens's hook point of a site; None where it has none.

    Args:
        site: A site, `block.3` or the like.
        model: The model's name, as in `site_of`.
    """
    for hook, name in _HOOKS:
        here = _behind(name, model)
        if here and (match := re.fullmatch(re.escape(here).replace(r"\{n\}", _NUMBER), site)):
            return _numbered(hook, match, None)
    return None


def _behind(site: str, model: str) -> str | None:
    return _BEHIND_NORMS.get(site, site) if _NORMED_OUTPUTS.search(model) else site


def _numbered(site: str | None, match: re.Match[str], layer: int | None) -> str | None:
    if site is None or "{n}" not in site:
        return site
    n = layer if match["n"] is None else int(match["n"])
    return None if n is None else site.format(n=n)

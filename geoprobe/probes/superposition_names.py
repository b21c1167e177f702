"""Which matrices of a model are measured: by the words for its parts, and by parameters' names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import torch
from transformers.pytorch_utils import Conv1D

from geoprobe.errors import UsageError
from geoprobe.models.layout import Layout, kind_of
from geoprobe.models.weights import shown

if TYPE_CHECKING:
    from torch import Tensor, nn

    from geoprobe.models.capture import Capture

KINDS = ("embedding", "unembedding", "mlp.in", "mlp.out")
"""Words for the matrices of a language model, and what is measured where none are named."""

INPUTS = ("mlp.in", "mlp.gate", "mlp.up")
"""Kinds of sites whose rows are the input weights of neurons; `mlp.in` is the word for all."""

_TRANSPOSED = ".T"


@dataclass(frozen=True)
class Named:
    """A matrix that is measured.

    Attributes:
        site: What its readings are called.
        weight: The parameter, features in rows (n, m).
        partner: The output weights of the same neurons, where its rows are input weights.
    """

    site: str
    weight: Tensor
    partner: Tensor | None = None


@dataclass
class Chosen:
    """The matrices of a model that are measured.

    Attributes:
        matrices: Each once.
        tied: Pairs of names of one matrix, of which the first is measured.
        missing: Words to why the model has no such matrices.
    """

    matrices: list[Named] = field(default_factory=list)
    tied: list[tuple[str, str]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def weight_sites(layout: Layout) -> dict[str, tuple[int, int]]:
    """The matrices that a layout promises: site to shape (n, m), in order of depth."""
    found: dict[str, tuple[int, int]] = {}
    if layout.item is not None:
        return found
    width = layout.width
    if layout.vocabulary:
        found["embedding"] = (layout.vocabulary, width)
    for i in range(layout.depth):
        gated = f"mlp.gate.{i}" in layout.taps
        for kind in ("mlp.gate", "mlp.up"):
            if (tap := f"{kind}.{i}") in layout.taps:
                found[tap if gated else f"mlp.in.{i}"] = (layout.width_of(tap), width)
        if (tap := f"neurons.{i}") in layout.taps:
            found[f"mlp.out.{i}"] = (layout.width_of(tap), width)
    if layout.head is not None and layout.classifier is None:
        found["unembedding"] = (layout.vocabulary, width)
    return found


def missing_kinds(layout: Layout) -> dict[str, str]:
    """Words to why a model has no such matrices."""
    known = {kind_of(site) for site in weight_sites(layout)}
    found = {}
    if layout.item is not None:
        why = "a network of --factory has no layout that says which of its weights they are"
        return dict.fromkeys((*KINDS, *INPUTS[1:]), why)
    if "embedding" not in known:
        found["embedding"] = "this model reads no tokens"
    if "unembedding" not in known:
        found["unembedding"] = layout.missing.get("logits", "its head is a classifier")
    if "mlp.out" not in known:
        why = layout.missing.get("neurons", "its blocks have no MLP")
        found |= dict.fromkeys((*INPUTS, "mlp.out"), why)
    elif "mlp.gate" not in known:
        why = layout.missing.get("mlp.gate", "its MLP has no gate")
        found |= dict.fromkeys(INPUTS[1:], f"{why}: mlp.in is what there is")
    return found


def check_names(names: Sequence[str], layout: Layout) -> None:
    """Finds mistakes that the layout alone shows, before anything is fed.

    Raises:
        UsageError: There is no such kind of matrix, or no such block.
    """
    missing, sites = missing_kinds(layout), weight_sites(layout)
    for name in names:
        word = name.removesuffix(_TRANSPOSED)
        numbered = re.fullmatch(r"(mlp\.\w+)\.\d+", word)
        if (kind := numbered[1] if numbered else word) in missing:
            raise UsageError(
                f"--weights {shown(name)}: this {layout.family} model has no such matrices, as "
                f"{missing[kind]}; leave it out, or name parameters."
            )
        is_name = "*" in word or word in sites or word in (*KINDS, *INPUTS)
        # In a family of the table every parameter lies within a module.
        if not is_name and (numbered or ("." not in word and layout.item is None)):
            raise _unknown(name, layout, [*KINDS, *INPUTS[1:], *sites])


def choose(
    capture: Capture, names: Sequence[str], blocks: Collection[int], *, named: bool = True
) -> Chosen:
    """The matrices of a model.

    Args:
        capture: The model.
        names: Words, sites, names of parameters, globs of either; `.T` takes columns as features.
        blocks: Blocks that words and globs stand for.
        named: Whether they were asked for, so that what is missing is a mistake.

    Raises:
        UsageError: A name is not that of a matrix.
    """
    layout = capture.layout
    found = Chosen(missing=missing_kinds(layout))
    sites = _matrices(capture, found.missing)
    parameters = dict(capture.model.named_parameters(remove_duplicate=False))
    if not names:
        names = KINDS if layout.item is None else _linear(capture.model)
        named = False
    seen: dict[tuple[Any, ...], str] = {}
    for name in names:
        transposed = name not in parameters and name.endswith(_TRANSPOSED)
        word = name.removesuffix(_TRANSPOSED) if transposed else name
        here = [s for s in sites if kind_of(s) == s or int(s.rsplit(".", 1)[1]) in blocks]
        labels = _matching(word, here, sites, parameters)
        if not labels:
            if word in found.missing:
                if not named:
                    continue
                raise UsageError(
                    f"--weights {shown(name)}: this {layout.family} model has no such matrices, as "
                    f"{found.missing[word]}; leave it out, or name parameters."
                )
            if word in (*KINDS, *INPUTS):
                continue  # no block of the chosen ones has it
            raise _unknown(name, layout, [*KINDS, *sites, *parameters])
        for label in labels:
            site = label + _TRANSPOSED if transposed else label
            weight = sites.get(label, parameters.get(label))
            assert weight is not None
            _check_matrix(weight, name, label)
            weight = weight.T if transposed else weight
            key = (weight.device, weight.data_ptr(), tuple(weight.shape), weight.stride())
            if key in seen:
                if seen[key] != site:
                    found.tied.append((seen[key], site))
                continue
            seen[key] = site
            partner = None
            if not transposed and label in sites and kind_of(label) in INPUTS:
                partner = sites.get(f"mlp.out.{label.rsplit('.', 1)[1]}")
            found.matrices.append(Named(site, weight, partner))
    return found


def _matching(
    word: str,
    here: Sequence[str],
    sites: Mapping[str, Tensor],
    parameters: Mapping[str, Tensor],
) -> list[str]:
    """Names of matrices that a word stands for; of a glob the sites, or else the parameters."""
    if word in sites or word in parameters:
        return [word]
    kinds = INPUTS if word == INPUTS[0] else (word,)
    if found := [site for site in here if kind_of(site) in kinds]:
        return found
    if "*" not in word:
        return []
    return [site for site in here if fnmatchcase(site, word)] or [
        name for name, p in parameters.items() if p.ndim == 2 and fnmatchcase(name, word)
    ]


def _check_matrix(weight: Tensor, name: str, label: str) -> None:
    what = f"--weights {shown(name)}" if name == label else f"--weights {shown(name)} ({label})"
    if weight.is_meta:
        raise UsageError(
            f"{what}: its numbers are not in memory (offloaded, or on no device); measure it where "
            "the model fits, without --device-map."
        )
    if weight.ndim != 2 or not weight.is_floating_point():
        raise UsageError(
            f"{what}: a tensor of shape {tuple(weight.shape)} and type {weight.dtype} is no matrix "
            "of numbers whose rows could be features; name another."
        )


def _unknown(name: str, layout: Layout, known: Sequence[str]) -> UsageError:
    near = get_close_matches(name.removesuffix(_TRANSPOSED), known, n=3, cutoff=0.5)
    hint = f"Did you mean {', '.join(near)}?" if near else f"Known are {', '.join(KINDS)}, "
    if not near:
        hint += f"and its parameters, as {known[-1]}."
    return UsageError(
        f"--weights {shown(name)}: this {layout.family} model has no weights of that name. {hint}"
    )


def _matrices(capture: Capture, missing: dict[str, str]) -> dict[str, Tensor]:
    """Site to matrix with features in rows; what turns out not to be there is put into `missing`.

    A module's weights may be packed by a quantisation, and a head may be no linear map.
    """
    layout = capture.layout
    found: dict[str, Tensor] = {}
    for site in weight_sites(layout):
        kind = kind_of(site)
        weight: Tensor | None = None
        why = "its weights are no matrix of numbers"
        if site == "embedding":
            backbone: Any = capture.model.get_submodule(layout.backbone)
            weight = getattr(backbone.get_input_embeddings(), "weight", None)
        elif site == "unembedding":
            try:
                weight = capture.rows()[0]
            except UsageError as error:
                why = str(error)
        else:
            block = site.rsplit(".", 1)[1]
            tap = {"mlp.in": f"mlp.up.{block}", "mlp.out": f"neurons.{block}"}.get(kind, site)
            weight = _neurons(capture, tap)
        if weight is None or weight.ndim != 2 or not weight.is_floating_point() or weight.is_meta:
            if weight is not None and weight.is_meta:
                why = "its weights are not in memory"
            missing.setdefault(kind, why)
            continue
        found[site] = weight
    return found


def _neurons(capture: Capture, site: str) -> Tensor | None:
    """The weights that read (`mlp.up`, `mlp.gate`) or write (`neurons`) a neuron a row."""
    tap = capture.layout.taps[site]
    module = capture.backbone.get_submodule(tap.module)
    weight: Tensor | None = getattr(module, "weight", None)
    if weight is None or weight.ndim != 2:
        return None
    # Linear keeps (outputs, inputs), Conv1D (inputs, outputs); neurons are inputs of the last map.
    if isinstance(module, Conv1D) != (kind_of(site) == "neurons"):
        weight = weight.T
    return weight if tap.half is None else weight.chunk(2)[tap.half]


def _linear(model: nn.Module) -> list[str]:
    """Parameters of all linear maps of a network that is in no table."""
    return [
        f"{path}.weight" if path else "weight"
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]

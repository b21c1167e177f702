"""A model's layout: the places that geoprobe calls sites, found by the table of families.

A site has the same name in every family: `embed` (the input of block 0), `block.3` (the residual
stream after block 3), `final` (after the final norm), `attention.3` and `mlp.out.3` (what attention
and MLP give, before any norm and the sum), `mlp.in.3` (what the MLP is given), `mlp.gate.3` and
`mlp.up.3` (before the activation), `mlp.act.3` (the gate's activation), `neurons.3` (the input of
the MLP's down-projection), `mlp.add.3` (`mlp.out.3` behind its norm, in families that have one),
`penultimate` (what a classifier's last linear map is given), `logits`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from geoprobe.errors import UsageError
from geoprobe.models.families import TEXT, Experts, Family, Mlp, Reads, row_of

if TYPE_CHECKING:
    from torch import Tensor, nn


RESIDUAL, INSIDE = (
    ("embed", "block", "final"),
    (
        "attention",
        "mlp.in",
        "mlp.gate",
        "mlp.act",
        "mlp.up",
        "neurons",
        "mlp.out",
        "mlp.add",
    ),
)
"""Kinds of sites: the residual stream, measured by default, and what blocks do in between."""

_NO_GATE = "its MLP has no gate"


@dataclass(frozen=True)
class Tap:
    """Where to read a site: the input or the output of a module.

    Attributes:
        module: Path from the backbone (from the model for `logits`).
        side: `input` (first positional argument) or `output` (first element of a tuple).
        width: Size of the last dimension of what is read.
        half: 0 or 1 where the site is the first or second half of it; else None.
        features: Whether features are its last dimension, or come before positions as channels do.
    """

    module: str
    side: Literal["input", "output"]
    width: int
    half: int | None = None
    features: Literal["first", "last"] = "last"


PENULTIMATE = "penultimate"
"""The site in front of a classifier's last linear map."""

_CLASSIFIES = ("ForSequenceClassification", "ForImageClassification")
"""How transformers' classes end that put a classifier on a backbone."""


@dataclass(frozen=True)
class Classifier:
    """The last linear map of a classifier.

    Attributes:
        module: Its path in the model.
        outputs: Number of classes.
        names: What the config calls them, in order; None where there is no config.
        pad_id: Token id that a decoder's classifier takes for padding wherever it stands.
    """

    module: str
    outputs: int
    names: tuple[str, ...] | None = None
    pad_id: int | None = None


@dataclass(frozen=True)
class Layout:
    """What a loaded model has.

    Attributes:
        family: The `model_type` of its config.
        depth: Number of blocks L.
        width: Width d of the residual stream.
        vocabulary: Number of token ids; 0 where none are read.
        positions: Tokens that a sequence may have, as the config says; None where it does not.
        learned_positions: Whether more of them are an error rather than an extrapolation.
        bidirectional: Whether a token sees those after it.
        taps: Site name to where it is read.
        backbone: Path of the backbone in the model; empty when the model is a bare backbone.
        head: Path of the head in the model, or None.
        after: Path, in the backbone, of what lies between the last site and the last hidden state.
        missing: Site, or kind of site, to the reason why the family does not have it.
        reads: What its backbone is given.
        default: Sites that are measured where none are named; None is the residual stream.
        item: One item of what a network that is in no table is fed (1, ...).
        classifier: What maps the site `penultimate` to classes; None where nothing does.
    """

    family: str
    depth: int
    width: int
    vocabulary: int
    positions: int | None
    learned_positions: bool
    bidirectional: bool
    taps: Mapping[str, Tap]
    backbone: str
    head: str | None
    after: str | None
    missing: Mapping[str, str]
    reads: Reads = TEXT
    default: tuple[str, ...] | None = None
    item: Tensor | None = field(default=None, compare=False)
    classifier: Classifier | None = None

    @property
    def root(self) -> str:
        """Path of the module that is run and that taps are relative to.

        The backbone, so that a head costs nothing; of a classifier the model, as what its last map
        is given may be made behind the backbone.
        """
        return self.backbone if self.classifier is None else ""

    @property
    def sites(self) -> tuple[str, ...]:
        """Sites measured by default: the residual stream, in execution order."""
        if self.default is not None:
            return self.default
        return tuple(site for site in self.taps if kind_of(site) in RESIDUAL)

    def width_of(self, site: str) -> int:
        """Number of dimensions of a site."""
        tap = self.taps[site]
        return tap.width if tap.half is None else tap.width // 2

    def select(self, *, layers: str | None = None, sites: str | None = None) -> tuple[str, ...]:
        """Resolves `--layers` and `--sites` to site names in execution order.

        Args:
            layers: Comma-separated block indices, negative from the end, and ranges `a:b:step`;
                `embed` and `final` are then left out unless `sites` names them.
            sites: Comma-separated site names; a kind of site (`block`, `neurons`) means it in every
                block, or in the blocks that `layers` names.

        Raises:
            UsageError: A site or a layer that this model does not have.
        """
        if layers is None and sites is None:
            return self.sites
        if layers is not None and not self.depth:
            raise UsageError(
                f"--layers {layers}: it counts transformer blocks, and this network has no layout "
                "that says which they are; name modules with --sites."
            )
        blocks = [i for item in _items(layers) for i in _indices(item, self.depth)]
        wanted: set[str] = set()
        kinds = {kind_of(site) for site in self.taps}
        several = False
        for item in _items(sites):
            if item in self.taps:
                wanted.add(item)
            elif "*" in item and (matching := fnmatch.filter(self.taps, item)):
                wanted.update(matching)
            elif item in kinds:
                several = True
                here = blocks if layers is not None else range(self.depth)
                wanted.update(s for i in here if (s := f"{item}.{i}") in self.taps)
            else:
                why = self.missing.get(
                    item, self.missing.get(kind_of(item), f"it has {_abbreviated(self.taps)}")
                )
                raise UsageError(
                    f"--sites {item}: this {self.family} model has no such site; {why}."
                )
        if not several and layers is not None:
            wanted.update(f"block.{i}" for i in blocks)
        return tuple(site for site in self.taps if site in wanted)


def kind_of(site: str) -> str:
    """`neurons` of `neurons.3`; a site without a number is its own kind."""
    return re.sub(r"\.\d+$", "", site)


def _items(text: str | None) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] if text else []


def _indices(item: str, depth: int) -> Sequence[int]:
    try:
        if ":" in item:
            parts = [int(p) if p else None for p in item.split(":")]
            found: Sequence[int] = range(depth)[slice(*parts)]
            if not found:
                raise ValueError
            return found
        index = int(item)
    except (ValueError, TypeError):
        raise UsageError(
            f"--layers {item}: not a layer of this model; give blocks from 0 to {depth - 1}, "
            "negative ones from the end, or ranges such as 0:8 or ::4."
        ) from None
    if not -depth <= index < depth:
        raise UsageError(f"--layers {item}: this model's blocks are numbered 0 to {depth - 1}.")
    return [index % depth]


def _abbreviated(sites: Iterable[str]) -> str:
    kinds: dict[str, list[str]] = {}
    for site in sites:
        kinds.setdefault(kind_of(site), []).append(site)
    return ", ".join(
        few[0] if len(few) == 1 else f"{few[0]} to {few[-1].removeprefix(kind + '.')}"
        for kind, few in kinds.items()
    )


def submodule(root: nn.Module, path: str) -> nn.Module | None:
    """The module at `path`; alternatives are separated by `|`, and None means none of them."""
    for option in path.split("|"):
        try:
            return root.get_submodule(option)
        except AttributeError:
            continue
    return None


def first_path(root: nn.Module, path: str) -> str | None:
    """The first of the `|`-separated paths that exists in `root`."""
    return next((p for p in path.split("|") if submodule(root, p) is not None), None)


def find_layout(model: nn.Module) -> Layout:
    """Finds the sites of a transformers model from the layout table.

    Args:
        model: A model with its head, or its bare backbone; on the meta device is enough.

    Raises:
        UsageError: The family is not in the table, or the module paths of its row do not exist.
    """
    config: Any = getattr(model, "config", None)
    row = row_of(getattr(config, "model_type", None))
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    backbone_path = first_path(model, row.backbone) or ""
    backbone = model.get_submodule(backbone_path)
    blocks = submodule(backbone, row.blocks)
    if blocks is None:
        raise UsageError(
            f"The layout of {config.model_type!r} has blocks at {row.blocks!r}; this model has "
            "none there."
        )
    width = int(text.hidden_size)
    taps = {"embed": Tap(f"{row.blocks}.0", "input", width)}
    missing: dict[str, str] = {}
    for i, block in enumerate(blocks.children()):
        taps |= _inside(row, block, i, f"{row.blocks}.{i}", width, missing)
        taps[f"block.{i}"] = Tap(f"{row.blocks}.{i}", "output", width)
    if row.final is None or submodule(backbone, row.final) is None:
        missing["final"] = "this family has no final norm"
    else:
        taps["final"] = Tap(row.final, "output", width)
    head = first_path(model, row.head) if row.head and backbone_path else None
    if head is None:
        missing["logits"] = "the model was loaded without a language-model head"
    after = first_path(backbone, row.after) if row.after else None
    classifier, why = _classifier(row, model, config)
    if classifier is None:
        missing[PENULTIMATE] = why
    else:
        above = f"{backbone_path}." if backbone_path else ""
        taps = {site: replace(tap, module=above + tap.module) for site, tap in taps.items()}
        after = above + after if after else None
        last = model.get_submodule(classifier.module)
        taps[PENULTIMATE] = Tap(classifier.module, "input", _features(last, "input") or width)
    positions = getattr(text, "max_position_embeddings", None)
    return Layout(
        family=str(config.model_type),
        depth=len(list(blocks.children())),
        width=width,
        vocabulary=int(text.vocab_size) if row.reads == TEXT else 0,
        positions=None if positions is None else positions - row.first_position,
        learned_positions=row.learned_positions,
        bidirectional=row.bidirectional,
        taps=taps,
        backbone=backbone_path,
        head=head,
        after=after,
        missing=missing,
        reads=row.reads,
        classifier=classifier,
    )


def classifies(architectures: Sequence[str]) -> str | None:
    """The class of transformers' that loads a classifier of such a config, if it is one."""
    for end in _CLASSIFIES:
        if any(str(name).endswith(end) for name in architectures):
            return f"AutoModel{end}"
    return None


def _classifier(row: Family, model: nn.Module, config: Any) -> tuple[Classifier | None, str]:
    """The classifier on a backbone, or why there is none."""
    if row.classifier is None or classifies([type(model).__name__]) is None:
        return None, "the model was loaded without a classifier"
    path = first_path(model, row.classifier)
    weight = getattr(submodule(model, path), "weight", None) if path else None
    if path is None or weight is None or weight.ndim != 2:
        return None, f"{type(model).__name__} has no linear map to its classes at {row.classifier}"
    if len(weight) < 2:
        return None, "the model gives one number, which is no class"
    names = getattr(config, "id2label", None) or {}
    known = len(names) == len(weight)
    own = tuple(str(names[i]) for i in sorted(names)) if known else None
    pad = None if row.bidirectional else getattr(config, "pad_token_id", None)
    return Classifier(path, len(weight), own, pad), ""


def _inside(
    row: Family, block: nn.Module, i: int, where: str, width: int, missing: dict[str, str]
) -> dict[str, Tap]:
    """Taps within one block, in execution order."""
    taps: dict[str, Tap] = {}

    def tap(kind: str, path: str | None, side: Literal["input", "output"], why: str) -> None:
        found = first_path(block, path) if path else None
        if found is None:
            missing.setdefault(kind, why)
            return
        if kind == "attention" and not _within_attention(block, found):
            raise UsageError(
                f"The layout table's row for {type(block).__name__} does not fit: its attention at "
                f"{found!r} is not in a module that is called attention."
            )
        size = _features(block.get_submodule(found), side) or width
        taps[f"{kind}.{i}"] = Tap(f"{where}.{found}", side, size)

    tap("attention", row.attention, "output", "its blocks have no attention")
    if isinstance(row.mlp, Mlp):
        mlp = row.mlp
        tap("mlp.in", mlp.up, "input", "its blocks have no MLP")
        tap("mlp.gate", mlp.gate, "output", _NO_GATE)
        tap("mlp.act", mlp.act if f"mlp.gate.{i}" in taps else None, "output", _NO_GATE)
        tap("mlp.up", mlp.up, "output", "its blocks have no MLP")
        if mlp.gate == mlp.up and f"mlp.up.{i}" in taps:
            for half, kind in enumerate(("mlp.gate", "mlp.up")):
                taps[f"{kind}.{i}"] = replace(taps[f"{kind}.{i}"], half=half)
        tap("neurons", mlp.down, "input", "its blocks have no MLP")
        if f"mlp.act.{i}" in taps:  # as wide as the neurons that it makes
            taps[f"mlp.act.{i}"] = replace(taps[f"mlp.act.{i}"], width=taps[f"neurons.{i}"].width)
        tap("mlp.out", mlp.down, "output", "its blocks have no MLP")
        tap("mlp.add", mlp.norm, "output", "no norm stands behind mlp.out")
    elif isinstance(row.mlp, Experts):
        for kind in ("mlp.gate", "mlp.act", "mlp.up", "neurons"):
            missing.setdefault(
                kind,
                "its MLP is a mixture of experts, whose neurons differ from token to token; "
                "attention and mlp.out are there",
            )
        tap("mlp.in", row.mlp.out, "input", "its blocks have no MLP")
        tap("mlp.out", row.mlp.out, "output", "its blocks have no MLP")
        tap("mlp.add", None, "output", "no norm stands behind mlp.out")
    else:
        for kind in INSIDE[1:]:
            missing.setdefault(kind, "its blocks have no MLP")
    return taps


def _within_attention(block: nn.Module, path: str) -> bool:
    parts = path.split(".")
    above = [block.get_submodule(".".join(parts[: i + 1])) for i in range(len(parts))]
    return any("attention" in type(module).__name__.lower() for module in above)


def _features(module: nn.Module, side: Literal["input", "output"]) -> int | None:
    """Input or output features of a linear map; None where the module is none."""
    weight = getattr(module, "weight", None)
    if weight is None or weight.ndim != 2:
        return None
    # GPT-2's Conv1D keeps its weight the other way round.
    rows_are_outputs = type(module).__name__ != "Conv1D"
    return int(weight.shape[0 if (side == "output") == rows_are_outputs else 1])

"""The layout table: where each model family keeps the places that geoprobe calls sites.

A site has the same name in every family: `embed` (the input of block 0), `block.3` (the residual
stream after block 3), `final` (after the final norm), `logits`. Supporting a family is one row of
`FAMILIES`; nothing else in geoprobe knows a module path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from geoprobe.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Family:
    """Module paths of one family, relative to the model with its head.

    Attributes:
        backbone: The model without its head.
        blocks: The list of transformer blocks, relative to the backbone.
        final: The final norm, relative to the backbone; None where a family has none.
        head: The map from `final` to the logits, relative to the model; None without one.
        learned_positions: Whether positions are a table of a fixed length.
    """

    backbone: str
    blocks: str
    final: str | None
    head: str | None = "lm_head"
    learned_positions: bool = False


_LLAMA = Family(backbone="model", blocks="layers", final="norm")

# model_type in config.json -> where things are. transformers v5 names, in memory.
FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gpt_neox": Family(
        backbone="gpt_neox", blocks="layers", final="final_layer_norm", head="embed_out|lm_head"
    ),
    "gpt2": Family(backbone="transformer", blocks="h", final="ln_f", learned_positions=True),
}


@dataclass(frozen=True)
class Tap:
    """Where to read a site: the input or the output of a module.

    Attributes:
        module: Path from the backbone (from the model for `logits`).
        side: `input` (first positional argument) or `output` (first element of a tuple).
    """

    module: str
    side: Literal["input", "output"]


@dataclass(frozen=True)
class Layout:
    """What a loaded model has.

    Attributes:
        family: The `model_type` of its config.
        depth: Number of blocks L.
        width: Width d of the residual stream.
        vocabulary: Number of token ids.
        positions: Tokens that a sequence may have, as the config says; None where it does not.
        learned_positions: Whether more of them are an error rather than an extrapolation.
        taps: Site name to where it is read, in execution order.
        backbone: Path of the backbone in the model; empty when the model is a bare backbone.
        head: Path of the head in the model, or None.
        missing: Site name to the reason why the family does not have it.
    """

    family: str
    depth: int
    width: int
    vocabulary: int
    positions: int | None
    learned_positions: bool
    taps: Mapping[str, Tap]
    backbone: str
    head: str | None
    missing: Mapping[str, str]

    @property
    def sites(self) -> tuple[str, ...]:
        """Residual-stream sites in execution order."""
        return tuple(self.taps)

    def select(self, *, layers: str | None = None, sites: str | None = None) -> tuple[str, ...]:
        """Resolves `--layers` and `--sites` to site names in execution order.

        Args:
            layers: Comma-separated block indices, negative from the end, and ranges `a:b:step`;
                `embed` and `final` are then left out unless `sites` names them.
            sites: Comma-separated site names; `block` means every block.

        Raises:
            UsageError: A site or a layer that this model does not have.
        """
        if layers is None and sites is None:
            return self.sites
        wanted: set[str] = set()
        for item in _items(sites):
            if item == "block":
                wanted.update(f"block.{i}" for i in range(self.depth))
            elif item in self.taps:
                wanted.add(item)
            else:
                why = self.missing.get(item, f"it has {_abbreviated(self.sites)}")
                raise UsageError(
                    f"--sites {item}: this {self.family} model has no such site; {why}."
                )
        for item in _items(layers):
            wanted.update(f"block.{i}" for i in _indices(item, self.depth))
        return tuple(site for site in self.sites if site in wanted)


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


def _abbreviated(sites: Sequence[str]) -> str:
    blocks = [s for s in sites if s.startswith("block.")]
    rest = [s for s in sites if not s.startswith("block.")]
    return ", ".join([*rest, f"{blocks[0]} to {blocks[-1]}"]) if blocks else ", ".join(rest)


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
        model: A model with its head, or its bare backbone.

    Raises:
        UsageError: The family is not in the table, or the module paths of its row do not exist.
    """
    config: Any = getattr(model, "config", None)
    family = getattr(config, "model_type", None)
    row = FAMILIES.get(str(family))
    if row is None:
        raise UsageError(
            f"Models of type {family!r} are not in the layout table; "
            f"supported are {', '.join(FAMILIES)}."
        )
    backbone_path = row.backbone if submodule(model, row.backbone) is not None else ""
    backbone = model.get_submodule(backbone_path)
    blocks = submodule(backbone, row.blocks)
    if blocks is None:
        raise UsageError(
            f"The layout of {family!r} has blocks at {row.blocks!r}; this model has none there."
        )
    depth = len(list(blocks.children()))
    taps = {"embed": Tap(f"{row.blocks}.0", "input")}
    taps |= {f"block.{i}": Tap(f"{row.blocks}.{i}", "output") for i in range(depth)}
    missing: dict[str, str] = {}
    if row.final is None or submodule(backbone, row.final) is None:
        missing["final"] = "this family has no final norm"
    else:
        taps["final"] = Tap(row.final, "output")
    head = first_path(model, row.head) if row.head and backbone_path else None
    if head is None:
        missing["logits"] = "the model was loaded without a language-model head"
    return Layout(
        family=str(family),
        depth=depth,
        width=int(config.hidden_size),
        vocabulary=int(config.vocab_size),
        positions=getattr(config, "max_position_embeddings", None),
        learned_positions=row.learned_positions,
        taps=taps,
        backbone=backbone_path,
        head=head,
        missing=missing,
    )

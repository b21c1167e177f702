"""The layout table: where each model family keeps what geoprobe calls sites.

Supporting a family is one row of `FAMILIES`; nothing else in geoprobe knows a module path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from geoprobe.errors import UsageError


@dataclass(frozen=True)
class Mlp:
    """Module paths of a family's MLP, relative to a block.

    Attributes:
        up: The projection into the neurons; `mlp.in` is its input, `mlp.up` its output.
        down: The projection back; `neurons` is its input and `mlp.out` its output.
        gate: The projection whose activation multiplies `up`; None without a gate. Where it is the
            same module as `up`, the gate is its first half.
        act: The activation of the gate; `mlp.act` is its output. None without a gate.
        norm: What its output passes before it is added to the residual stream, relative to the
            block; `mlp.add` is what is added then. None where that is the output itself.
    """

    up: str
    down: str
    gate: str | None = None
    act: str | None = None
    norm: str | None = None


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: one output, and neurons that differ from token to token.

    Attributes:
        out: The module of a block that adds up the experts' outputs; `mlp.out` is its output.
    """

    out: str


@dataclass(frozen=True)
class Reads:
    """What a backbone calls what it is given.

    Attributes:
        name: Its main input.
        mask: 1 for real tokens; None where it takes no mask.
    """

    name: str = "input_ids"
    mask: str | None = "attention_mask"


TEXT, IMAGES = Reads(), Reads("pixel_values", None)


@dataclass(frozen=True)
class Family:
    """Module paths of one family; alternatives are separated by `|`.

    Attributes:
        backbone: The model without its head, relative to the loaded model.
        blocks: The list of transformer blocks, relative to the backbone.
        final: The final norm, relative to the backbone; None where a family has none.
        attention: The output projection of the attention, relative to a block; None without one.
        mlp: The MLP, relative to a block; None without one.
        head: The map from `final` to the logits, relative to the model; None without one.
        after: What lies between `final` and the last hidden state in some models of the family.
        learned_positions: Whether positions are a table of a fixed length.
        first_position: Rows of that table that come before a sequence's first.
        loads_as: The class of transformers that loads it.
        pooler: Whether that class adds a pooler unless told otherwise.
        bidirectional: Whether a token sees those after it.
        reads: What it is given: text, or images, of which it makes tokens itself.
        any_image_size: Whether its table of positions is stretched to the images.
        classifier: In a model made for classification, the linear map to the classes, relative to
            the model; None where such models are loaded without it.
    """

    backbone: str
    blocks: str
    final: str | None
    attention: str | None = "self_attn.o_proj"
    mlp: Mlp | Experts | None = None
    head: str | None = "lm_head"
    after: str | None = None
    learned_positions: bool = False
    first_position: int = 0
    loads_as: str = "AutoModelForCausalLM"
    pooler: bool = False
    bidirectional: bool = False
    reads: Reads = TEXT
    any_image_size: bool = False
    classifier: str | None = "score|classifier.out_proj|classifier"


_GATED = Mlp(up="mlp.up_proj", gate="mlp.gate_proj", down="mlp.down_proj", act="mlp.act_fn")
_NORMED = replace(_GATED, norm="post_feedforward_layernorm")
_FUSED = Mlp(
    up="mlp.gate_up_proj",
    gate="mlp.gate_up_proj",
    down="mlp.down_proj",
    act="mlp.activation_fn",
)
_4H = Mlp(up="mlp.dense_h_to_4h", down="mlp.dense_4h_to_h")
_LLAMA = Family(backbone="model", blocks="layers", final="norm", mlp=_GATED)
_MOE = replace(_LLAMA, mlp=Experts("mlp"))
_BLOOM = Family(
    backbone="transformer", blocks="h", final="ln_f", attention="self_attention.dense", mlp=_4H
)
_BERT = Family(
    backbone="bert",
    blocks="encoder.layer",
    final=None,
    attention="attention.output.dense",
    mlp=Mlp(up="intermediate.dense", down="output.dense"),
    head=None,
    learned_positions=True,
    loads_as="AutoModel",
    pooler=True,
    bidirectional=True,
)
_DINOV2 = Family(
    backbone="dinov2",
    blocks="encoder.layer",
    final="layernorm",
    attention="attention.o_proj",
    mlp=Mlp(
        up="mlp.up_proj|mlp.fc1",
        gate="mlp.gate_proj",
        down="mlp.down_proj|mlp.fc2",
        act="mlp.act_fn|mlp.activation_fn",
    ),
    head=None,
    loads_as="AutoModel",
    bidirectional=True,
    reads=IMAGES,
    any_image_size=True,
)

# model_type in config.json -> where things are. transformers v5 names, in memory.
FAMILIES: Mapping[str, Family] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": replace(_LLAMA, mlp=_NORMED),
    "gemma3_text": replace(_LLAMA, mlp=_NORMED),
    "gemma3": replace(_LLAMA, backbone="model.language_model|language_model", mlp=_NORMED),
    "phi3": replace(_LLAMA, mlp=_FUSED),
    "olmo": _LLAMA,
    "olmo2": replace(_LLAMA, mlp=_NORMED),
    "olmo3": replace(_LLAMA, mlp=_NORMED),
    "stablelm": _LLAMA,
    "granite": _LLAMA,
    "mixtral": _MOE,
    "qwen3_moe": _MOE,
    "gpt_oss": _MOE,
    "gpt_neox": Family(
        backbone="gpt_neox",
        blocks="layers",
        final="final_layer_norm",
        attention="attention.dense",
        mlp=_4H,
        head="embed_out|lm_head",
    ),
    "gpt2": Family(
        backbone="transformer",
        blocks="h",
        final="ln_f",
        attention="attn.c_proj",
        mlp=Mlp(up="mlp.c_fc", down="mlp.c_proj"),
        learned_positions=True,
    ),
    "gptj": Family(
        backbone="transformer",
        blocks="h",
        final="ln_f",
        attention="attn.out_proj",
        mlp=Mlp(up="mlp.fc_in", down="mlp.fc_out"),
    ),
    "opt": Family(
        backbone="model.decoder|decoder",
        blocks="layers",
        final="final_layer_norm",
        attention="self_attn.out_proj",
        mlp=Mlp(up="fc1", down="fc2"),
        after="project_out",
        learned_positions=True,
    ),
    "falcon": _BLOOM,
    "bloom": _BLOOM,
    "mpt": Family(
        backbone="transformer",
        blocks="blocks",
        final="norm_f",
        attention="attn.out_proj",
        mlp=Mlp(up="ffn.up_proj", down="ffn.down_proj"),
    ),
    "mamba": Family(backbone="backbone", blocks="layers", final="norm_f", attention=None),
    "bert": _BERT,
    "roberta": replace(_BERT, backbone="roberta", first_position=2),
    "modernbert": Family(
        backbone="model",
        blocks="layers",
        final="final_norm",
        attention="attn.Wo",
        mlp=Mlp(up="mlp.Wi", gate="mlp.Wi", down="mlp.Wo", act="mlp.act"),
        head=None,
        loads_as="AutoModel",
        bidirectional=True,
    ),
    "t5": Family(
        backbone="encoder",
        blocks="block",
        final="final_layer_norm",
        attention="layer.0.SelfAttention.o",
        mlp=Mlp(
            up="layer.1.DenseReluDense.wi_1|layer.1.DenseReluDense.wi",
            gate="layer.1.DenseReluDense.wi_0",
            down="layer.1.DenseReluDense.wo",
            act="layer.1.DenseReluDense.act",
        ),
        head=None,
        loads_as="T5EncoderModel",
        bidirectional=True,
        classifier=None,
    ),
    "vit": replace(_DINOV2, backbone="vit", blocks="layers", pooler=True, any_image_size=False),
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
}


def row_of(family: str | None) -> Family:
    """The row of the layout table for a `model_type`.

    Raises:
        UsageError: There is none.
    """
    row = FAMILIES.get(str(family))
    if row is None:
        raise UsageError(
            f"Models of type {family!r} are not in the layout table; "
            f"supported are {', '.join(FAMILIES)}."
        )
    return row

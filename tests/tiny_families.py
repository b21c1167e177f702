"""Tiny random configs of every family in the layout table."""

from __future__ import annotations

from typing import Any

WIDTH, DEPTH, VOCABULARY, HIDDEN = 32, 3, 64, 48

_COMMON = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1}
_BLOCKS = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 4,
    "intermediate_size": HIDDEN,
}
_DENSE = {**_COMMON, **_BLOCKS}
_LLAMA = {**_DENSE, "num_key_value_heads": 2}
_GEMMA = {**_LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "pad_token_id": 1}
_GPT = {**_COMMON, "n_embd": WIDTH, "n_layer": DEPTH, "n_head": 4}
_ENCODER = {**_BLOCKS, "vocab_size": VOCABULARY, "max_position_embeddings": 40}
_VISION = {**_BLOCKS, "image_size": 12, "patch_size": 4, "num_channels": 3}
_EXPERTS = {**_LLAMA, "num_experts_per_tok": 2, "max_position_embeddings": 64}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _LLAMA),
    "mistral": ("MistralConfig", {**_LLAMA, "sliding_window": 4}),
    "qwen2": ("Qwen2Config", _LLAMA),
    "qwen3": ("Qwen3Config", {**_LLAMA, "head_dim": 8}),
    "gpt_neox": ("GPTNeoXConfig", _DENSE),
    "gpt2": ("GPT2Config", _GPT),
    "gemma": ("GemmaConfig", {**_LLAMA, "head_dim": 8, "pad_token_id": 1}),
    "gemma2": ("Gemma2Config", {**_GEMMA, "sliding_window": 4}),
    "gemma3_text": ("Gemma3TextConfig", {**_GEMMA, "sliding_window": 4}),
    "gemma3": (
        "Gemma3Config",
        {
            "text_config": {**_GEMMA, "sliding_window": 4},
            "vision_config": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "image_size": 8,
                "patch_size": 4,
            },
            "mm_tokens_per_image": 4,
            "image_token_index": 63,
            "boi_token_index": 62,
            "eoi_token_index": 61,
        },
    ),
    "phi3": ("Phi3Config", {**_LLAMA, "pad_token_id": 1}),
    "olmo": ("OlmoConfig", {**_LLAMA, "pad_token_id": 1}),
    "olmo2": ("Olmo2Config", {**_LLAMA, "pad_token_id": 1}),
    "olmo3": ("Olmo3Config", {**_LLAMA, "pad_token_id": 1, "sliding_window": 4}),
    "stablelm": ("StableLmConfig", _LLAMA),
    "granite": ("GraniteConfig", {**_LLAMA, "residual_multiplier": 0.7}),
    "gptj": ("GPTJConfig", {**_GPT, "rotary_dim": 4}),
    "opt": (
        "OPTConfig",
        {
            **_COMMON,
            "hidden_size": WIDTH,
            "word_embed_proj_dim": WIDTH,
            "num_hidden_layers": DEPTH,
            "num_attention_heads": 4,
            "ffn_dim": HIDDEN,
            "max_position_embeddings": 64,
        },
    ),
    "falcon": (
        "FalconConfig",
        {**_COMMON, **{k: v for k, v in _BLOCKS.items() if k != "intermediate_size"}},
    ),
    "bloom": ("BloomConfig", {**_COMMON, "hidden_size": WIDTH, "n_layer": DEPTH, "n_head": 4}),
    "mpt": (
        "MptConfig",
        {"d_model": WIDTH, "n_layers": DEPTH, "n_heads": 4, "vocab_size": VOCABULARY},
    ),
    "mixtral": ("MixtralConfig", {**_EXPERTS, "num_local_experts": 4}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {**_EXPERTS, "num_experts": 4, "moe_intermediate_size": HIDDEN, "head_dim": 8},
    ),
    "gpt_oss": (
        "GptOssConfig",
        {**_EXPERTS, "num_local_experts": 4, "head_dim": 8, "sliding_window": 4, "pad_token_id": 1},
    ),
    "mamba": (
        "MambaConfig",
        {**_COMMON, "hidden_size": WIDTH, "num_hidden_layers": DEPTH, "state_size": 4},
    ),
    "bert": ("BertConfig", _ENCODER),
    "roberta": ("RobertaConfig", {**_ENCODER, "pad_token_id": 1}),
    "modernbert": (
        "ModernBertConfig",
        {
            **_ENCODER,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "cls_token_id": 0,
            "sep_token_id": 1,
            "local_attention": 4,
        },
    ),
    "t5": (
        "T5Config",
        {
            "d_model": WIDTH,
            "num_layers": DEPTH,
            "num_heads": 4,
            "d_kv": 8,
            "d_ff": HIDDEN,
            "vocab_size": VOCABULARY,
            "feed_forward_proj": "gated-gelu",
        },
    ),
    "vit": ("ViTConfig", _VISION),
    "dinov2": ("Dinov2Config", {**_VISION, "mlp_ratio": 2, "layerscale_value": 0.7}),
    "dinov2_with_registers": (
        "Dinov2WithRegistersConfig",
        {**_VISION, "use_swiglu_ffn": True, "num_register_tokens": 2, "layerscale_value": 0.7},
    ),
}

VISION = ("vit", "dinov2", "dinov2_with_registers")
"""Families that read images."""

CORE = ("llama", "mistral", "qwen2", "qwen3", "gpt_neox", "gpt2")
"""Families of the slower tests; what differs between the others is tested by itself."""


def tiny_inputs(family: str, batch: int = 3, time: int = 7) -> dict[str, Any]:
    """Random input of a family's model: token ids, or images of three by three patches."""
    import torch

    draw = torch.Generator().manual_seed(3)
    if family in VISION:
        return {"pixel_values": torch.randn(batch, 3, 12, 12, generator=draw)}
    ids = torch.randint(0, VOCABULARY, (batch, time), generator=draw)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def tiny_config(family: str, **changes: Any) -> Any:
    """The tiny config of a family."""
    import transformers

    name, arguments = CONFIGS[family]
    return getattr(transformers, name)(**{**arguments, **changes})


def tiny_model(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random model of a family, in evaluation mode."""
    import torch
    import transformers

    from geoprobe.models.families import FAMILIES

    torch.manual_seed(seed)
    config = tiny_config(family, **changes)
    kind = getattr(transformers, FAMILIES[family].loads_as)
    model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    # The default initialisation is so small that every layer looks like the identity.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()

"""A network that knows facts by construction, and by which of its neurons.

One block of GPT-2. Tokens have directions of their own: subjects, relations. Attention carries a
relation's direction to the last token; three neurons of the MLP fire on it alone and write one
direction, which the head needs beside the subject's to name the object. Without it the head says
`nothing`. Layer norms are harmless, as every direction is a pair of opposite coordinates.
"""

from __future__ import annotations

from itertools import product
from typing import Any

RELATIONS = ("near", "above", "behind")
SUBJECTS = tuple(f"s{a}{b}" for a, b in product("abcdef", "wxyz"))
FILLER = "please"
EACH, DISTRACTORS = 3, 61
WIDTH = 2 * (2 * len(RELATIONS) + len(SUBJECTS))


def object_of(relation: int, subject: int) -> str:
    """The right answer, which no other one begins with."""
    return f"o{'abc'[relation]}{SUBJECTS[subject][1:]}"


def words() -> list[str]:
    """The vocabulary."""
    objects = [object_of(r, s) for r in range(len(RELATIONS)) for s in range(len(SUBJECTS))]
    return ["<unk>", "nothing", FILLER, *RELATIONS, *SUBJECTS, *objects]


def planted(relation: int) -> list[tuple[str, int]]:
    """The neurons of a relation: those that fire on it, and the coordinate that they raise."""
    first = relation * EACH
    written = 2 * (len(RELATIONS) + relation)
    return [*(("mlp.up.0", first + i) for i in range(EACH)), ("mlp.out.0", written)]


def tokenizer() -> Any:
    """One token a word."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words())}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")


def facts() -> list[dict[str, Any]]:
    """Its facts, as files have them."""
    return [
        {
            "name": name,
            "prompt_templates": [f"{name} {{}}", f"{name} {FILLER} {{}}"],
            "samples": [
                {"subject": subject, "object": object_of(r, s)}
                for s, subject in enumerate(SUBJECTS)
            ],
        }
        for r, name in enumerate(RELATIONS)
    ]


def model() -> Any:
    """The network."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    vocabulary = words()
    neurons = EACH * len(RELATIONS) + DISTRACTORS
    made = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(vocabulary),
            n_positions=16,
            n_embd=WIDTH,
            n_layer=1,
            n_head=1,
            n_inner=neurons,
            activation_function="relu",
            tie_word_embeddings=False,
        )
    ).eval()
    asks, writes = range(len(RELATIONS)), range(len(RELATIONS), 2 * len(RELATIONS))
    subjects = range(2 * len(RELATIONS), WIDTH // 2)

    def pair(direction: int) -> torch.Tensor:
        found = torch.zeros(WIDTH)
        found[2 * direction], found[2 * direction + 1] = 1.0, -1.0
        return found

    block = made.transformer.h[0]
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "ln_" not in name:
                value.zero_()
        for r, name in enumerate(RELATIONS):
            made.transformer.wte.weight[vocabulary.index(name)] = pair(asks[r])
            for i in range(EACH):
                neuron = r * EACH + i
                block.mlp.c_fc.weight[:, neuron] = (1 + i) * pair(asks[r])
                block.mlp.c_proj.weight[neuron] = 0.1 * pair(writes[r])
        for s, name in enumerate(SUBJECTS):
            made.transformer.wte.weight[vocabulary.index(name)] = pair(subjects[s])
            for r in range(len(RELATIONS)):
                row = vocabulary.index(object_of(r, s))
                made.lm_head.weight[row] = pair(subjects[s]) + pair(writes[r])
            made.lm_head.weight[vocabulary.index("nothing")] += 2 * pair(subjects[s])
        for i in range(DISTRACTORS):  # they fire on some subjects, whatever the relation
            some = torch.randn(len(SUBJECTS), generator=draw)
            weights = sum(x * pair(subjects[s]) for s, x in enumerate(some.tolist()))
            block.mlp.c_fc.weight[:, EACH * len(RELATIONS) + i] = weights
        carried = torch.zeros(WIDTH)
        carried[: 2 * len(RELATIONS)] = 1.0
        block.attn.c_attn.weight[:, 2 * WIDTH :] = torch.diag(carried)
        block.attn.c_proj.weight.copy_(torch.eye(WIDTH))
    return made

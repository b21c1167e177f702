"""Small tokenizers of the kinds that differ in what they do to the ends of a text."""

from __future__ import annotations

from typing import Any

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "it", "was", "not", "same", "as"]
SENTENCES = "the cat sat on a mat. and it was not the same, as before! a mat is a mat"


def _wrap(core: Any, special: str, **names: str) -> Any:
    """Adds default special tokens and makes a transformers tokenizer of it."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    single = {
        "none": "$A",
        "bos": "<s> $A",
        "eos": "$A </s>",
        "bos_eos": "<s> $A </s>",
        "bos_twice": "<s> <s> $A </s>",
    }[special]
    if special != "none":
        ends = [(token, core.token_to_id(token)) for token in ("<s>", "</s>")]
        core.post_processor = processors.TemplateProcessing(single=single, special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", **names
    )


def byte_tokenizer(special: str = "none", *, prefix_space: bool = True) -> Any:
    """Byte-level BPE; with a prefix space, a word is tokenised alike at the start and later."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([SENTENCES] * 4, trainer)
    return _wrap(core, special)


def unigram_tokenizer(special: str = "eos") -> Any:
    """Unigram over a metaspace, as T5's and SentencePiece's."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("▁", -3.0)]
    letters = [(c, -5.0) for c in "abcdefghijklmnopqrstuvwxyz.,!\n"]
    words = [(f"▁{word}", -2.0 - i / 10) for i, word in enumerate(dict.fromkeys(WORDS))]
    core = Tokenizer(models.Unigram([*pieces, *letters, *words], unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    return _wrap(core, special, unk_token="<unk>")


def bert_tokenizer() -> Any:
    """WordPiece with [CLS] and [SEP], lower-casing, as BERT's."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    letters = "abcdefghijklmnopqrstuvwxyz"
    pieces = [*special, *letters, *(f"##{c}" for c in letters), *dict.fromkeys(WORDS), ".", ","]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    core = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer()
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )

"""Prompts of facts: what is asked, what counts as an answer, and which ones find neurons or judge.

Section 6 of the method. Subjects whose prompts find a relation's neurons never judge them.
"""

from __future__ import annotations

import hashlib
import string
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from geoprobe.data.facts import Relation

LEAST_TOKENS = 2
"""Tokens that are generated at least."""


@dataclass(frozen=True)
class Prompt:
    """One question.

    Attributes:
        relation: Name of its relation.
        subject: What it asks about.
        text: Its text.
        ids: Its token ids.
        objects: Accepted answers, each with its number of tokens.
    """

    relation: str
    subject: str
    text: str
    ids: tuple[int, ...]
    objects: tuple[tuple[str, int], ...]

    @property
    def count(self) -> int:
        """Tokens to generate."""
        return max(LEAST_TOKENS, *(tokens for _, tokens in self.objects))


def prompts_of(relations: Sequence[Relation], tokenizer: Any) -> list[Prompt]:
    """Every template of every fact, in order."""
    found = []
    for relation in relations:
        for template in relation.templates:
            for fact in relation.facts:
                text = template.replace("{}", fact.subject)
                ids = _ids(tokenizer, text)
                objects = tuple(
                    (one, max(1, len(_ids(tokenizer, f"{text} {one}")) - len(ids)))
                    for one in fact.objects
                )
                found.append(Prompt(relation.name, fact.subject, text, tuple(ids), objects))
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids with the tokenizer's own special tokens, but for one that ends the text."""
    ids = list(tokenizer(text)["input_ids"])
    while len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    return ids


def is_right(prompt: Prompt, answer: Sequence[int], tokenizer: Any) -> bool:
    """Whether generated tokens answer a prompt; an object is held against as many as it has."""
    return any(
        matches(said(answer[: max(LEAST_TOKENS, tokens)], tokenizer), one)
        for one, tokens in prompt.objects
    )


def said(answer: Sequence[int], tokenizer: Any) -> str:
    """The text of generated tokens."""
    return str(tokenizer.decode(list(answer), skip_special_tokens=True))


def matches(answer: str, wanted: str) -> bool:
    """Whether one is the beginning of the other, and long enough; case matters.

    Both without white space and punctuation at their ends; the shorter has at least half of the
    wanted one's characters, or any year would answer for another one of its century.
    """
    answer, wanted = _bare(answer), _bare(wanted)
    shorter, longer = sorted((answer, wanted), key=len)
    return bool(shorter) and longer.startswith(shorter) and 2 * len(shorter) >= len(wanted)


def _bare(text: str) -> str:
    """The text without white space and punctuation at its ends."""
    start, end = 0, len(text)
    while start < end and _is_punctuation(text[start]):
        start += 1
    while end > start and _is_punctuation(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_punctuation(character: str) -> bool:
    return (
        character.isspace()
        or character in string.punctuation
        or unicodedata.category(character).startswith("P")
    )


@dataclass(frozen=True)
class Split:
    """The prompts of one relation, by what they are for: indices into all prompts.

    Attributes:
        detection: Known ones that find its neurons.
        evaluation: Known ones, of other subjects, that judge them.
        unknown: Ones that the model does not answer, at most as many, of other subjects, too.
        left_out: Why the relation is left out; empty where it is not.
    """

    detection: NDArray[np.int64]
    evaluation: NDArray[np.int64]
    unknown: NDArray[np.int64]
    left_out: str = ""


def split(
    prompts: Sequence[Prompt],
    known: NDArray[np.bool_],
    *,
    seed: int,
    held_out: int,
    min_known: int,
    used: Mapping[str, Collection[str]] | None = None,
) -> dict[str, Split]:
    """Divides each relation's prompts by subject.

    A subject's place depends on itself and the seed alone, so that it is mostly the same in all
    relations and checkpoints.

    Args:
        prompts: All of them.
        known: Which ones the model answers.
        seed: Seed of the order of subjects.
        held_out: Prompts that judge at most; also at most half of the subjects.
        min_known: Subjects of which at least one prompt must be known.
        used: Subjects, by relation, by which neurons were found elsewhere: they never judge.

    Returns:
        Relation to its prompts.
    """
    found: dict[str, Split] = {}
    for relation in dict.fromkeys(prompt.relation for prompt in prompts):
        mine = [i for i, prompt in enumerate(prompts) if prompt.relation == relation]
        right = [i for i in mine if known[i]]
        subjects = sorted({prompts[i].subject for i in right}, key=lambda s: _place(s, seed))
        if used is None:
            chosen = _first(subjects[: len(subjects) // 2], prompts, right, held_out)
            finding = set(subjects) - set(chosen)
        else:
            finding = set(used.get(relation, ()))
            free = [s for s in subjects if s not in finding]
            chosen = _first(free, prompts, right, held_out)
        judging = set(chosen)
        wrong = [i for i in mine if not known[i] and prompts[i].subject not in finding]
        wrong.sort(key=lambda i: (_place(prompts[i].subject, seed), i))
        evaluation = [i for i in right if prompts[i].subject in judging]
        found[relation] = Split(
            np.array([i for i in right if prompts[i].subject in finding], dtype=np.int64),
            np.array(evaluation, dtype=np.int64),
            np.array(sorted(wrong[: len(evaluation)]), dtype=np.int64),
            _why(prompts, mine, right, len(subjects), len(judging), min_known),
        )
    return found


def _why(
    prompts: Sequence[Prompt],
    mine: list[int],
    right: list[int],
    subjects: int,
    judging: int,
    least: int,
) -> str:
    """Why a relation is left out."""
    total = len({prompts[i].subject for i in mine})
    counts = (
        f"the model answers {len(right)} of {len(mine)} prompts, of {subjects} of {total} subjects"
    )
    if subjects < least:
        return f"{counts}, and at least {least} subjects are needed (--min-known)"
    if not judging:
        return f"{counts}, and the neurons that were given were found by all of these"
    return ""


def _first(
    subjects: Sequence[str], prompts: Sequence[Prompt], right: Sequence[int], most: int
) -> list[str]:
    """As many of the subjects, from the first on, as have so many prompts; at least one."""
    each: dict[str, int] = {}
    for i in right:
        each[prompts[i].subject] = each.get(prompts[i].subject, 0) + 1
    found: list[str] = []
    total = 0
    for subject in subjects:
        total += each[subject]
        if found and total > most:
            break
        found.append(subject)
    return found


def _place(subject: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {subject}".encode("utf-8", "surrogatepass")).digest()

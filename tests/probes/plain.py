"""The spectrum readings in plain NumPy over single unpadded documents. Shares no code with ours."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


def hidden_states(model: Any, documents: list[list[int]]) -> dict[str, list[np.ndarray]]:
    """Site -> one (tokens, d) float64 array a document, by transformers' own hidden states."""
    found: dict[str, list[np.ndarray]] = {}
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) > 1)
    last: list[torch.Tensor] = []
    handle = blocks[-1].register_forward_hook(
        lambda _m, _i, out: last.append(out[0] if isinstance(out, tuple) else out)
    )
    for document in documents:
        last.clear()
        with torch.no_grad():
            out = model(input_ids=torch.tensor([document]), output_hidden_states=True)
        states = [*out.hidden_states[:-1], last[0]]
        names = ["embed", *(f"block.{i}" for i in range(len(states) - 1))]
        if not torch.equal(last[0], out.hidden_states[-1]):  # there is a final norm
            states, names = [*states, out.hidden_states[-1]], [*names, "final"]
        for name, state in zip(names, states, strict=True):
            found.setdefault(name, []).append(state[0].double().numpy())
    handle.remove()
    return found


def choose(states: list[np.ndarray], tokens: str) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, d) of a token choice, and the jackknife group of each."""
    if tokens == "last":
        return np.stack([s[-1] for s in states]), np.arange(len(states)) % 8
    if tokens == "first":
        return np.stack([s[0] for s in states]), np.arange(len(states)) % 8
    if tokens == "mean":
        return np.stack([s.mean(0) for s in states]), np.arange(len(states)) % 8
    groups = np.concatenate([np.full(len(s), i % 8) for i, s in enumerate(states)])
    return np.concatenate(states), groups


def spectral(x: np.ndarray) -> dict[tuple[str, str], float]:
    """(measure, convention) -> value, written out from the definitions with an SVD."""
    n, d = x.shape
    centred = x - x.mean(0)
    lam = np.linalg.svd(centred, compute_uv=False) ** 2 / n
    raw = np.linalg.svd(x, compute_uv=False)
    p = lam / lam.sum()
    nonzero = p[p > 0]
    entropy = -(nonzero * np.log(nonzero)).sum()
    li = lam[:2048] / lam[:2048].sum() + 1e-7
    garrido = raw / raw.sum() + 1e-7
    ratio = lam.sum() ** 2 / (lam**2).sum()
    tail = lam[10:] / lam[10:].sum()
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    gram = np.linalg.svd(units, compute_uv=False) ** 2 / n
    gram = gram[gram > 0]
    found = {
        ("rankme", "exact"): np.exp(entropy),
        ("rankme", "li2025"): np.exp(-(li * np.log(li)).sum()),
        ("rankme", "reptrix0.1"): np.exp(-(li * np.log(li)).sum()),
        ("rankme", "garrido2023"): np.exp(-(garrido * np.log(garrido)).sum()),
        ("participation_ratio", "exact"): ratio,
        ("participation_ratio_corrected", "exact"): 1 / (1 / ratio - 1 / n),
        ("nesum", "exact"): lam.sum() / lam[0],
        ("stable_rank", "exact"): (raw**2).sum() / raw[0] ** 2,
        ("isoscore", "exact"): (ratio - 1) / (d - 1),
        ("top1_share", "exact"): lam[0] / lam.sum(),
        ("rankme_headless", "exact"): np.exp(-(tail[tail > 0] * np.log(tail[tail > 0])).sum()),
        ("matrix_entropy", "exact"): -(gram * np.log(gram)).sum() / np.log(min(n, d)),
    }
    rank = int((lam > max(n, d) * np.finfo(float).eps * lam[0]).sum())
    for name, first, last in (
        ("exact", 12, min(100, rank // 2)),
        ("li2025", 12, 100),
        ("reptrix0.1", 11, 100),
    ):
        if last - first + 1 >= 20 and rank >= last:
            r = np.arange(first, last + 1)
            line = np.polyfit(np.log(r), np.log(lam[first - 1 : last]), 1, w=np.sqrt(1 / r))
            found[("alpha", name)] = -line[0]
    return found


def jackknife(x: np.ndarray, groups: np.ndarray) -> dict[tuple[str, str], float]:
    """Delete-one-group standard errors of `spectral`."""
    present = np.unique(groups)
    left = [spectral(x[groups != g]) for g in present]
    found = {}
    for key in left[0]:
        if all(key in one for one in left):
            values = np.array([one[key] for one in left])
            spread = ((values - values.mean()) ** 2).sum()
            found[key] = float(np.sqrt((len(present) - 1) / len(present) * spread))
    return found

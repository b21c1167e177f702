"""SmolLM2-135M's effective features and superposition, against NumPy on plain hidden states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import geoprobe
from geoprobe.autoencoders.autoencoder import Autoencoder
from geoprobe.autoencoders.formats import write_saelens
from geoprobe.data.corpus import build_corpus
from tests.probes import plain
from tests.smollm2 import loaded

pytestmark = pytest.mark.xdist_group("smollm2")

SEQUENCES, LENGTH, SITE, FEATURES, K = 16, 48, "block.15", 1200, 12


def test_a_loaded_autoencoder_and_its_sinks(tmp_path: Path) -> None:
    model, tokenizer = loaded()
    draw = torch.Generator().manual_seed(0)
    decoder = torch.randn(FEATURES, model.config.hidden_size, generator=draw)
    decoder /= decoder.norm(dim=1, keepdim=True)
    made = Autoencoder(
        "topk",
        decoder.T.contiguous(),
        decoder,
        torch.zeros(FEATURES),
        torch.zeros(model.config.hidden_size),
        k=K,
        site=SITE,
    )
    run = geoprobe.measure(
        model=model,
        tokenizer=tokenizer,
        probes=["features"],
        sae=[str(write_saelens(made, tmp_path / "topk"))],
        sequences=SEQUENCES,
        length=LENGTH,
        nulls="gaussian",
        loss_sequences=0,
    )
    corpus = build_corpus(tokenizer, None, sequences=SEQUENCES, length=LENGTH)
    documents = [[int(t) for t in corpus.sequence(i)] for i in range(len(corpus))]
    states = plain.hidden_states(model, documents)[SITE]
    rule = next(f for f in run.findings if f["kind"] == "sink_rule")
    assert 0 in rule["positions"], "SmolLM2's first token is a sink"
    dropped = set(rule["positions"]), set(rule["token_ids"])
    for sinks in ("in", "out"):
        x = np.concatenate(
            [
                state[
                    [
                        sinks == "in" or not (i in dropped[0] or t in dropped[1])
                        for i, t in enumerate(tokens)
                    ]
                ]
                for state, tokens in zip(states, documents, strict=True)
            ]
        )
        h = x @ decoder.double().numpy().T
        codes = np.where(h >= np.sort(h, axis=1)[:, -K][:, None], np.maximum(h, 0), 0)
        shares = codes.sum(0) / codes.sum()
        shares = shares[shares > 0]
        error = ((codes @ decoder.double().numpy() - x) ** 2).sum()
        expected = {
            "effective_features": np.exp(-(shares * np.log(shares)).sum()),
            "l0": (codes > 0).sum(1).mean(),
            "explained_variance": 1 - error / ((x - x.mean(0)) ** 2).sum(),
        }
        rows = run.readings.filter(sinks=sinks, activations="given", site=SITE)
        for name, value in expected.items():
            # decoder_norm's is the same: the directions have norm 1
            found = rows.filter(measure=name)
            assert found["n"][0] == len(x)
            for reading in found["value"]:
                assert reading == pytest.approx(value, rel=2e-3), (name, sinks)
    null = run.readings.filter(measure="effective_features", activations="gaussian")
    assert null["value"][0] > rows.filter(measure="effective_features")["value"][0]


def test_the_embedding_s_dimensionality() -> None:
    model, tokenizer = loaded()
    run = geoprobe.measure(
        model=model,
        tokenizer=tokenizer,
        probes=["superposition"],
        weights=["embedding", "mlp.out.3"],
        skip_coherence=True,
        sequences=8,
        length=16,
        sites="final",
    )
    embedding = model.get_input_embeddings().weight.detach().double().numpy()
    gram = embedding.T @ embedding
    norms = (embedding**2).sum(1)
    expected = norms**2 / np.einsum("ij,jk,ik->i", embedding, gram, embedding, optimize=True)
    values = run.readings.filter(site="embedding", rows="given")
    found = dict(zip(values["measure"], values["value"], strict=True))
    assert found["dimensionality"] == pytest.approx(expected.mean(), rel=1e-6)
    assert found["dimensionality_sum"] <= found["matrix_rank"] <= embedding.shape[1]
    assert found["interference"] >= found["welch_bound"]

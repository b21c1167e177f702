from dataclasses import replace
from typing import Any

import pytest
import torch

from geoprobe.autoencoders.autoencoder import Autoencoder
from geoprobe.errors import UsageError
from tests.autoencoders.random_autoencoders import (
    ARCHITECTURES,
    D_IN,
    D_SAE,
    K,
    activations,
    random_autoencoder,
)


def naive(it: Autoencoder, row: torch.Tensor) -> tuple[list[float], torch.Tensor]:
    """Codes and reconstruction of one row, one feature at a time, as the papers say it."""
    x = row - it.decoder_bias if it.centred else row
    codes = []
    for i in range(it.features):
        h = float(x @ it.encoder[:, i])
        b, norm = float(it.encoder_bias[i]), float(it.decoder[i].norm())
        if it.architecture == "gated":
            z = max(0.0, h * float(it.magnitude[i]) + float(it.magnitude_bias[i]))
            z = (z if h + b > 0 else 0.0) * (norm if it.by_norm else 1)
        else:
            z = (h + b) * (norm if it.by_norm else 1)
            if it.threshold is not None:
                z = z if z > float(it.threshold.expand(it.features)[i]) else 0.0
        codes.append(z)
    if it.architecture == "topk":
        least = sorted(codes)[-it.k]
        codes = [z if z >= least else 0.0 for z in codes]
    codes = [max(0.0, z) for z in codes]
    found = it.decoder_bias.clone()
    for z, direction in zip(codes, it.decoder, strict=True):
        found = found + z * direction / (direction.norm() if it.by_norm else 1)
    return codes, found


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_codes_and_reconstructions_are_those_of_the_definition(architecture, by_norm, centred):
    it = random_autoencoder(architecture, by_norm=by_norm, centred=centred)
    codes, found = it.apply(activations())
    for row, z, y in zip(activations(), codes, found, strict=True):
        expected, reconstruction = naive(it, row)
        assert z.tolist() == pytest.approx(expected, abs=1e-5)
        assert y.tolist() == pytest.approx(reconstruction.tolist(), abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_encode_and_decode_are_the_halves_of_apply(architecture):
    it = random_autoencoder(architecture)
    codes, found = it.apply(activations())
    assert torch.equal(it.encode(activations()), codes)
    assert torch.equal(it.decode(codes), found)
    assert bool((codes >= 0).all())
    assert (it.width, it.features) == (D_IN, D_SAE)


def test_topk_has_at_most_k_codes():
    codes = random_autoencoder("topk").encode(activations(rows=500))
    l0 = (codes > 0).sum(1)
    assert int(l0.max()) == K
    assert float(l0.float().mean()) > K - 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_folding_norms_changes_no_code(architecture):
    it = random_autoencoder(architecture, by_norm=True)
    folded = it.folded()
    assert not folded.by_norm
    assert torch.allclose(folded.norms(), torch.ones(D_SAE), atol=1e-6)
    for ours, expected in zip(folded.apply(activations()), it.apply(activations()), strict=True):
        assert torch.allclose(ours, expected, atol=1e-5)
    assert (
        random_autoencoder(architecture)
        .folded()
        .decoder.equal(random_autoencoder(architecture).decoder)
    )


def test_a_direction_that_vanished_and_a_row_of_zeros_give_numbers():
    decoder = random_autoencoder("topk").decoder.clone()
    decoder[3] = 0
    x = activations()
    x[0] = 0
    for normalisation in ("constant_norm", "layer_norm"):
        it = random_autoencoder(
            "topk", decoder=decoder, by_norm=True, normalisation=normalisation, k=D_SAE
        )
        for tensor in (*it.apply(x), *it.folded().apply(x)):
            assert bool(tensor.isfinite().all())


@pytest.mark.parametrize("normalisation", ["constant_norm", "layer_norm"])
def test_codes_do_not_depend_on_the_scale_that_is_taken_out(normalisation):
    it = random_autoencoder("standard", normalisation=normalisation)
    codes, found = it.apply(activations())
    scaled, larger = it.apply(activations() * 8)
    assert torch.allclose(codes, scaled, atol=1e-4)
    assert torch.allclose(found * 8, larger, atol=1e-3)


def test_to_moves_every_tensor():
    it = random_autoencoder("gated").to(torch.device("cpu"), torch.float64)
    tensors = [it.encoder, it.decoder, it.encoder_bias, it.decoder_bias]
    assert {t.dtype for t in [*tensors, it.magnitude, it.magnitude_bias]} == {torch.float64}
    assert it.encode(activations().double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("architecture", "changes", "complaint"),
    [
        ("standard", {"decoder": torch.ones(3, 3)}, "decoder has shape"),
        ("standard", {"encoder_bias": torch.ones(3)}, "encoder bias has shape"),
        ("jumprelu", {"threshold": torch.ones(3)}, "threshold has shape"),
        ("gated", {"magnitude": torch.ones(())}, "magnitude has shape"),
        ("gated", {"magnitude_bias": None}, "no magnitude bias"),
        ("topk", {"k": None}, "no k"),
        ("topk", {"k": 21}, "k is 21"),
        ("batchtopk", {"threshold": None}, "no threshold"),
    ],
)
def test_parts_that_do_not_fit_are_refused(architecture, changes, complaint):
    with pytest.raises(UsageError, match=complaint):
        replace(random_autoencoder(architecture), **changes)


@pytest.mark.parametrize("active", [0, 1, 3, 60])
@pytest.mark.parametrize("by_norm", [False, True])
def test_few_active_features_are_decoded_as_many_are(active: int, by_norm: bool) -> None:
    """Above 65,536 codes of which few are active, directions are summed and not multiplied out."""
    draw = torch.Generator().manual_seed(active)
    rows, features, width = 700, 200, 9
    codes = torch.zeros(rows, features)
    for row in range(0, rows, 2):  # every other row has none
        codes[row, torch.randperm(features, generator=draw)[:active]] = 1.5
    decoder = torch.randn(features, width, generator=draw)
    bias = torch.randn(width, generator=draw)
    coder = Autoencoder(
        "standard", decoder.T.contiguous(), decoder, torch.zeros(features), bias, by_norm=by_norm
    )
    directions = decoder.double()
    if by_norm:
        directions /= directions.norm(dim=1, keepdim=True)
    expected = codes.double() @ directions + bias
    torch.testing.assert_close(coder.decode(codes).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("normalisation", ["none", "constant_norm", "layer_norm"])
@pytest.mark.parametrize("centred", [True, False])
def test_a_large_topk_one_gives_what_encoding_and_decoding_give(
    normalisation: Any, centred: bool
) -> None:
    """Which features are active is known then, and their directions are summed at once."""
    draw = torch.Generator().manual_seed(0)
    decoder = torch.randn(200, 9, generator=draw)
    bias = torch.randn(9, generator=draw)
    given = (decoder.T.contiguous(), decoder, torch.randn(200, generator=draw) - 4, bias)
    coder = Autoencoder("topk", *given, centred=centred, k=5, normalisation=normalisation)
    x = torch.randn(60, 9, generator=draw)
    codes, found = coder.apply(x)
    assert coder._few
    torch.testing.assert_close(codes, coder.encode(x))
    same = replace(coder, architecture="standard", k=None)  # decodes by a product
    expected = torch.addmm(bias, codes.double().float(), same.decoder)
    _, mean, scale = coder._normalised(x)
    expected = expected if scale is None else expected * scale
    torch.testing.assert_close(found, expected if mean is None else expected + mean)
    assert (codes > 0).sum(1).max() <= 5

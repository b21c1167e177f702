"""The gradient that is written out, against automatic differentiation; folding; members alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from geoprobe.autoencoders.recipe import Recipe
from geoprobe.autoencoders.stack import Stack, autoencoder
from geoprobe.errors import UsageError

WIDTH, SAMPLES, K = 6, 10, 3
WEIGHTS = ("encoder", "decoder", "encoder_bias", "decoder_bias")


def stack_of(recipe: Recipe, dead: int = 0) -> Stack:
    stack = Stack(recipe, WIDTH, [0, 1])
    torch.manual_seed(3)
    with torch.no_grad():
        for name in ("encoder", "encoder_bias", "decoder_bias"):
            getattr(stack, name).normal_()
        stack.silent[:, :dead] = 1e9
    return stack


def loss_of(recipe: Recipe, weights: dict[str, torch.Tensor], x: torch.Tensor, dead: int) -> Any:
    """The loss by its definition, and with what dead features make up for."""
    inward = x - weights["decoder_bias"] if recipe.centred else x
    h = inward @ weights["encoder"] + weights["encoder_bias"]
    if not recipe.by_k:
        codes = h.relu()
    elif recipe.architecture == "topk":
        top = h.topk(K, dim=2)
        codes = torch.zeros_like(h).scatter(2, top.indices, top.values.relu())
    else:
        positive = h.relu()
        cut = positive.flatten(1).topk(K * SAMPLES, dim=1).values.amin(1)
        codes = positive * (positive >= cut[:, None, None])

    def reduced(terms: torch.Tensor) -> torch.Tensor:
        return terms.sum(2).mean(1) if recipe.reduction == "sum" else terms.mean((1, 2))

    error = codes @ weights["decoder"] + weights["decoder_bias"] - x
    loss = reduced(error**2)
    if not recipe.by_k:
        weight = recipe.l1 * (WIDTH**0.5 if recipe.standardise else 1)
        return loss + weight * reduced(codes), loss + weight * reduced(codes)
    whole = loss
    if dead:
        hidden = torch.arange(h.shape[2]) >= dead
        top = h.masked_fill(hidden, -torch.inf).topk(WIDTH // 2, dim=2)
        revived = torch.zeros_like(h).scatter(2, top.indices, top.values.relu())
        whole = loss + reduced((revived @ weights["decoder"] + error.detach()) ** 2) / 32
    return loss, whole


@pytest.mark.parametrize("architecture", ["tied", "standard", "topk", "batchtopk"])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("dead", [0, 8])
@pytest.mark.parametrize("centre", [True, False])
def test_gradients_are_those_of_the_loss(
    architecture: Any, reduction: Any, dead: int, centre: bool
) -> None:
    recipe = Recipe(
        architecture, k=K, reduction=reduction, l1=0.3, unit_decoder=False, centre=centre
    )
    stack = stack_of(recipe, dead)
    x = torch.randn(2, SAMPLES, WIDTH)
    copies = {n: getattr(stack, n).detach().clone().requires_grad_() for n in WEIGHTS}
    if architecture == "tied":
        copies["decoder"] = copies["encoder"].transpose(1, 2)
    loss, whole = loss_of(recipe, copies, x, dead)
    whole.sum().backward()
    found = stack.step(x)
    torch.testing.assert_close(found.loss, loss.detach(), rtol=1e-5, atol=1e-5)
    names = WEIGHTS if architecture != "tied" else ("encoder", "encoder_bias")
    grads = {name: copies[name].grad for name in names}
    if recipe.by_k:  # each member's is clipped to norm 1
        norm = sum(g.flatten(1).square().sum(1) for g in grads.values() if g is not None) ** 0.5
        assert (torch.as_tensor(norm) > 1).all()
        grads = {n: g / norm[:, None, None] for n, g in grads.items() if g is not None}  # type: ignore[index]
    for name, expected in grads.items():
        torch.testing.assert_close(getattr(stack, name).grad, expected, rtol=1e-4, atol=2e-5)


def test_directions_of_norm_one_stay_so_and_their_gradient_is_tangential() -> None:
    stack = Stack(Recipe("topk", k=K), WIDTH, [0])
    for _ in range(3):
        stack.step(torch.randn(1, SAMPLES, WIDTH))
        norms = stack.decoder.norm(dim=2)
        torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("architecture", ["tied", "standard", "topk", "batchtopk"])
def test_members_are_trained_as_if_alone(architecture: Any) -> None:
    recipe = Recipe(architecture, k=K)
    both, alone = Stack(recipe, WIDTH, [4, 9]), Stack(recipe, WIDTH, [9])
    for i in range(20):
        x = torch.randn(2, 32, WIDTH, generator=torch.Generator().manual_seed(i))
        both.step(x)
        alone.step(x[1:])
    for name in WEIGHTS:
        torch.testing.assert_close(
            getattr(both, name)[1:], getattr(alone, name), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("architecture", ["tied", "standard", "topk", "batchtopk"])
def test_the_autoencoder_reads_activations_as_they_are(architecture: Any) -> None:
    """Folding mean and scale into the weights changes no code and no reconstruction."""
    recipe = Recipe(architecture, k=K)
    stack = stack_of(recipe)
    stack.cutoff.fill_(0.4)
    mean, scale = torch.randn(1, WIDTH) * 10, torch.tensor(7.0)
    x = torch.randn(50, WIDTH) * 7 + mean
    weights = {name: value[1] for name, value in stack.weights().items()}
    coder = autoencoder(recipe, weights, mean[0], scale)
    codes, found = coder.apply(x)
    standard = ((x - mean) / scale).expand(2, -1, -1)
    losses = stack.evaluate(standard)
    error = ((found - x) / scale).square().sum(1).mean()
    torch.testing.assert_close(error, losses.residual[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close((codes > 0).float().sum(1).mean(), losses.l0[1])


def test_a_state_goes_on_where_it_was() -> None:
    recipe = Recipe("batchtopk", k=K)
    one, other = Stack(recipe, WIDTH, [0]), Stack(recipe, WIDTH, [5])
    for i in range(6):
        x = torch.randn(1, 32, WIDTH, generator=torch.Generator().manual_seed(i))
        if i == 3:
            other.load({k: v.clone() for k, v in one.state().items()})
        if i >= 3:
            other.step(x)
        one.step(x)
    for name, value in one.state().items():
        assert torch.equal(value, other.state()[name]), name


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"architecture": "jumprelu"}, "--architecture jumprelu: not one of"),
        ({"reduction": "max"}, "--reduction max"),
        ({"expansion": 0}, "--expansion 0"),
        ({"l1": float("nan")}, "--l1 nan"),
        ({"l1": -1.0}, "--l1 -1"),
        ({"lr": 0.0}, "--lr 0"),
        ({"k": 0}, "--k 0"),
        ({"batch": 0}, "--sae-batch 0"),
    ],
)
def test_wrong_recipes_are_said(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Recipe(**given)


def test_more_active_features_than_there_are_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="--k 32: an autoencoder of 24 features"):
        Recipe("topk").features(WIDTH)

"""Autoencoders of one shape trained side by side: one product a step for all sites and seeds.

The gradient is written out: five products a step, as by automatic differentiation, without its
copies; Adam is PyTorch's fused one, which at a batch of 128 is a third of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from geoprobe.autoencoders.autoencoder import Autoencoder

if TYPE_CHECKING:
    from torch import Tensor

    from geoprobe.autoencoders.recipe import Recipe

_AUX_WEIGHT = 1 / 32
"""Weight of what dead features make up for (Gao et al. 2024)."""

_FAINT = 0.1
"""Norm of an encoder's directions at the start, as other packages have it."""

_WEIGHTS = ("encoder", "decoder", "encoder_bias", "decoder_bias")


class Losses(NamedTuple):
    """What a step or an evaluation gives, one number a member (K,).

    Attributes:
        loss: What is minimised, without the part for dead features.
        residual: Mean |x - x^|^2 of a sample.
        l0: Mean number of active features.
    """

    loss: Tensor
    residual: Tensor
    l0: Tensor


class Stack:
    """K autoencoders of width d with D features each.

    Args:
        recipe: How they are trained.
        width: d.
        seeds: One a member; members of the same seed begin alike.
        device: Where they are.
    """

    def __init__(
        self, recipe: Recipe, width: int, seeds: Sequence[int], device: torch.device | str = "cpu"
    ) -> None:
        self.recipe = recipe
        self.width, self.features = width, recipe.features(width)
        self.penalty = recipe.penalty(width)
        self.members = len(seeds)
        starts = torch.stack([self._start(seed) for seed in seeds]).to(device)
        self.encoder = torch.nn.Parameter(starts)
        decoder = self.encoder.data.transpose(1, 2)  # a view of the encoder, where they are tied
        self.decoder = decoder if recipe.tied else torch.nn.Parameter(decoder.contiguous())
        if not recipe.tied:
            self.encoder.data *= _FAINT  # or the first reconstructions are much too large
        self.encoder_bias = torch.nn.Parameter(
            torch.zeros(self.members, 1, self.features, device=device)
        )
        self.decoder_bias = torch.nn.Parameter(torch.zeros(self.members, 1, width, device=device))
        self.cutoff = torch.zeros(self.members, device=device)
        self.silent = torch.zeros(self.members, self.features, device=device)
        left_out = {"decoder"} if recipe.tied else set()
        if not recipe.biased:
            left_out.add("decoder_bias")
        self._trained = [name for name in _WEIGHTS if name not in left_out]
        trained = [getattr(self, name) for name in self._trained]
        self._adam = torch.optim.Adam(trained, lr=recipe.rate(self.features), fused=True)
        for weight in trained:
            weight.grad = torch.zeros_like(weight)
            self._adam.state[weight] = {
                "step": torch.zeros((), device=device),
                "exp_avg": torch.zeros_like(weight),
                "exp_avg_sq": torch.zeros_like(weight),
            }

    def _start(self, seed: int) -> Tensor:
        """An encoder (d, D): directions of norm 1, or Glorot's uniform where it is tied."""
        draw = torch.Generator().manual_seed(seed)
        start: Tensor
        if self.recipe.tied:
            spread = (6 / (self.width + self.features)) ** 0.5
            start = torch.rand(self.width, self.features, generator=draw)
            start = 2 * spread * start - spread
        else:
            rows = torch.randn(self.features, self.width, generator=draw)
            start = (rows / rows.norm(dim=1, keepdim=True)).T
        return start.contiguous()

    def _clip(self) -> None:
        """Scales each member's gradient to norm 1 at most, which the first steps need."""
        grads = [g for name in self._trained if (g := getattr(self, name).grad) is not None]
        squares = sum(torch.linalg.vector_norm(g.flatten(1), dim=1).square() for g in grads)
        factor = (1.0 / torch.as_tensor(squares).sqrt().clamp_min(1e-12)).clamp_max_(1.0)
        for grad in grads:
            grad *= factor[:, None, None]

    @torch.no_grad()
    def step(self, x: Tensor) -> Losses:
        """One step of Adam on samples (K, batch, d), each member's own."""
        recipe, count = self.recipe, x.shape[1]
        inward = x - self.decoder_bias if recipe.centred else x
        h = torch.baddbmm(self.encoder_bias, inward, self.encoder)
        dead = self.silent >= recipe.dead_after if recipe.by_k else None
        held = h.clone() if dead is not None and bool(dead.any()) else None
        codes = self._codes(h)
        error = torch.baddbmm(self.decoder_bias, codes, self.decoder).sub_(x)
        active = codes > 0
        found = self._losses(codes, error, active)
        weight = 2.0 / count if recipe.reduction == "sum" else 2.0 / (count * self.width)
        upward = error * weight
        decoder, encoder = self.decoder.grad, self.encoder.grad
        assert encoder is not None
        if decoder is not None:
            torch.bmm(codes.transpose(1, 2), upward, out=decoder)
        back = torch.bmm(upward, self.decoder.transpose(1, 2))
        if not recipe.by_k:
            back += self.penalty / (count if recipe.reduction == "sum" else count * self.features)
        back *= active
        if held is not None and dead is not None and decoder is not None:
            back += self._revive(held, dead, error, weight, decoder)
        torch.bmm(inward.transpose(1, 2), back, out=encoder)
        if recipe.tied:
            encoder.baddbmm_(upward.transpose(1, 2), codes)
        inner, outer = self.encoder_bias.grad, self.decoder_bias.grad
        assert inner is not None
        torch.sum(back, 1, keepdim=True, out=inner)
        if outer is not None:
            torch.sum(upward, 1, keepdim=True, out=outer)
            if recipe.centred:
                outer -= torch.bmm(inner, self.encoder.transpose(1, 2))
        if recipe.norm_one and decoder is not None:
            # What would change a direction's norm is taken out.
            along = (decoder * self.decoder).sum(2, keepdim=True)
            decoder.addcmul_(along, self.decoder, value=-1.0)
        if recipe.by_k:
            self._clip()
        self._adam.step()
        if recipe.norm_one:
            self.decoder.div_(self.decoder.norm(dim=2, keepdim=True).clamp_min_(1e-12))
        self.silent.add_(count).masked_fill_(active.any(1), 0.0)
        return found

    @torch.no_grad()
    def evaluate(self, x: Tensor, mass: Tensor | None = None, cuts: Tensor | None = None) -> Losses:
        """The losses of samples (K, batch, d).

        Args:
            x: The samples.
            mass: The sum of each feature's codes is added to this (K, D).
            cuts: For `batchtopk`, whose threshold is then what keeps k codes a sample of this batch
                on average; it is added, times the number of samples, to this (K,). None runs it
                by `cutoff`, as a trained one is run.
        """
        inward = x - self.decoder_bias if self.recipe.centred else x
        h = torch.baddbmm(self.encoder_bias, inward, self.encoder)
        if self.recipe.architecture == "batchtopk" and cuts is None:
            codes = h.relu_().mul_(h > self.cutoff[:, None, None])
        else:
            codes = self._codes(h, cuts)
        active = codes > 0
        if mass is not None:
            mass += codes.sum(1)
        error = torch.baddbmm(self.decoder_bias, codes, self.decoder).sub_(x)
        return self._losses(codes, error, active)

    def _losses(self, codes: Tensor, error: Tensor, active: Tensor) -> Losses:
        recipe = self.recipe
        residual = error.square().sum(2).mean(1)
        loss = residual if recipe.reduction == "sum" else residual / self.width
        if not recipe.by_k:
            penalty = codes.sum(2).mean(1)
            loss = loss + self.penalty * (
                penalty if recipe.reduction == "sum" else penalty / self.features
            )
        return Losses(loss, residual, active.sum((1, 2)) / codes.shape[1])

    def _codes(self, h: Tensor, cuts: Tensor | None = None) -> Tensor:
        """Codes of pre-activations (K, batch, D), in their place where that is possible."""
        if not self.recipe.by_k:
            return h.relu_()
        if self.recipe.architecture == "topk":
            top = h.topk(self.recipe.k, dim=2, sorted=False)
            return torch.zeros_like(h).scatter_(2, top.indices, top.values.relu_())
        each = min(self.recipe.k * h.shape[1], h[0].numel())
        cut = h.relu_().flatten(1).topk(each, dim=1, sorted=False).values.amin(1)
        if cuts is not None:
            cuts += cut * h.shape[1]
        return h.mul_(h >= cut[:, None, None])

    def _revive(
        self, h: Tensor, dead: Tensor, error: Tensor, weight: float, decoder: Tensor
    ) -> Tensor:
        """Gradient of h (K, batch, D) by which dead features learn what is not reconstructed.

        The k' = d / 2 largest of the dead features reconstruct the error, whose part they miss is
        added to the loss with weight 1/32. Adds to the decoder's gradient, too.
        """
        most = min(self.width // 2, int(dead.sum(1).max())) or 1
        top = h.masked_fill_(~dead[:, None], -torch.inf).topk(most, dim=2, sorted=False)
        codes = torch.zeros_like(h).scatter_(2, top.indices, top.values.relu_())
        missed = torch.bmm(codes, self.decoder).add_(error).mul_(weight * _AUX_WEIGHT)
        decoder += torch.bmm(codes.transpose(1, 2), missed)
        return torch.bmm(missed, self.decoder.transpose(1, 2)).mul_(codes > 0)

    def state(self) -> dict[str, Tensor]:
        """All that a later training needs to go on."""
        found = {name: getattr(self, name).data for name in _WEIGHTS}
        for name in self._trained:
            for kind, value in self._adam.state[getattr(self, name)].items():
                found[f"{name}.{kind}"] = value
        return found | {"cutoff": self.cutoff, "silent": self.silent}

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Takes a state over."""
        for name, value in self.state().items():
            value.copy_(state[name])

    def weights(self) -> dict[str, Tensor]:
        """What makes the autoencoders, one a member along the first axis."""
        return {name: getattr(self, name).data for name in _WEIGHTS} | {"cutoff": self.cutoff}


def autoencoder(
    recipe: Recipe,
    weights: dict[str, Tensor],
    mean: Tensor,
    scale: Tensor,
) -> Autoencoder:
    """A trained autoencoder that reads activations as they are, not standardised.

    With s the scale and m the mean, what was trained reads (x - m) / s: its encoder is divided by
    s, its biases take m in, its decoder is multiplied by s. Codes stay the same.

    Args:
        recipe: How it was trained.
        weights: Of one member, as `Stack.weights` gives them.
        mean: m (d,).
        scale: s ().
    """
    encoder = weights["encoder"] / scale
    inner = weights["encoder_bias"][0]
    if not recipe.centred:  # (x - m) W + b = x W + (b - m W); a centred one has m in its b_dec
        inner = inner - mean @ encoder
    batch = recipe.architecture == "batchtopk"
    return Autoencoder(
        architecture="standard" if recipe.architecture == "tied" else recipe.architecture,
        encoder=encoder,
        decoder=weights["decoder"] * scale,
        encoder_bias=inner,
        decoder_bias=weights["decoder_bias"][0] * scale + mean,
        centred=recipe.centred,
        k=recipe.k if recipe.by_k else None,
        threshold=weights["cutoff"].clone() if batch else None,
        name=recipe.name,
    )

"""A sparse autoencoder: activations in, sparse codes and a reconstruction out.

One class for every architecture: they differ in how codes follow from pre-activations, and each
package in what it does to activations first.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from geoprobe.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Architecture = Literal["standard", "topk", "batchtopk", "jumprelu", "gated"]
Normalisation = Literal["none", "constant_norm", "layer_norm"]

_MANY, _SPARSE = 2**16, 32
"""From so many codes, with so many inactive ones an active one, a sum of rows is less work."""
_TINY = 1e-5
"""Added to a standard deviation that is divided by, as SAELens does."""


@dataclass(frozen=True)
class Autoencoder:
    """Weights, and the rule by which codes follow from them.

    Pre-activations are h = (x - b_dec) W_enc + b_enc (x alone where it is not `centred`), and the
    reconstruction is z W_dec + b_dec. Codes z by architecture: `standard` ReLU(h); `topk` the k
    largest of ReLU(h) of a row; `batchtopk` and `jumprelu` h where it exceeds `threshold`, else 0,
    and never less than 0; `gated` ReLU(h exp(r) + b_mag) where h + b_gate exceeds 0, h then without
    b_enc. A Matryoshka autoencoder is a `batchtopk` one once it is trained.

    Attributes:
        architecture: How codes follow from pre-activations.
        encoder: W_enc (d, D).
        decoder: W_dec (D, d).
        encoder_bias: b_enc (D,); b_gate of a gated one.
        decoder_bias: b_dec (d,).
        centred: Whether b_dec is taken from what is encoded.
        k: Codes of a row that are not 0, of a `topk` one; what a `batchtopk` one was trained for.
        threshold: Where codes begin (D,) or (), of `jumprelu` and `batchtopk`.
        magnitude: exp(r) of a gated one (D,).
        magnitude_bias: b_mag of a gated one (D,).
        by_norm: Whether pre-activations are multiplied by the norms of the decoder's rows before
            codes are made of them, and codes divided by them before they are decoded.
        normalisation: What is done to each row first, and undone on its reconstruction:
            `constant_norm` gives it the norm sqrt(d), `layer_norm` mean 0 and deviation 1.
        site: The site it was trained on, as geoprobe calls it, if its files say.
        name: What to call it: the architecture and sparsity, or its folder's name.
        source: Where it is from: the package whose format its files have, or `geoprobe`.
    """

    architecture: Architecture
    encoder: Tensor
    decoder: Tensor
    encoder_bias: Tensor
    decoder_bias: Tensor
    centred: bool = True
    k: int | None = None
    threshold: Tensor | None = None
    magnitude: Tensor | None = None
    magnitude_bias: Tensor | None = None
    by_norm: bool = False
    normalisation: Normalisation = "none"
    site: str | None = None
    name: str = ""
    source: str = "geoprobe"

    def __post_init__(self) -> None:
        d, features = self.encoder.shape
        shapes = {"decoder": (features, d), "encoder_bias": (features,), "decoder_bias": (d,)}
        for name, shape in shapes.items():
            found = tuple(getattr(self, name).shape)
            if found != shape:
                raise UsageError(
                    f"The autoencoder {self.name or 'given'} is inconsistent: its encoder is "
                    f"{d} x {features}, and its {name.replace('_', ' ')} has shape {found}, not "
                    f"{shape}; its files are damaged or of another format."
                )
        for name in ("magnitude", "magnitude_bias", "threshold"):
            value = getattr(self, name)
            if value is not None and tuple(value.shape) not in (
                [(features,), ()] if name == "threshold" else [(features,)]
            ):
                raise UsageError(
                    f"The autoencoder {self.name or 'given'} is inconsistent: it has {features} "
                    f"features, and its {name.replace('_', ' ')} has shape {tuple(value.shape)}; "
                    "its files are damaged or of another format."
                )
        needed = {
            "topk": ("k",),
            "batchtopk": ("threshold",),
            "jumprelu": ("threshold",),
            "gated": ("magnitude", "magnitude_bias"),
        }.get(self.architecture, ())
        for name in needed:
            if getattr(self, name) is None:
                raise UsageError(
                    f"The autoencoder {self.name or 'given'} is a {self.architecture} one, and its "
                    f"files have no {name.replace('_', ' ')}; without it its codes would be wrong."
                )
        if self.k is not None and not 0 < self.k <= features:
            raise UsageError(
                f"The autoencoder {self.name or 'given'} has {features} features, and k is "
                f"{self.k}; its files are damaged or of another format."
            )

    @property
    def width(self) -> int:
        """Dimensions of what it reads, d."""
        return self.encoder.shape[0]

    @property
    def features(self) -> int:
        """Number of features, D."""
        return self.encoder.shape[1]

    def to(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Autoencoder:
        """The same on a device and in a precision."""
        moved: dict[str, Any] = {
            field.name: value.to(device, dtype).contiguous()
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), torch.Tensor)
        }
        return replace(self, **moved)

    def fingerprint(self) -> str:
        """SHA-256 of the weights and of the rule."""
        digest = hashlib.sha256()
        for field in fields(self):
            value = getattr(self, field.name)
            digest.update(f"{field.name} ".encode())
            if isinstance(value, torch.Tensor):
                exact = value.detach().cpu().float().contiguous()
                digest.update(f"{tuple(exact.shape)} ".encode())
                digest.update(exact.numpy().tobytes())
            else:
                digest.update(f"{value!r} ".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def overflown(self) -> str:
        """The first weight that is not finite, in words; the empty string where all are.

        A threshold may be infinite, which switches its feature off.
        """
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        del found["threshold"]
        if self.by_norm:
            found["norms"] = self.norms()
        for name, value in found.items():
            if isinstance(value, torch.Tensor) and not bool(value.isfinite().all()):
                return name.replace("_", " ")
        return ""

    def norms(self) -> Tensor:
        """Norm of each feature's direction (D,)."""
        found: Tensor = torch.linalg.vector_norm(self.decoder, dim=1)
        return found

    def folded(self) -> Autoencoder:
        """The same without `by_norm`: directions of norm 1 where it had that, and equal codes."""
        if not self.by_norm:
            return self
        norms = self.norms()
        bias = self.magnitude_bias
        return replace(
            self,
            encoder=self.encoder * norms,
            decoder=self.decoder / self._divisors()[:, None],
            encoder_bias=self.encoder_bias * norms,
            magnitude_bias=None if bias is None else bias * norms,
            by_norm=False,
        )

    def _divisors(self) -> Tensor:
        """Norms to divide by; a direction that vanished has the code 0, which stays 0."""
        return self.norms().clamp_min(torch.finfo(self.decoder.dtype).tiny)

    def encode(self, x: Tensor) -> Tensor:
        """Codes (m, D) of activations (m, d)."""
        return self._encode(self._normalised(x)[0])

    def decode(self, codes: Tensor) -> Tensor:
        """Reconstructions (m, d) of codes (m, D), as the rows were normalised."""
        if self.by_norm:
            codes = codes / self._divisors()
        if codes.device.type == "cpu" and codes.numel() >= _MANY:
            active = int(torch.count_nonzero(codes))
            if active * _SPARSE < codes.numel():
                return self._decode_active(codes)
        return torch.addmm(self.decoder_bias, codes, self.decoder)

    def _decode_active(self, codes: Tensor) -> Tensor:
        """The same by the directions of active features alone."""
        rows, features = codes.nonzero(as_tuple=True)
        first = torch.bincount(rows, minlength=len(codes)).cumsum(0).roll(1)
        first[:1] = 0
        found = torch.nn.functional.embedding_bag(
            features,
            self.decoder,
            first,
            mode="sum",
            per_sample_weights=codes[rows, features],
        )
        return found.add_(self.decoder_bias)

    def apply(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Codes (m, D) and reconstructions (m, d) of activations (m, d)."""
        rows, mean, scale = self._normalised(x)
        if self._few:
            top = self._top(self._inward(rows))
            codes = x.new_zeros(len(x), self.features).scatter_(1, top.indices, top.values)
            found = torch.nn.functional.embedding_bag(
                top.indices, self.decoder, mode="sum", per_sample_weights=top.values
            ).add_(self.decoder_bias)
        else:
            codes = self._encode(rows)
            found = self.decode(codes)
        if scale is not None:
            found = found * scale
        return codes, found if mean is None else found + mean

    @property
    def _few(self) -> bool:
        """Whether it is known without looking that few features are active, and which."""
        return (
            self.architecture == "topk"
            and self.k is not None
            and self.k * _SPARSE < self.features
            and not self.by_norm
            and self.decoder.device.type == "cpu"
        )

    def _inward(self, x: Tensor) -> Tensor:
        """Pre-activations (m, D)."""
        if self.centred:
            x = x - self.decoder_bias
        return torch.addmm(self.encoder_bias, x, self.encoder)

    def _top(self, h: Tensor) -> Any:
        """The k largest of each row, never less than 0, and where they are (m, k)."""
        assert self.k is not None
        top = h.topk(self.k, dim=1, sorted=False)
        top.values.relu_()
        return top

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Rows as they are encoded, and the mean and the scale (m, 1) that were taken from them."""
        if self.normalisation == "constant_norm":
            scale = x.norm(dim=1, keepdim=True) / self.width**0.5
            scale = scale.clamp_min(torch.finfo(x.dtype).tiny)  # a row of zeros stays one
            return x / scale, None, scale
        if self.normalisation == "layer_norm":
            mean = x.mean(1, keepdim=True)
            centred = x - mean
            scale = centred.std(1, keepdim=True)
            return centred / (scale + _TINY), mean, scale
        return x, None, None

    def _encode(self, x: Tensor) -> Tensor:
        if self.architecture == "gated":
            assert self.magnitude is not None
            assert self.magnitude_bias is not None
            h = (x - self.decoder_bias if self.centred else x) @ self.encoder
            codes = torch.addcmul(self.magnitude_bias, h, self.magnitude).relu_()
            codes = codes.mul_(h + self.encoder_bias > 0)
            return codes.mul_(self.norms()) if self.by_norm else codes
        h = self._inward(x)
        if self.by_norm:
            h *= self.norms()
        if self.architecture == "topk":
            top = self._top(h)
            return torch.zeros_like(h).scatter_(1, top.indices, top.values)
        if self.threshold is not None:
            return h.mul_(h > self.threshold).relu_()
        return h.relu_()

"""Networks of a user's own, as `--factory` builds them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CHANNELS = 6


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm = nn.BatchNorm2d(CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


class Convolutions(nn.Module):
    """Feature maps, an activation in place that runs several times, a pooled vector at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.blocks = nn.ModuleList([Block() for _ in range(2)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(CHANNELS, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.relu(self.stem(pixels))
        for block in self.blocks:
            x = self.relu(block(x))
        found: Tensor = self.head(self.flatten(self.pool(x)))
        return found


class Words(nn.Module):
    """Token ids, blocks one level down, tied weights, a part that never runs."""

    def __init__(self, mean: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(64, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.1)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.out = nn.Linear(8, 64, bias=False)
        self.out.weight = self.embed.weight
        self.unused = nn.Linear(8, 8)
        self.mean = mean

    def forward(self, ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = None if attention_mask is None else attention_mask == 0
        x = self.encoder(self.embed(ids), src_key_padding_mask=hidden)
        found: Tensor = self.out(x.mean(1) if self.mean else x)
        return found


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 5))


def time_first() -> nn.Module:
    class Transposed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(9, 3)
            self.last = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.last(self.inner(x.transpose(0, 1)).transpose(0, 1))
            return found

    return Transposed()


def fails() -> nn.Module:
    raise RuntimeError("no\nway")


def no_module() -> int:
    return 3


def pooled_words() -> nn.Module:
    return Words(mean=True)


def nameless() -> nn.Module:
    class Nameless(nn.Linear):
        def forward(self, *args: Tensor) -> Tensor:
            return super().forward(args[0])

    return Nameless(9, 2)

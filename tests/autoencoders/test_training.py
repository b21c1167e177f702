"""Training: planted features are found, the best weights are restored, a stop loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from geoprobe.autoencoders.recipe import Recipe
from geoprobe.autoencoders.training import Length, Rows, Trained, Training, train_rows
from geoprobe.errors import CheckpointError

WIDTH, PLANTED = 16, 24


def planted(n: int = 12_000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Sparse sums of random directions around a mean, and the directions."""
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(PLANTED, WIDTH, generator=draw)
    directions /= directions.norm(dim=1, keepdim=True)
    active = torch.rand(n, PLANTED, generator=draw) < 0.05
    codes = active * (0.5 + torch.rand(n, PLANTED, generator=draw))
    return codes @ directions * 3 + 2, directions


class Chunked:
    """Rows in chunks, as activations stream by; may fail once, as a process that is killed."""

    def __init__(self, rows: torch.Tensor, test: torch.Tensor, fails_at: int = -1) -> None:
        self.rows, self.test, self.fails_at, self.given = rows, test, fails_at, 0

    def chunks(self, epoch: int, skip: int = 0) -> Iterator[list[torch.Tensor]]:
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(epoch))
        for part in order.split(1000)[skip:]:
            self.given += 1
            if self.given == self.fails_at:
                raise KeyboardInterrupt
            yield [self.rows[part]]

    def held_out(self) -> Iterator[list[torch.Tensor]]:
        yield [self.test]


@pytest.mark.parametrize("architecture", ["standard", "topk", "batchtopk"])
def test_planted_features_are_found(architecture: Any) -> None:
    rows, directions = planted()
    recipe = Recipe(architecture, k=2, l1=0.1, lr=3e-3)
    found = train_rows(rows, recipe, samples=250_000)[0].autoencoder
    unit = found.decoder / found.norms()[:, None]
    best = (directions @ unit.T).amax(1)
    assert best.median() > 0.95, best
    codes, again = found.apply(rows)
    explained = 1 - (rows - again).square().sum() / (rows - rows.mean(0)).square().sum()
    assert explained > 0.85
    active = (codes > 0).float().sum(1).mean()
    if architecture != "standard":
        assert active == pytest.approx(2, rel=0.15)


def test_the_best_weights_come_back_when_later_ones_are_worse() -> None:
    """After four epochs what is trained on is noise, and what is held out gets worse."""
    rows, _ = planted(3000)

    class Spoilt(Chunked):
        def chunks(self, epoch: int, skip: int = 0) -> Iterator[list[torch.Tensor]]:
            for chunk in super().chunks(epoch, skip):
                yield chunk if epoch < 4 else [torch.randn_like(chunk[0]) * 90 - 300]

    source = Spoilt(rows[:2000], rows[2000:])
    length, recipe = Length(16_000, patience=0, every=2000), Recipe("standard", lr=1e-2)
    found = Training(source, recipe, length, sites=["a"], width=WIDTH, seeds=[0]).run()[0]
    held = [point["held_out"] for point in found.history]
    assert min(held) < 0.8 * held[-1], "it does get worse, or this proves nothing"
    assert found.best_at == found.history[held.index(min(held))]["samples"] < 9000
    coder = found.autoencoder
    codes, again = coder.apply(rows[2000:])
    first = next(source.chunks(0))[0]
    scale = (first - first.mean(0)).square().mean()
    loss = (again - rows[2000:]).square().sum(1).mean() / scale
    loss += recipe.penalty(WIDTH) * codes.sum(1).mean()
    assert loss == pytest.approx(min(held), rel=1e-3)


def test_it_stops_early_and_patience_zero_does_not() -> None:
    rows, _ = planted(3000)
    stopped = train_rows(rows, Recipe(lr=3e-2), samples=400_000, patience=2)[0]
    assert stopped.stopped < 400_000
    assert len(stopped.history) >= 3
    whole = train_rows(rows, Recipe(), samples=20_000, patience=0)[0]
    assert 19_800 <= whole.stopped <= 20_000


def weights_of(trained: Trained) -> list[torch.Tensor]:
    coder = trained.autoencoder
    return [coder.encoder, coder.decoder, coder.encoder_bias, coder.decoder_bias]


@pytest.mark.parametrize("architecture", ["standard", "batchtopk"])
@pytest.mark.parametrize("fails_at", [3, 10, 17])
def test_a_stopped_training_goes_on_to_the_same_bits(
    architecture: Any, fails_at: int, tmp_path: Path
) -> None:
    rows, _ = planted(6000)
    recipe, length = Recipe(architecture, k=2), Length(20_000, every=4000)

    def training(fails: int, state: Path | None) -> Training:
        return Training(
            Chunked(rows[:5000], rows[5000:], fails),
            recipe,
            length,
            sites=["a"],
            width=WIDTH,
            seeds=[0, 1],
            state=state,
            key="this",
            save_every=2000,
        )

    undisturbed = training(-1, None).run()
    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        training(fails_at, state).run()
    again = training(-1, state)
    found = again.run()
    if fails_at > 3:
        assert again.source.given < 20, "it did not begin anew"  # type: ignore[attr-defined]
    for a, b in zip(undisturbed, found, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(weights_of(a), weights_of(b), strict=True))
        assert a.history == b.history
        assert (a.best_at, a.stopped) == (b.best_at, b.stopped)


def test_a_state_of_another_training_or_a_damaged_one_is_not_taken_up(tmp_path: Path) -> None:
    rows, _ = planted(3000)
    state = tmp_path / "state.safetensors"

    def first(key: str) -> torch.Tensor:
        source = Chunked(rows[:2000], rows[2000:])
        length = Length(4000, every=4000)
        given: dict[str, Any] = {"sites": ["a"], "width": WIDTH, "seeds": [0], "state": state}
        found = Training(source, Recipe(), length, key=key, save_every=1000, **given).run()
        assert source.given > 3, "from the beginning"
        return found[0].autoencoder.encoder

    one = first("one")
    assert torch.equal(one, first("other"))
    state.write_bytes(state.read_bytes()[:-100])
    assert torch.equal(one, first("other"))


def test_sites_and_seeds_are_trained_apart() -> None:
    rows, _ = planted(4000)
    other = torch.randn(4000, WIDTH) * 50 - 9
    source = Rows([rows[:3000], other[:3000]], [rows[3000:], other[3000:]])
    length = Length(20_000)
    together = Training(source, Recipe(), length, sites=["a", "b"], width=WIDTH, seeds=[0, 1]).run()
    assert [(t.site, t.seed) for t in together] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    a, b = (t.autoencoder.encoder for t in together[:2])
    assert not torch.allclose(a, b, atol=0.1)
    for trained, x in zip(together, (rows, rows, other, other), strict=True):
        again = trained.autoencoder.apply(x)[1]
        assert (x - again).square().sum() < 0.6 * (x - x.mean(0)).square().sum()


def test_a_site_is_trained_the_same_whatever_stands_beside_it() -> None:
    """And it stops when it is done, though the others go on."""
    rows, _ = planted(4000)
    other = torch.randn(4000, WIDTH) * 50 - 9
    length, recipe = Length(60_000, patience=2, every=3000), Recipe(lr=3e-2)

    def of(*sites: tuple[str, torch.Tensor]) -> dict[int, Trained]:
        source = Rows([x[:3000] for _, x in sites], [x[3000:] for _, x in sites])
        names = [name for name, _ in sites]
        training = Training(source, recipe, length, sites=names, width=WIDTH, seeds=[0])
        return {trained.site: trained for trained in training.run()}

    alone = of(("a", rows))[0]
    beside = of(("b", other), ("a", rows))[1]
    assert alone.stopped == beside.stopped
    assert alone.best_at == beside.best_at
    assert len(alone.history) == len(beside.history)
    for a, b in zip(weights_of(alone), weights_of(beside), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_where_all_is_left_out_it_says_so() -> None:
    empty = Rows([torch.zeros(0, WIDTH)], [torch.zeros(0, WIDTH)])
    for recipe in (Recipe(), Recipe(standardise=False)):
        with pytest.raises(CheckpointError, match="every token of this text is an attention sink"):
            Training(empty, recipe, Length(), sites=["a"], width=WIDTH, seeds=[0]).run()


def test_a_chunk_without_samples_is_passed_over() -> None:
    rows, _ = planted(3000)

    class Gaps(Chunked):
        def chunks(self, epoch: int, skip: int = 0) -> Iterator[list[torch.Tensor]]:
            for i, chunk in enumerate(super().chunks(epoch, 0)):
                if i >= skip:
                    yield chunk if i % 2 else [chunk[0][:0]]

    found = Training(
        Gaps(rows[:2000], rows[2000:]), Recipe(), Length(5000), sites=["a"], width=WIDTH, seeds=[0]
    ).run()[0]
    assert 4800 < found.stopped <= 5000


@pytest.mark.parametrize(("architecture", "offset"), [("standard", 5000.0), ("tied", 0.0)])
def test_one_penalty_means_the_same_at_every_scale(architecture: Any, offset: float) -> None:
    """And, where the decoder has a bias, around every mean."""
    rows, _ = planted(4000)
    recipe = Recipe(architecture)
    small = train_rows(rows, recipe, samples=30_000)[0]
    large = train_rows(rows * 1000 + offset, recipe, samples=30_000)[0]
    for a, b in zip(small.history, large.history, strict=True):
        assert a["held_out"] == pytest.approx(b["held_out"], rel=0.02)
        assert a["l0"] == pytest.approx(b["l0"], rel=0.02)


def test_the_decoder_of_a_tied_one_is_its_encoder() -> None:
    rows, _ = planted(3000)
    found = train_rows(rows, Recipe(), samples=20_000)[0].autoencoder
    assert not found.decoder_bias.any()
    scale = (found.decoder / found.encoder.T).mean()  # of the activations, squared
    torch.testing.assert_close(found.decoder, found.encoder.T * scale, rtol=1e-4, atol=1e-5)


def test_raw_activations_are_trained_on_as_they_are() -> None:
    rows, _ = planted(2000)
    recipe = Recipe(standardise=False, l1=0.0)
    assert recipe.penalty(WIDTH) == 0
    found = train_rows(rows, recipe, samples=3000, patience=0)[0]
    held = rows[torch.randperm(2000, generator=torch.Generator().manual_seed(0))[:200]]
    error = (found.autoencoder.apply(held)[1] - held).square().sum(1).mean()
    assert error == pytest.approx(found.history[-1]["held_out"], rel=1e-4)


def test_a_training_that_diverges_says_so() -> None:
    with pytest.raises(CheckpointError, match="diverged"):
        train_rows(planted(2000)[0], Recipe(lr=1e30), samples=20_000)
    rows = planted(2000)[0]
    rows[:, 3] = float("inf")
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        train_rows(rows, Recipe(), samples=2000)

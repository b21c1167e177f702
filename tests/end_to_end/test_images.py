"""Vision models on a folder of images, against pixels made by hand and transformers' own states."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import geoprobe
from geoprobe.errors import UsageError
from tests.conftest import write_series
from tests.tiny_families import DEPTH, VISION, VOCABULARY, tiny_model

Cli = Callable[..., tuple[int, str, str]]
N, SIDE = 30, 12


def _images(folder: Path, n: int = N) -> Path:
    """Images of several sizes, kinds and depths of folders."""
    draw = np.random.default_rng(0)
    for i in range(n):
        image = Image.fromarray(draw.integers(0, 255, (15 + i % 3, 18, 3), dtype=np.uint8))
        if i % 5 == 0:
            image = image.convert("L")
        path = folder / f"class{i % 2}" / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


def _series(folder: Path, family: str) -> Path:
    for step in (0, 10):
        tiny_model(family, seed=step).save_pretrained(folder / f"step-{step}")
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "ViTImageProcessor",
                "do_resize": True,
                "size": {"height": SIDE, "width": SIDE},
                "resample": 2,
                "do_rescale": True,
                "rescale_factor": 1 / 255,
                "do_normalize": True,
                "image_mean": [0.5, 0.4, 0.3],
                "image_std": [0.5, 0.2, 0.1],
            }
        )
    )
    return folder


def _pixels(folder: Path) -> torch.Tensor:
    found = []
    for path in sorted(folder.rglob("*.png")):
        image = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        scaled = np.asarray(image, dtype=np.float64) / 255
        found.append(((scaled - [0.5, 0.4, 0.3]) / [0.5, 0.2, 0.1]).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(found)).float()


def _rankme(rows: np.ndarray) -> float:
    rows = rows.astype(np.float64)
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    shares = values[values > 1e-12 * values.max()] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


@pytest.mark.parametrize("family", VISION)
def test_readings_of_images_equal_an_independent_computation(family: str, tmp_path: Path) -> None:
    images = _images(tmp_path / "images")
    series = _series(tmp_path / "series", family)
    run = geoprobe.measure(
        series, images=str(images), tokens=("first", "mean", "all"), batch_size=7
    )
    assert run.labels == ["step-0", "step-10"]
    model: Any = tiny_model(family, seed=10)
    with torch.no_grad():
        out = model(pixel_values=_pixels(images), output_hidden_states=True)
    states = dict(
        zip(["embed", *(f"block.{i}" for i in range(DEPTH))], out.hidden_states, strict=True)
    )
    states["final"] = out.last_hidden_state
    table = run.readings.filter(checkpoint="step-10", measure="rankme")
    checked = 0
    for site, tokens, value in table.select("site", "tokens", "value").iter_rows():
        x = states[site].numpy()
        if (site, tokens) == ("embed", "first"):
            assert value is None, "the CLS token has seen nothing yet: it is constant"
            continue
        rows = {"first": x[:, 0], "mean": x.mean(1), "all": x.reshape(-1, x.shape[-1])}[tokens]
        assert value == pytest.approx(_rankme(rows), rel=1e-4), (site, tokens)
        checked += 1
    assert checked == 3 * (DEPTH + 2) - 1


def test_images_of_a_sorted_folder_are_taken_evenly_and_the_first_token_by_default(
    tmp_path: Path, cli: Cli
) -> None:
    images, series = _images(tmp_path / "images"), _series(tmp_path / "series", "vit")
    code, out, err = cli(
        *("rank", series, "--images", images, "--sequences", 10, "--json"),
        *("--out", tmp_path / "run"),
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["corpus"]["images"] == 10
    assert found["corpus"]["shape"] == [3, SIDE, SIDE]
    assert {reading["keys"]["tokens"] for reading in found["readings"]} == {"first"}
    from geoprobe.data.images import image_files

    chosen = image_files(images, 10)
    assert len({path.parent for path in chosen}) == 2
    # The very same command has nothing left to do; another folder of images is another run.
    code, _, err = cli(
        "rank", series, "--images", images, "--sequences", 10, "--out", tmp_path / "run"
    )
    assert (code, "2 checkpoints were measured already" in err) == (0, True)
    chosen[0].write_bytes(chosen[1].read_bytes())
    again = ("rank", series, "--images", images, "--sequences", 10, "--out", tmp_path / "run")
    assert cli(*again)[0] == 2


def test_pixels_that_someone_already_has_give_the_same_readings(tmp_path: Path) -> None:
    images, series = _images(tmp_path / "images"), _series(tmp_path / "series", "dinov2")
    ours = geoprobe.measure(series, images=str(images), tokens="all")
    np.save(tmp_path / "pixels.npy", _pixels(images).numpy())
    given = geoprobe.measure(series, data=str(tmp_path / "pixels.npy"), tokens="all")
    for run in (ours, given):
        assert len(run.readings) > 10
    a, b = (r.readings.filter(measure="rankme")["value"].to_numpy() for r in (ours, given))
    np.testing.assert_allclose(a, b, rtol=1e-4)


def test_the_plan_counts_patches(tmp_path: Path, cli: Cli) -> None:
    images, series = _images(tmp_path / "images"), _series(tmp_path / "series", "dinov2")
    code, out, err = cli("plan", series, "--images", images, "--json")
    assert code == 0, err
    assert json.loads(out)["tokens"] == N * (1 + (SIDE // 4) ** 2)


def test_what_does_not_fit_together_is_a_sentence(tmp_path: Path, cli: Cli) -> None:
    images, series = _images(tmp_path / "images", 4), _series(tmp_path / "series", "vit")
    text = write_series(tmp_path / "text", (0,))
    out = ("--out", tmp_path / "run", "--fresh")
    np.save(tmp_path / "flat.npy", np.ones((5, 7)))
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments, said in (
        ((series,), "vit models read images: give --images FOLDER"),
        ((text, "--images", images), "llama models read text"),
        ((series, "--images", empty), "it has 0 images"),
        ((series, "--images", tmp_path / "nowhere"), "no such folder"),
        ((series, "--images", images, "--data", tmp_path / "flat.npy"), "give one of them"),
        ((series, "--data", tmp_path / "flat.npy"), "(images, channels, height, width)"),
        ((text, "--data", tmp_path / "flat.npy"), "llama models read token ids"),
        ((series, "--images", images, "--drop-sinks"), "--drop-sinks tells sinks"),
        ((series, "--images", images, "--ablate", "2"), "--ablate scores next tokens"),
    ):
        code, _, err = cli("rank", *arguments, *out)
        assert code == 2, said
        assert said in err
    (images / "class0" / "000.png").write_bytes(b"no image")
    code, _, err = cli("rank", series, "--images", images, *out)
    assert code == 2
    assert "000.png cannot be read as an image" in err
    (series / "preprocessor_config.json").unlink()
    code, _, err = cli("rank", series, "--images", images, *out)
    assert code == 2
    assert "no image processor (preprocessor_config.json)" in err


def test_token_ids_as_an_array_are_text(tmp_path: Path) -> None:
    series = write_series(tmp_path / "text", (0,))
    ids = np.random.default_rng(0).integers(0, 60, (20, 6))
    run = geoprobe.measure(series, data=ids, tokens="last")
    model: Any = tiny_model("llama", seed=0)
    with torch.no_grad():
        final = model.model(torch.from_numpy(ids)).last_hidden_state[:, -1].numpy()
    table = run.readings.filter(measure="rankme", site="final")
    assert table["value"][0] == pytest.approx(_rankme(final), rel=1e-4)
    ids[3, 3] = VOCABULARY
    with pytest.raises(UsageError, match=f"knows ids up to {VOCABULARY - 1}"):
        geoprobe.measure(series, data=ids, tokens="last")


def test_of_a_sorted_array_items_are_taken_evenly() -> None:
    from geoprobe.data.arrays import read_array

    taken = read_array(np.repeat(np.arange(10.0), 100)[:, None], 20)
    assert np.bincount(taken.x[:, 0].astype(int)).tolist() == [2] * 10


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("x.npz", lambda p: np.savez(p, a=np.ones((3, 2)), b=np.ones(3)), "no array x"),
        ("x.npy", lambda p: p.write_bytes(b"no"), "cannot be read"),
        ("x.npy", lambda p: np.save(p, np.array([["a", "b"]] * 3)), "give numbers"),
        ("x.npy", lambda p: np.save(p, np.array([[1.0, np.nan]] * 3)), "NaN or infinite"),
        ("x.npy", lambda p: np.save(p, np.ones((1, 4))), "at least 2 items"),
        ("x.npy", lambda p: np.save(p, np.array([{}] * 3), allow_pickle=True), "cannot be read"),
        ("x.csv", lambda p: p.write_text("1,2"), "give a .npy"),
        ("x.safetensors", lambda p: p.write_bytes(b"1234567890"), "cannot be read"),
    ],
)
def test_arrays_that_cannot_be_fed(
    name: str, write: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    from geoprobe.data.arrays import read_array

    write(tmp_path / name)
    with pytest.raises(UsageError, match=said):
        read_array(tmp_path / name)
    with pytest.raises(UsageError, match="no such file"):
        read_array(tmp_path / "absent.npy")

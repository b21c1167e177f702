"""Models of the hub, from a stand-in on this machine: resolved, fetched, measured, evicted."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import geoprobe
from geoprobe.errors import UsageError
from geoprobe.models.hub import absent_of
from geoprobe.models.series import find_series, fingerprint
from tests.conftest import tiny_text, tiny_tokenizer
from tests.hub_for_tests import Hub, serving
from tests.models.saved_models import reference, save
from tests.models.test_pickles import pickle

MODEL = "org/tiny"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with three steps, main among them, and an empty cache."""
    from huggingface_hub import constants

    folders = save(tmp_path / "hub", steps=(0, 1, 2))
    pickle(folders[1])  # as many a revision of Pythia
    for folder in folders:
        tiny_tokenizer().save_pretrained(folder)
        (folder / "optimizer.pt").write_bytes(b"x" * 10_000)
        (folder / "README.md").write_text("not needed")
    with serving() as found:
        found.models[MODEL] = {"main": folders[2]} | {f"step{i}": folders[i] for i in (0, 2, 1)}
        found.tags = {"step1"}
        monkeypatch.setattr(constants, "ENDPOINT", found.url)
        template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield found


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": t}) + "\n" for t in tiny_text(40)))
    return file


def test_revisions_are_measured_as_the_folders_they_are(
    hub: Hub, text: Path, tmp_path: Path
) -> None:
    remote = geoprobe.measure(MODEL, text=str(text), select={"revisions": "step*"})
    local = tmp_path / "local"
    for name in ("step0", "step1", "step2"):
        shutil.copytree(hub.models[MODEL][name], local / name)
    here = geoprobe.measure(local, text=str(text))
    assert remote.labels == here.labels == ["step0", "step1", "step2"]
    assert remote.readings.equals(here.readings)
    entries = remote.checkpoints
    assert [e["commit"] for e in entries] == [hub.commit(MODEL, n) for n in remote.labels]
    assert {e["repo"] for e in entries} == {MODEL}
    assert not {"optimizer.pt", "README.md"} & set(hub.downloads())


def test_sizes_are_shown_before_and_nothing_is_downloaded_for_a_listing(hub: Hub, cli: Cli) -> None:
    code, out, err = cli("series", MODEL, "--revisions", "*")
    assert code == 0, err
    assert [line.split()[1] for line in out.splitlines()[1:4]] == ["step0", "step1", "step2"]
    assert "3 revisions to download from the hub" in out
    assert "main: no step" in out
    assert not hub.downloads()
    code, out, _ = cli("series", f"{MODEL}@step1", "--json")
    (only,) = json.loads(out)["checkpoints"]
    assert only["commit"] == hub.commit(MODEL, "step1")
    weights = hub.models[MODEL]["step1"] / "pytorch_model.bin"
    assert only["size_bytes"] == weights.stat().st_size
    assert only["download_bytes"] > only["size_bytes"]


def test_main_is_measured_by_default_under_the_models_name(
    hub: Hub, text: Path, tmp_path: Path, cli: Cli
) -> None:
    out = tmp_path / "run"
    code, _, err = cli("rank", MODEL, "--text", text, "--out", out, "--quiet")
    assert code == 0, err
    assert "1 revision to download from the hub" in err
    assert geoprobe.open(out).labels == ["tiny"]
    hub.asked.clear()
    code, _, err = cli("rank", MODEL, "--text", text, "--out", out, "--quiet")
    assert "measured already" in err
    assert "to download" not in err
    assert not hub.downloads()


def test_layout_needs_the_config_alone(hub: Hub, cli: Cli) -> None:
    code, out, err = cli("layout", MODEL)
    assert code == 0, err
    assert "llama" in out
    assert "config.json" in hub.downloads()
    assert not any("model.safetensors" in name for name in hub.downloads())


def test_evict_deletes_what_was_downloaded_and_only_that(
    hub: Hub, text: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    geoprobe.measure(f"{MODEL}@step0", text=str(text))  # here before: stays
    run = geoprobe.measure(
        MODEL, text=str(text), select={"revisions": "step*"}, evict=True, out=tmp_path / "run"
    )
    assert run.labels == ["step0", "step1", "step2"]
    left = [p for p in cache.rglob("*") if p.name in ("model.safetensors", "pytorch_model.bin")]
    assert [p.parent.name for p in left] == [hub.commit(MODEL, "step0")]
    sizes = sorted(p.stat().st_size for p in cache.rglob("blobs/*"))
    weights = (hub.models[MODEL]["step0"] / "model.safetensors").stat().st_size
    assert sizes.count(weights) == 1
    hub.asked.clear()
    again = geoprobe.measure(
        MODEL, text=str(text), select={"revisions": "step*"}, evict=True, out=tmp_path / "run"
    )
    assert again.readings.equals(run.readings)
    assert not hub.downloads()


def test_weights_of_a_run_that_was_stopped_are_evicted_when_it_goes_on(
    hub: Hub, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geoprobe import survey

    measured = survey.measure_model
    calls = []

    def stopped(*args: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(*args, **options)  # type: ignore[arg-type]

    options = {"text": str(text), "select": {"revisions": "step*"}, "evict": True}
    monkeypatch.setattr(survey, "measure_model", stopped)
    with pytest.raises(KeyboardInterrupt):
        geoprobe.measure(MODEL, out=tmp_path / "run", **options)
    monkeypatch.setattr(survey, "measure_model", measured)
    run = geoprobe.measure(MODEL, out=tmp_path / "run", **options)
    assert run.labels == ["step0", "step1", "step2"]
    cache = tmp_path / "cache"
    assert not [p for p in cache.rglob("*") if p.name in ("model.safetensors", "pytorch_model.bin")]
    assert not list(cache.rglob("geoprobe-evicts.txt"))


def test_what_two_models_share_stays_when_one_is_evicted(
    hub: Hub, text: Path, tmp_path: Path
) -> None:
    hub.models["org/mirror"] = {"main": hub.models[MODEL]["step0"]}
    geoprobe.measure(f"{MODEL}@step0", text=str(text))
    cache = tmp_path / "cache"
    # As the hub's client does for large files: the blob is a link into a store for all models.
    (link,) = cache.rglob("model.safetensors")
    blob = link.resolve()
    store = cache / "blobs" / "ab" / "abcd"
    store.parent.mkdir(parents=True)
    blob.rename(store)
    blob.symlink_to(store)
    geoprobe.measure("org/mirror", text=str(text), evict=True)
    mine = next((cache / "models--org--mirror" / "blobs").iterdir())
    assert store.is_file()
    assert link.read_bytes() == (hub.models[MODEL]["step0"] / "model.safetensors").read_bytes()
    assert mine.exists()  # config and tokenizer stay


def test_two_bases_of_one_adapter_on_the_hub_are_two_fingerprints(hub: Hub, tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"x" * 10)
    hub.models["org/adapter"] = {"main": folder}
    prints = set()
    for base in ("step0", "step2"):
        (only,) = find_series(["org/adapter"], base=hub.models[MODEL][base]).checkpoints
        prints.add(fingerprint(only))
    assert len(prints) == 2
    (only,) = find_series(["org/adapter"], base=f"{MODEL}@step0").checkpoints
    weights = (hub.models[MODEL]["step0"] / "model.safetensors").stat().st_size
    assert sum(absent_of([only]).values()) > weights, "the base must be downloaded as well"


def test_the_next_revision_is_fetched_while_one_is_measured(
    hub: Hub, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geoprobe import survey

    measured = survey.measure_model
    came: list[int] = []

    def watching(*args: object, **options: object) -> object:
        outcome = measured(*args, **options)  # type: ignore[arg-type]
        for _ in range(100):  # a download of this size takes no second
            came.append(sum("model" in name for name in set(hub.downloads())))
            if came[-1] == 2:
                break
            time.sleep(0.05)
        monkeypatch.setattr(survey, "measure_model", measured)
        return outcome

    monkeypatch.setattr(survey, "measure_model", watching)
    geoprobe.measure(MODEL, text=str(text), select={"revisions": "step[01]"})
    assert came[-1] == 2, "step1's pytorch_model.bin came while step0 was measured"


def test_offline_the_cache_is_enough(hub: Hub, text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    before = geoprobe.measure(MODEL, text=str(text))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    after = geoprobe.measure(MODEL, text=str(text))
    assert after.readings.equals(before.readings)
    assert not hub.asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.broken = True
    assert geoprobe.measure(MODEL, text=str(text)).readings.equals(before.readings)


def test_each_refusal_has_its_sentence(
    hub: Hub, text: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    from huggingface_hub import constants

    hub.models["org/gated"] = hub.models[MODEL]
    hub.gated.add("org/gated")
    for arguments, sentence in (
        (("org/none",), "the hub has no such model"),
        ((f"{MODEL}@step7",), "has no revision 'step7'; it has main, step0, step2, step1"),
        ((f"{MODEL}@{'0' * 40}",), "has no revision '0000"),
        ((MODEL, "--revisions", "stage*"), "'stage\\*' matches no branch or tag"),
        (("org/gated",), "is gated: ask for access"),
        (("a/b--c",), "no name of the hub"),
        (("demo", "--revisions", "step*"), "is for models of the hub"),
    ):
        code, _, err = cli("rank", *arguments, "--text", text)
        assert code == 2, (arguments, err)
        assert len(err.strip().splitlines()) == 1, err
        assert re.search(sentence, err), err
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match="HF_HUB_OFFLINE is set"):
        find_series(["org/elsewhere"])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.broken = True
    with pytest.raises(UsageError, match=r"be reached \(it answers 503\)"):
        find_series(["org/elsewhere"])


def test_a_revision_without_weights_is_said_and_the_others_go_on(hub: Hub, text: Path) -> None:
    (hub.models[MODEL]["step0"] / "model.safetensors").unlink()
    run = geoprobe.measure(MODEL, text=str(text), select={"revisions": "step*"})
    assert run.labels == ["step1", "step2"]
    assert "no weights in safetensors" in str(run.failed)


def test_an_adapter_on_the_hub_finds_its_base_there(hub: Hub, text: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base = hub.models[MODEL]["step0"]
    hub.models["org/base"] = {"main": base}
    adapted = peft.get_peft_model(reference(base), peft.LoraConfig(target_modules=["q_proj"]))
    adapted.peft_config["default"].base_model_name_or_path = "org/base"
    folder = tmp_path / "hub" / "adapter"
    adapted.save_pretrained(folder)
    hub.models["org/adapter"] = {"main": folder}
    merged = geoprobe.measure("org/adapter", text=str(text))
    assert merged.labels == ["adapter"]
    plain = geoprobe.measure("org/base", text=str(text))  # B is zero: the adapter changes nothing
    assert merged.readings["value"].equals(plain.readings["value"])

"""Networks that are in no table: built by a function of the user's, sites named by module path."""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from geoprobe.errors import UsageError
from geoprobe.models.capture import module_by_module
from geoprobe.models.families import Reads
from geoprobe.models.layout import PENULTIMATE, Classifier, Layout, Tap
from geoprobe.models.states import fit, weights_in
from geoprobe.models.tensor_files import tensors_in, unpickled
from geoprobe.models.weights import DamagedError, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from geoprobe.data.inputs import Batch

_FEATURES_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.RNNBase)
_FEATURES_FIRST = (
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.InstanceNorm2d),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)
_CHANGE_NOTHING = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Flatten, nn.Unflatten)
"""Modules whose output is their input when nothing is trained: left out where none are named."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def build(factory: str) -> nn.Module:
    """The network that `package.module:function` gives, in evaluation mode.

    The folder one stands in counts as a place of modules, as it does for `python -m`.

    Raises:
        UsageError: It cannot be imported, fails, or gives something else.
    """
    module_name, _, path = factory.partition(":")
    if not module_name or not path:
        raise UsageError(f"--factory {factory}: give package.module:function.")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found: Any = import_module(module_name)
        for name in path.split("."):
            found = getattr(found, name)
        model = found()
    except Exception as error:  # it is the user's code
        why = " ".join(str(error).split())[:200]
        raise UsageError(
            f"--factory {factory}: it gives no network ({type(error).__name__}: {why}); it must be "
            "importable from here, and be called without arguments."
        ) from error
    finally:
        if added:
            sys.path.remove(here)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"--factory {factory}: it gives a {type(model).__name__}, and must give a "
            "torch.nn.Module."
        )
    return model.eval().requires_grad_(False)


def load_weights(model: nn.Module, files: Sequence[Path]) -> None:
    """Copies weights into a network.

    Args:
        model: The network.
        files: Safetensors files, or one that torch.save wrote; the names may have something in
            front that all of the network's have (`module.`, `model.`).

    Raises:
        DamagedError: A file is damaged, or the weights are not those of this network.
    """
    expected = model.state_dict(keep_vars=True)
    if all(path.suffix == ".safetensors" for path in files):
        state = dict(tensors_in(files))
    else:
        state = {}
        for path in files:
            state |= weights_in(unpickled(path))
    state = fit(state, expected.keys())
    # Of weights that are tied, some formats keep one name only.
    held = {id(expected[name]) for name in state.keys() & expected.keys()}
    problems = [
        f"{what} {', '.join(map(shown, sorted(names)[:3]))}"
        + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        for what, names in (
            ("missing", [n for n, t in expected.items() if n not in state and id(t) not in held]),
            (
                "of another shape",
                [n for n, t in state.items() if n in expected and t.shape != expected[n].shape],
            ),
            ("without a place in the network", sorted(state.keys() - expected.keys())),
        )
        if names
    ]
    if problems:
        raise DamagedError("the weights do not fit the network: " + "; ".join(problems))
    with torch.no_grad():
        for name, tensor in state.items():
            expected[name].copy_(tensor)


def describe(model: nn.Module, fed: Batch, name: str) -> Layout:
    """The sites of any network: the outputs of its modules, by path.

    What comes out of convolutions has its features first (items, channels, height, width), and its
    positions are the tokens; what comes out of linear maps has them last. Modules that are neither
    follow the last one that is.

    Args:
        model: The network, in evaluation mode; on the meta device is enough.
        fed: The first item of what it is fed.
        name: What to call it.

    Raises:
        UsageError: It cannot be run on this input.
    """
    reads = reads_of(model, name)
    weights = next(model.parameters(), None)
    if weights is None:
        raise UsageError(f"{name}: it has no parameters.")
    item = torch.from_numpy(fed.values).to(weights.device)
    item = item.to(weights.dtype) if item.is_floating_point() else item
    tokens = None if fed.lengths is None else item.shape[1]
    twice, thrice = (_shapes(model, reads, item, n, name) for n in (2, 3))
    taps: dict[str, Tap] = {}
    missing: dict[str, str] = {}
    for path, calls in twice.items():
        shape, features = calls[0]
        other = thrice[path][0][0]
        if len(calls) > 1:
            missing[path] = f"that module runs {len(calls)} times in a pass"
        elif len(shape) < 2 or 3 * shape[0] != 2 * other[0] or shape[0] < 2:
            missing[path] = f"its output of shape {shape} does not have the items first"
        else:
            first = features == "first" and len(shape) > 2
            width = shape[1] if first else shape[-1]
            time = math.prod(shape) // (2 * width)
            if tokens is not None and time != tokens:
                missing[path] = f"it has {time} vectors for {tokens} tokens"
                continue
            taps[path] = Tap(path, "output", width, features="first" if first else "last")
    for path, _ in model.named_modules():
        if path and path not in twice:
            missing[path] = "that module is not run in a pass, or gives no tensor of numbers"
    default = tuple(path for path in _usual(model) if path in taps) or tuple(taps)
    if not default:
        raise UsageError(f"{name}: none of its modules gives activations, items first.")
    missing |= {"logits": "a network of --factory has no language-model head"}
    classifier = _classifier(model, reads, item)
    if classifier is None:
        missing[PENULTIMATE] = "the network's output is not that of a linear map to two or more"
    else:
        last: Any = model.get_submodule(classifier.module)
        taps[PENULTIMATE] = Tap(classifier.module, "input", int(last.in_features))
    return Layout(
        family=name,
        depth=0,
        width=max(taps[path].width for path in default),
        vocabulary=0,
        positions=None,
        learned_positions=False,
        bidirectional=False,
        taps=taps,
        backbone="",
        head=None,
        after=None,
        missing=missing,
        reads=reads,
        default=tuple(path for path in taps if path in default),
        item=item,
        classifier=classifier,
    )


def _classifier(model: nn.Module, reads: Reads, item: Tensor) -> Classifier | None:
    """The linear map, one vector an item, whose output is the network's."""
    made: dict[str, Tensor] = {}
    handles = [
        module.register_forward_hook(lambda _, __, out, path=path: made.update({path: out}))
        for path, module in model.named_modules()
        if path and isinstance(module, nn.Linear) and module.out_features > 1
    ]
    try:
        with module_by_module(), torch.inference_mode():
            found = model(**{reads.name: item})
    finally:
        for handle in handles:
            handle.remove()
    output = getattr(found, "logits", found)
    for path, out in made.items():
        if out is output or (
            isinstance(output, Tensor)
            and not output.is_meta
            and out.shape == output.shape
            and torch.equal(out, output)
        ):
            return Classifier(path, out.shape[-1]) if out.ndim == 2 else None
    return None


def reads_of(model: nn.Module, name: str) -> Reads:
    """What a network calls its input: the first parameter of its `forward`.

    Raises:
        UsageError: That has no name.
    """
    # Of the class: one that has been traced before has another in its place.
    parameters = dict(inspect.signature(type(model).forward).parameters)
    parameters.pop(next(iter(parameters), ""), None)  # self
    first = next(iter(parameters.values()), None)
    if first is None or first.kind not in (first.POSITIONAL_OR_KEYWORD, first.KEYWORD_ONLY):
        raise UsageError(
            f"{name}: its forward takes no input by name; wrap it in one with forward(self, x)."
        )
    return Reads(first.name, "attention_mask" if "attention_mask" in parameters else None)


def _usual(model: nn.Module, above: str = "") -> list[str]:
    """Modules measured where none are named: the parts of the network, lists item by item.

    A part that has blocks in a list is shown block by block as well.
    """
    found = []
    for name, child in model.named_children():
        path = f"{above}{name}"
        if isinstance(child, _CONTAINERS):
            found += [f"{path}.{inner}" for inner, part in child.named_children() if _does(part)]
            continue
        if any(_is_list_of_blocks(module) for module in child.modules()):
            found += _usual(child, f"{path}.")
        if _does(child):
            found.append(path)
    return found


def _does(module: nn.Module) -> bool:
    return not isinstance(module, _CHANGE_NOTHING)


def _is_list_of_blocks(module: nn.Module) -> bool:
    inner = list(module.children())
    return isinstance(module, _CONTAINERS) and sum(bool(list(m.children())) for m in inner) > 1


_Seen = tuple[tuple[int, ...], Literal["first", "last"]]


def _shapes(
    model: nn.Module, reads: Reads, item: Tensor, items: int, name: str
) -> dict[str, list[_Seen]]:
    """Shape, and where the features are, of each output of each module, in execution order."""
    found: dict[str, list[_Seen]] = {}
    oriented: list[Literal["first", "last"]] = ["last"]

    def hook_of(path: str) -> Callable[..., None]:
        def note(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(module, _FEATURES_FIRST):
                oriented[0] = "first"
            elif isinstance(module, _FEATURES_LAST):
                oriented[0] = "last"
            value = output[0] if isinstance(output, tuple | list) and output else output
            if isinstance(value, Tensor) and value.is_floating_point():
                found.setdefault(path, []).append((tuple(value.shape), oriented[0]))

        return note

    handles = [
        module.register_forward_hook(hook_of(path))
        for path, module in model.named_modules()
        if path
    ]
    try:
        with module_by_module(), torch.inference_mode():
            model(**{reads.name: item.repeat(items, *[1] * (item.ndim - 1))})
    except Exception as error:  # it is the user's code
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UsageError(
            f"{name}: it cannot be run on items of shape {tuple(item.shape[1:])} ({why}); "
            "give input of the shape that its forward takes."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return found

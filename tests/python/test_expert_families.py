"""The data on families with experts, against the real classes of transformers and PEFT."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

import moe_models
import tiny_models
from loragraft.architecture import family_of
from loragraft.architecture.expert_layout import Orientation
from loragraft.architecture.expert_modules import expert_modules
from loragraft.architecture.experts import find_experts
from loragraft.checkpoint import open_checkpoint
from loragraft.weights.source import Interleaved, Plain, Stacked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn
    from transformers import PreTrainedModel

    from loragraft.architecture.expert_group import ExpertGroup
    from loragraft.architecture.families import Family
    from loragraft.architecture.linear_module import LinearModule
    from loragraft.checkpoint import Checkpoint
    from loragraft.weights.source import Source

FORMS = ("as on the Hub", "as in memory")
RANK = 2


class Saved(NamedTuple):
    model: PreTrainedModel
    directory: Path
    checkpoint: Checkpoint
    family: Family
    groups: tuple[ExpertGroup, ...]
    arrays: dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Saved]:
    models: dict[str, PreTrainedModel] = {}
    made: dict[tuple[str, str], Saved] = {}
    root = tmp_path_factory.mktemp("families")

    def get(model_type: str, form: str) -> Saved:
        key = (model_type, form)
        if key not in made:
            model = models.get(model_type) or moe_models.make(model_type)
            models[model_type] = model
            out = root / f"{model_type}-{len(made)}"
            moe_models.save(model, out, as_in_memory=form == FORMS[1])
            made[key] = read(model, out)
        return made[key]

    return get


def read(model: PreTrainedModel, directory: Path) -> Saved:
    checkpoint = open_checkpoint(directory)
    family = family_of(checkpoint.config)
    groups = find_experts(checkpoint.tensors, family, checkpoint.config)
    arrays = {name: t.numpy() for name, t in tiny_models.read_tensors(directory).items()}
    return Saved(model, directory, checkpoint, family, groups, arrays)


def value(source: Source, arrays: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return a matrix, by the definitions of `Plain`, `Stacked` and `Interleaved`."""
    if isinstance(source, Plain):
        i, j = np.ogrid[: source.rows, : source.columns]
        flat = arrays[source.entry.name].reshape(-1)
        return flat[source.first + i * source.row_stride + j * source.column_stride]
    assert isinstance(source, Stacked | Interleaved)
    parts = [value(part, arrays) for part in source.parts]
    if isinstance(source, Stacked):
        return np.concatenate(parts)
    return np.stack(parts, axis=1).reshape(source.rows, source.columns)


def memory_of(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield the weights of experts in memory, found by the classes that hold them."""
    for path, module in model.named_modules():
        if "Expert" in type(module).__name__:
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.dim() == 3 or "GLU" in type(module).__name__:
                    yield f"{path}.{name}", parameter


def check_module(linear: LinearModule, group: ExpertGroup, here: Saved) -> None:
    """Check one module of the layout ``peft`` against the parameter that it stands for."""
    layout, address = group.layout, linear.address
    holder = here.model.get_submodule(address.module)
    assert linear.name == f"{address.module}.{address.parameter}"
    own = [n for n, p in holder.named_parameters(recurse=False) if p.dim() > 1 and "bias" not in n]
    assert own.index(address.parameter) == address.order
    assert getattr(holder, "is_transposed", False) == layout.is_transposed
    if hasattr(holder, "is_concatenated"):
        assert holder.is_concatenated == (not layout.memory.interleaved)
    parameter = holder.get_parameter(address.parameter).detach().numpy()
    if linear.experts == 0:
        parameter = parameter[None]
    assert len(linear.matrices) == len(parameter)
    for matrix, slab in zip(linear.matrices, parameter, strict=True):
        in_out = layout.memory.orientation is Orientation.IN_OUT
        np.testing.assert_array_equal(value(matrix, here.arrays), slab.T if in_out else slab)
        assert linear.shape == (matrix.rows, matrix.columns)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model_type", moe_models.FAMILIES)
def test_experts_are_what_the_model_has_in_memory(
    model_type: str, form: str, saved: Callable[[str, str], Saved]
) -> None:
    here = saved(model_type, form)
    memory = dict(memory_of(here.model))
    assert memory
    tensors = {name for group in here.groups for names in group.tensors.values() for name in names}
    held = {parameter.data_ptr(): parameter.numel() for parameter in memory.values()}
    assert sum(here.arrays[name].size for name in tensors) == sum(held.values())
    found = {m.name for group in here.groups for m in expert_modules(group, "peft")}
    if model_type != "diffusion_gemma":
        assert found == set(memory)
    for group in here.groups:
        for linear in expert_modules(group, "peft"):
            check_module(linear, group, here)


@pytest.mark.parametrize("model_type", moe_models.FAMILIES)
def test_both_forms_give_the_same_modules(
    model_type: str, saved: Callable[[str, str], Saved]
) -> None:
    """Names, shapes and addresses tell nothing of the files; single experts have their names."""
    hub, memory = (saved(model_type, form) for form in FORMS)
    for layout in ("peft", "peft-legacy", "per-expert"):
        ours, theirs = (
            [m for group in here.groups for m in expert_modules(group, layout)]
            for here in (hub, memory)
        )
        assert list(map(identity, ours)) == list(map(identity, theirs))
        for one, other in zip(ours, theirs, strict=True):
            for a, b in zip(one.matrices, other.matrices, strict=True):
                np.testing.assert_array_equal(value(a, hub.arrays), value(b, memory.arrays))


def identity(linear: LinearModule) -> LinearModule:
    return linear._replace(tensors=(), matrices=())


@pytest.mark.parametrize("model_type", moe_models.FAMILIES)
def test_single_experts_have_their_names_on_disk(
    model_type: str, saved: Callable[[str, str], Saved]
) -> None:
    here = saved(model_type, FORMS[0])
    for group in here.groups:
        spec = next(iter(group.layout.per_expert), None)
        for linear in expert_modules(group, "per-expert"):
            (name,) = linear.tensors
            (matrix,) = linear.matrices
            if spec is not None and name.split(".")[-2] in dict(spec.names).values():
                assert name.endswith(
                    f"{spec.module}{linear.name.removeprefix(group.single)}.weight"
                )
                np.testing.assert_array_equal(value(matrix, here.arrays), here.arrays[name])

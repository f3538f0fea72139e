"""Models in GGUF files, read as checkpoints: names, rows, codes, and files that are odd."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest

import gguf_models as models
import llama_models
import native_tasks as nt
import stored_kinds
from hostile_safetensors import check_message
from loragraft.architecture.modules import take_inventory
from loragraft.checkpoint import open_checkpoint
from loragraft.errors import FormatError, LoragraftError, MismatchError
from loragraft.ggml.family import families
from loragraft.tensor_entry import TensorEntry
from loragraft.tensor_reader import TensorReader
from loragraft.weights.matrices import MatrixFactory
from loragraft.weights.reader import rows
from loragraft.weights.source import Q8Blocks, matrix_of
from raw_gguf import STRING, U32, array, entry, raw_gguf, string, tensor, u32

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from loragraft import native
    from loragraft.architecture.linear_module import LinearModule
    from loragraft.checkpoint import Checkpoint

    Array = np.ndarray[Any, Any]

Model = tuple["Path", models.Source]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """Each case as transformers saves it, made once."""
    made: dict[str, Model] = {}

    def get(case: str) -> Model:
        if case not in made:
            path = llama_models.build(case, tmp_path_factory.mktemp("model") / "hf")
            made[case] = path, models.read(path)
        return made[case]

    return get


def modules_of(checkpoint: Checkpoint) -> dict[str, LinearModule]:
    inventory = take_inventory(checkpoint)
    return {linear.name: linear for linear in (*inventory.linears, *inventory.embeddings)}


def weights_of(checkpoint: Checkpoint) -> Iterator[tuple[str, Array]]:
    """Name and number -> matrix, read in NumPy."""
    with TensorReader() as reader:
        for linear in modules_of(checkpoint).values():
            for number, matrix in enumerate(linear.matrices):
                yield f"{linear.name} {number}", rows(reader, matrix, 0, matrix.rows)


def native_matrix(tmp_path: Path, values: Array) -> native.StoredMatrix:
    """A matrix of these numbers in a file of its own."""
    return stored_kinds.reference(tmp_path / "reference", values)("mmap")


def check_equal_to_native(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """The kernels read what NumPy reads, number for number."""
    factory = MatrixFactory("mmap")
    with TensorReader() as reader:
        for linear in modules_of(checkpoint).values():
            for number, matrix in enumerate(linear.matrices):
                values = rows(reader, matrix, 0, matrix.rows)
                path = tmp_path / f"{linear.name}.{number}"
                task = stored_kinds.task(
                    stored_kinds.reference(path, values)("mmap"), factory.make(matrix)
                )
                (found,) = nt.run([task], threads=1)
                assert found.unchanged, linear.name


@pytest.mark.parametrize("case", models.READABLE)
def test_every_weight_is_that_of_safetensors(
    tmp_path: Path, built: Callable[[str], Model], case: str
) -> None:
    directory, source = built(case)
    path = models.write(tmp_path / "model.gguf", source)
    expected, found = open_checkpoint(directory), open_checkpoint(path, gguf=True)
    theirs, ours = modules_of(expected), modules_of(found)
    assert theirs.keys() == ours.keys()
    for name, linear in theirs.items():
        assert ours[name].shape == linear.shape
        assert ours[name].address == linear.address, name
        assert (ours[name].kind, ours[name].role) == (linear.kind, linear.role)
    same = dict(weights_of(expected))
    for name, values in weights_of(found):
        np.testing.assert_array_equal(values, same[name], err_msg=name)
    check_equal_to_native(tmp_path, found)
    assert found.config is not None
    assert expected.config is not None
    for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "tie_word_embeddings"):
        assert found.config[key] == expected.config.get(key, True), key


@pytest.mark.parametrize("dtype", ["F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("case", ["llama", "qwen3_moe", "gpt_oss", "phi3"])
def test_every_dtype(tmp_path: Path, built: Callable[[str], Model], case: str, dtype: str) -> None:
    """What a matrix is read as is what its codes stand for, by the package's own tables."""
    _, source = built(case)
    kind = gguf.GGMLQuantizationType[dtype]

    def rounded(name: str, values: Array) -> tuple[Array, Any]:
        stored, kind = models.in_dtype(dtype)(name, values)
        back = gguf.quants.dequantize(stored, kind).reshape(values.shape)
        return np.ascontiguousarray(back, np.float32), gguf.GGMLQuantizationType.F32

    stored = open_checkpoint(models.write(tmp_path / "a.gguf", source, dtype=dtype), gguf=True)
    plain = open_checkpoint(models.write(tmp_path / "b.gguf", source, store=rounded), gguf=True)
    same = dict(weights_of(plain))
    found = dict(weights_of(stored))
    assert found.keys() == same.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, same[name], err_msg=name)
    dtypes = {entry.dtype for entry in stored.tensors.values() if len(entry.shape) > 1}
    assert kind.name in dtypes
    check_equal_to_native(tmp_path, stored)


def q8_tensor(path: Path, raw: Array, count: int, columns: int) -> TensorEntry:
    path.write_bytes(b"\0" * 34 + raw.tobytes())
    return TensorEntry("t", "Q8_0", (count, columns), path, 34, raw.nbytes)


@pytest.mark.parametrize(("first", "step"), [(0, 1), (3, 1), (1, 2), (2, 3)])
def test_rows_of_q8(tmp_path: Path, first: int, step: int) -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((20, 96)).astype(np.float32)
    values[4] = 0.0
    raw = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
    chosen = expected[first::step][:5]
    source = Q8Blocks(q8_tensor(tmp_path / "x", raw, 20, 96), 5, 96, first, step)
    with TensorReader() as reader:
        np.testing.assert_array_equal(rows(reader, source, 0, 5), chosen)
        np.testing.assert_array_equal(rows(reader, source, 2, 4), chosen[2:4])
        nested = source.rows_from(1, 2, 2)
        np.testing.assert_array_equal(rows(reader, nested, 0, 2), chosen[1::2])
    for io in ("mmap", "pread"):
        task = stored_kinds.task(native_matrix(tmp_path, chosen), MatrixFactory(io).make(source))
        assert nt.run([task], threads=1)[0].unchanged


def test_every_scale_and_code_of_q8(tmp_path: Path) -> None:
    """All 65536 scales, the subnormal ones and both zeros too, times all 256 codes."""
    scales = np.arange(65536, dtype=np.uint16)
    finite = scales[np.isfinite(scales.view(np.float16))]
    raw = np.zeros((len(finite), 34), np.uint8)
    raw[:, :2] = finite[:, None].view(np.uint8)
    codes = (np.arange(len(finite) * 32) * 37 % 256).astype(np.uint8)
    raw[:, 2:] = codes.reshape(-1, 32)
    width = 16
    count = len(finite) // width
    raw = raw[: count * width].reshape(count, width * 34)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType.Q8_0)
    source = Q8Blocks(q8_tensor(tmp_path / "x", raw, count, 32 * width), count, 32 * width)
    with TensorReader() as reader:
        np.testing.assert_array_equal(rows(reader, source, 0, count), expected)
    task = stored_kinds.task(native_matrix(tmp_path, expected), MatrixFactory("mmap").make(source))
    assert nt.run([task], threads=1)[0].unchanged


@pytest.mark.parametrize("shards", [2, 3])
def test_split_files(tmp_path: Path, built: Callable[[str], Model], shards: int) -> None:
    directory, source = built("llama")
    first = models.write(tmp_path / "model.gguf", source, shards=shards)
    same = dict(weights_of(open_checkpoint(directory)))
    parts = sorted(tmp_path.glob("*.gguf"))
    for path in parts:
        found = open_checkpoint(path, gguf=True)
        assert len(found.shards) == shards
        for name, values in weights_of(found):
            np.testing.assert_array_equal(values, same[name])
    # One of several under another name would be a model with tensors missing.
    alone = first.rename(tmp_path / "alone.gguf")
    refused(alone, FormatError, "split.count")


def refused(path: Path, kind: type[LoragraftError], *words: str, skeleton: bool = False) -> str:
    with pytest.raises(kind) as caught:
        open_checkpoint(path, gguf=True, skeleton=skeleton)
    message = str(caught.value)
    check_message(message, path.parent.name)
    for word in words:
        assert word in message
    return message


def raw_model(*entries: bytes, arch: str = "llama", names: tuple[str, ...] = ()) -> bytes:
    table = [tensor(name, offset=32 * i) for i, name in enumerate(names)]
    first = entry("general.architecture", STRING, string(arch))
    return raw_gguf([first, *entries], table, bytes(32 * len(names)))


BLOCKS = entry("llama.block_count", U32, u32(2))
HOSTILE = {
    "no blocks": raw_model(),
    "no blocks at all": raw_model(entry("llama.block_count", U32, u32(0))),
    "four billion blocks": raw_model(entry("llama.block_count", U32, u32(2**32 - 1))),
    "blocks are text": raw_model(entry("llama.block_count", STRING, string("2"))),
    "blocks are an array": raw_model(entry("llama.block_count", 9, array(U32, 2, u32(1) + u32(2)))),
    "no heads": raw_model(BLOCKS, names=("blk.0.attn_q.weight",)),
    "no architecture": raw_gguf([entry("general.architecture", U32, u32(1))]),
    "two architectures in one": raw_model(arch="llama\nqwen2"),
    "unknown architecture": raw_model(arch="mamba"),
    "vocabulary": raw_model(entry("general.type", STRING, string("vocab"))),
    "adapter": raw_model(entry("general.type", STRING, string("adapter"))),
    "split into none": raw_model(BLOCKS, entry("split.count", U32, u32(4))),
    "split is text": raw_model(BLOCKS, entry("split.count", STRING, string("4"))),
    "split is an array": raw_model(BLOCKS, entry("split.count", 9, array(U32, 1, u32(2)))),
}


@pytest.mark.parametrize("skeleton", [False, True])
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_models(tmp_path: Path, case: str, skeleton: bool) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(HOSTILE[case])
    if case == "no heads":
        # One dimension: no matrix whose rows could lie otherwise.
        open_checkpoint(path, gguf=True, skeleton=skeleton)
        return
    refused(path, LoragraftError, skeleton=skeleton)


def test_a_name_that_tells_of_no_parts(tmp_path: Path) -> None:
    path = tmp_path / "x-00001-of-00000.gguf"
    path.write_bytes(raw_model(BLOCKS))
    assert open_checkpoint(path, gguf=True).shards == (path,)


def test_names_that_nobody_knows_stay(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    names = ("blk.0.attn_norm.weight", "blk.7.attn_q.weight", "strange", "blk.0.ffn_up.scale")
    path.write_bytes(raw_model(BLOCKS, names=names))
    found = open_checkpoint(path, gguf=True)
    assert list(found.tensors) == [
        "blk.7.attn_q.weight",
        "model.layers.0.input_layernorm.weight",
        "model.layers.0.mlp.up_proj.scale",
        "strange",
    ]


def test_a_family_that_is_not_read(tmp_path: Path, built: Callable[[str], Model]) -> None:
    """Columns lie in another order there; as a skeleton it will do."""
    directory, source = built("qwen3_5_moe_text")
    kept = {n: t for n, t in source.tensors.items() if _known(n)}
    path = models.write(tmp_path / "x.gguf", source._replace(tensors=kept))
    refused(path, MismatchError, "qwen35moe", "safetensors")
    found = modules_of(open_checkpoint(path, gguf=True, skeleton=True))
    expected = modules_of(open_checkpoint(directory))
    assert found.keys() == expected.keys()
    for name, linear in expected.items():
        assert (found[name].shape, found[name].address) == (linear.shape, linear.address)


def _known(name: str) -> bool:
    if "linear_attn" in name:
        return "_proj" in name
    return "A_log" not in name


def test_what_only_some_commands_read(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(raw_model(BLOCKS))
    with pytest.raises(FormatError, match="safetensors"):
        open_checkpoint(path)


def test_every_family_has_a_class_and_a_case() -> None:
    cases = {llama_models.CASES[case][0] for case in llama_models.CASES}
    for family in families():
        assert cases & set(family.model_types), family.arch
        assert family.model_class.endswith("ForCausalLM")


def test_whole_tensors_lie_where_the_header_says(
    tmp_path: Path, built: Callable[[str], Model]
) -> None:
    """Norms and biases too, which nothing rearranges."""
    _, source = built("qwen2")
    found = open_checkpoint(models.write(tmp_path / "x.gguf", source), gguf=True)
    assert found.tensors.keys() == source.tensors.keys()
    with TensorReader() as reader:
        for name, info in found.tensors.items():
            matrix = matrix_of(info)
            values = rows(reader, matrix, 0, matrix.rows).reshape(info.shape)
            np.testing.assert_array_equal(values, source.tensors[name])

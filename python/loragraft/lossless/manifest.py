"""The list of the tuned checkpoint's tensors in a residual: what each is and how it is stored."""

from __future__ import annotations

import json
import math
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from loragraft.errors import FormatError
from loragraft.json_text import parse_object
from loragraft.number_formats import DTYPES, WEIGHT_DTYPES, nbytes_of
from loragraft.wording import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loragraft.tensor_entry import TensorEntry

#: Of the safetensors metadata; its value is the manifest.
MANIFEST_KEY: Final = "loragraft.residual/1"
#: What makes such a file.
HOW_TO_MAKE: Final = "loragraft extract BASE TUNED -o OUT --exact --patch"
GAPS_DTYPE: Final = "U16"

_UNSIGNED: Final = {1: "U8", 2: "U16", 4: "U32", 8: "U64"}
_FIELDS: Final = {"name", "dtype", "shape", "sha256", "stored"}
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_MAX_DIMENSIONS: Final = 32
_INT_LIMIT: Final = 2**63


class Stored(StrEnum):
    """How a tensor is stored in a residual."""

    NOTHING = "nothing"
    SPARSE = "sparse"
    WHOLE = "whole"


class Record(NamedTuple):
    """A tensor of the tuned checkpoint.

    Attributes:
        name: Its name there.
        dtype: Its safetensors code.
        shape: Its dimensions.
        sha256: Of its bytes, in hexadecimal digits.
        stored: What the residual has of it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    stored: Stored

    @property
    def nbytes(self) -> int:
        """Size of the tensor."""
        return nbytes_of((self.name, self.dtype, self.shape))

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the tensors in the file: of gaps and values, or of the whole."""
        match self.stored:
            case Stored.SPARSE:
                return (f"{self.name}.gaps", f"{self.name}.values")
            case Stored.WHOLE:
                return (f"{self.name}.whole",)
        return ()

    def comes_from(self, before: TensorEntry | None) -> bool:
        """Say whether merging can give a tensor of this dtype and shape out of a base's."""
        if before is None or before.shape != self.shape:
            return False
        return before.dtype == self.dtype or {before.dtype, self.dtype} <= set(WEIGHT_DTYPES)


def unit_of(dtype: str) -> int:
    """Return how many bytes one position stands for: a number's, or 1 where it takes no whole."""
    bits = DTYPES[dtype].bits
    return 1 if bits % 8 else bits // 8


def values_dtype(dtype: str) -> str:
    """Return the dtype of bit patterns of a dtype's units."""
    return _UNSIGNED[unit_of(dtype)]


def manifest_text(records: Iterable[Record]) -> str:
    """Return the manifest as it stands in the file."""
    tensors = [{**record._asdict(), "shape": list(record.shape)} for record in records]
    return json.dumps({"tensors": tensors}, ensure_ascii=False, separators=(",", ":"))


def parse_manifest(text: str, where: str) -> dict[str, Record]:
    """Read a manifest that is not trusted.

    Raises:
        FormatError: It is malformed.
    """
    content = parse_object(text.encode("utf-8"), where)
    tensors = content.get("tensors")
    if content.keys() != {"tensors"} or not isinstance(tensors, list) or not tensors:
        _fail(where, f"has {quoted(sorted(content))}, expected tensors alone, a list with some")
    records: dict[str, Record] = {}
    for record in _records(tensors, where):
        if record.name in records:
            _fail(where, f"names tensor {quoted(record.name)} twice")
        records[record.name] = record
    return records


def _records(tensors: list[Any], where: str) -> Iterator[Record]:
    for fields in tensors:
        if not isinstance(fields, dict) or fields.keys() != _FIELDS:
            _fail(where, f"has the entry {quoted(fields)}, expected {', '.join(sorted(_FIELDS))}")
        name, dtype, shape = fields["name"], fields["dtype"], fields["shape"]
        if not isinstance(name, str) or not name or not name.isprintable():
            _fail(where, f"has the tensor name {quoted(name)}, expected a printable one")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            _fail(where, f"gives tensor {quoted(name)} the unknown dtype {quoted(dtype)}")
        if not _is_shape(shape) or DTYPES[dtype].bits * math.prod(shape) % 8:
            _fail(where, f"gives tensor {quoted(name)} the shape {quoted(shape)}, which is none")
        if not isinstance(fields["sha256"], str) or not _SHA256.fullmatch(fields["sha256"]):
            _fail(
                where,
                f"gives tensor {quoted(name)} the sha256 {quoted(fields['sha256'])}, expected 64"
                " hexadecimal digits",
            )
        if fields["stored"] not in list(Stored):
            _fail(
                where,
                f"says that of tensor {quoted(name)} {quoted(fields['stored'])} is stored, expected"
                f" one of {', '.join(Stored)}",
            )
        yield Record(name, dtype, tuple(shape), fields["sha256"], Stored(fields["stored"]))


def _is_shape(shape: Any) -> bool:
    """Whether a value is a list of JSON integers from 0 to 2^63 - 1, as long as headers allow."""
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
        return False
    # bool is a subclass of int, hence the exact type.
    return set(map(type, shape)) <= {int} and all(0 <= length < _INT_LIMIT for length in shape)


def _fail(where: str, what: str) -> NoReturn:
    raise FormatError(f"{where}: {what}; make it again: {HOW_TO_MAKE}")

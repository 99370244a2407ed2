"""Tensors of many processes in one folder of safetensors files, by torch's distributed checkpoint (DCP).

Each process writes one file with its shards; who reads may be one process or many. Nothing is pickled: the
table of DCP's own format is, so that is not used.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from compressive_transformer.errors import UsageError
from compressive_transformer.storage import MAX_NUMBER, is_count, parse_json, read_header

PLACES = "DCP_SHARDING_INFO"
"""The writer's note in a header, of where shards belong."""
DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
"""By their names in safetensors files: those of ``storage.ITEM_BYTES``."""


def save_tensors(folder: Path, tensors: Mapping[str, Tensor], group: ProcessGroup | None = None) -> None:
    """Writes tensors and shards (DTensor). All processes of the group call this with the same folder.

    Raises:
        OSError: the disk is full, or something else that hinders writing, on any process.
    """
    # Imported late, for it takes a second.
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with _errors(folder):
        writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
        save(dict(tensors), storage_writer=writer, process_group=group, no_dist=group is None)


def tensor_shapes(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and type of every tensor in the folder.

    Raises:
        UsageError: a file there is not a safetensors file.
    """
    found: dict[str, tuple[torch.Size, torch.dtype]] = {}
    filled: Counter[str] = Counter()
    for path in sorted(folder.glob("*.safetensors")):
        for name, (offsets, sizes, dtype) in _parts(path).items():
            stop = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
            before, known = found.get(name, (stop, dtype))
            if len(before) != len(stop) or known != dtype:
                raise UsageError(f"{path} is broken ({name!r} does not fit its other parts)")
            found[name] = torch.Size(map(max, before, stop)), dtype
            filled[name] += math.prod(sizes)
    for name, (shape, _) in found.items():
        if math.prod(shape) != filled[name]:  # else the rest would be whatever lay in memory
            raise UsageError(f"{folder} has only parts of {name!r}; it is damaged")
    return found


def _parts(path: Path) -> dict[str, tuple[list[int], list[int], torch.dtype]]:
    """Where the tensors of a file belong in the whole ones, their shapes and types; from its header alone."""
    header = read_header(path)
    places = _places(path, header.pop("__metadata__", {}))
    parts = {}
    for name, entry in header.items():
        sizes = entry["shape"]
        place = places.get(name) if places is not None else {"saved_offsets": [0] * len(sizes)}
        offsets = place.get("saved_offsets") if isinstance(place, dict) else None
        if not isinstance(offsets, list) or len(offsets) != len(sizes) or not all(map(is_count, offsets)):
            raise UsageError(f"{path} is broken (where {name!r} belongs); restore it")
        if any(offset + size >= MAX_NUMBER for offset, size in zip(offsets, sizes, strict=True)):
            raise UsageError(f"{path} is broken (where {name!r} belongs); restore it")
        parts[name] = offsets, sizes, DTYPES[entry["dtype"]]
    return parts


def _places(path: Path, notes: dict[str, str]) -> dict[str, Any] | None:
    """What the writer noted of the shards in a file; None in a file of whole tensors."""
    try:
        places = parse_json(note) if (note := notes.get(PLACES)) else None
    except ValueError:
        places = []
    if not isinstance(places, dict | None):
        raise UsageError(f"{path} is broken (in its header); restore it")
    return places


def load_tensors(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Reads tensors, or the shards of them that are wanted here, in place.

    Raises:
        UsageError: a tensor is missing, or of another shape.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    shapes = tensor_shapes(folder)
    for name, x in into.items():
        if name not in shapes:
            raise UsageError(f"{folder} has no {name}; it is of another model or optimiser")
        if shapes[name][0] != x.shape:
            raise UsageError(f"{folder} has {name} of shape {tuple(shapes[name][0])}, not {tuple(x.shape)}")
    with _errors(folder):
        load(dict(into), storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)


@contextmanager
def _errors(folder: Path) -> Iterator[None]:
    """Unwraps what DCP wraps, and keeps it from warning that it works for one process."""
    from torch.distributed.checkpoint.api import CheckpointException

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        try:
            yield
        except CheckpointException as error:
            causes = [cause for cause, _ in error.failures.values()]
            known = [cause for cause in causes if isinstance(cause, OSError)]
            raise known[0] if known else OSError(f"{folder}: {causes[0]}") from error

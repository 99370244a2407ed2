"""Tensors of many processes in one folder of safetensors files, by torch's distributed checkpoint (DCP).

Each process writes one file with its shards; who reads may be one process or many. Nothing is pickled: the
table of DCP's own format is, so that is not used.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.distributed import ProcessGroup

from compressive_transformer.errors import UsageError
from compressive_transformer.storage import read_header


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
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    for path in sorted(folder.glob("*.safetensors")):
        read_header(path)
    found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
    tensors = ((name, meta) for name, meta in found.items() if isinstance(meta, TensorStorageMetadata))
    return {name: (meta.size, meta.properties.dtype) for name, meta in tensors}


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

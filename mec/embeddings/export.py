"""What a server holds of a compressed embedding: named arrays as they are stored, and where each one's bytes count.

A bundle of kind ``embedding``: ``arrays.safetensors`` and, in the manifest, the method's name, its settings, the
layout, each array's part and small facts of each vocabulary such as a hash's salt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mec.bundle import Bundle, open_bundle, write_bundle
from mec.data.layout import FieldLayout
from mec.errors import BundleError

Part = Literal["codes", "codebooks", "rows", "index", "other"]
PARTS: tuple[Part, ...] = get_args(Part)
ARRAYS_FILE = "arrays.safetensors"
# bits and codes are packed into bytes
STORED_TYPES = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.float16, torch.float32)


@dataclass(frozen=True)
class Array:
    """A tensor that a server holds, and the part of ``serving_bytes`` that it counts under."""

    part: Part
    tensor: Tensor


@dataclass(frozen=True)
class Export:
    """A compressed embedding as a server holds it.

    Attributes:
        method: Name of the compression method.
        settings: Its settings, JSON.
        layout: Fields and vocabularies.
        embedding_dim: D; rows come out D + 1 wide.
        arrays: Name -> array at its stored width; ``vocabulary/name``, or ``*/name`` where vocabularies share it.
        facts: Vocabulary -> what decoding needs beside arrays; JSON, of a size that does not grow with V.
    """

    method: str
    settings: dict[str, Any]
    layout: FieldLayout
    embedding_dim: int
    arrays: dict[str, Array]
    facts: dict[str, dict[str, Any]]

    def num_bytes(self) -> dict[str, int]:
        """Bytes of the arrays, by part; every part is named."""
        result = no_bytes()
        for array in self.arrays.values():
            result[array.part] += array.tensor.numel() * array.tensor.element_size()
        return result


def no_bytes() -> dict[str, int]:
    """Every part, with 0 bytes."""
    return dict.fromkeys(PARTS, 0)


def write_export(out: Path, export: Export, parents: Mapping[str, Bundle | str] | None = None) -> None:
    """Write an export as a bundle of kind ``embedding``.

    Args:
        out: Directory of the bundle.
        export: Every tensor of one of ``STORED_TYPES``.
        parents: Role -> bundle that it was trained on.
    """
    wrong = {name: str(a.tensor.dtype) for name, a in export.arrays.items() if a.tensor.dtype not in STORED_TYPES}
    assert not wrong, f"arrays are stored as {STORED_TYPES}: {wrong}"
    with write_bundle(out, "embedding", parents=parents, config=export.settings) as draft:
        save_file({n: a.tensor.detach().cpu().contiguous() for n, a in export.arrays.items()}, draft.path / ARRAYS_FILE)
        draft.extra = {
            "method": export.method,
            "settings": export.settings,
            "layout": export.layout.to_json(),
            "embedding_dim": export.embedding_dim,
            "parts": {name: array.part for name, array in export.arrays.items()},
            "facts": export.facts,
        }


def read_export(directory: Path | str | Bundle) -> Export:
    """Read what ``write_export`` wrote.

    Raises:
        BundleError: No such bundle, a corrupt file, or arrays that are not those its manifest lists.
    """
    bundle = directory if isinstance(directory, Bundle) else open_bundle(directory, "embedding")
    extra = bundle.extra
    tensors = load_file(bundle.file(ARRAYS_FILE))
    parts = extra["parts"]
    if tensors.keys() != parts.keys() or not set(parts.values()) <= set(PARTS):
        raise BundleError(
            f"the arrays of {bundle.path} are not those its manifest lists: {sorted(parts)}",
            found=sorted(tensors),
            fix="export the method again with this version of mec",
        )
    return Export(
        method=extra["method"],
        settings=extra["settings"],
        layout=FieldLayout.from_json(extra["layout"]),
        embedding_dim=int(extra["embedding_dim"]),
        arrays={name: Array(parts[name], tensor) for name, tensor in tensors.items()},
        facts=extra["facts"],
    )

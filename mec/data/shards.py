"""Encoded rows on disk: ``.npy`` shards per split that grow row by row."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mec.data.layout import FieldLayout

SPLITS = ("train", "valid", "test")  # in the order of the readers' split codes 0, 1, 2
SHARD_ROWS = 1_000_000


class DatasetWriter:
    """Appends encoded rows to the shards of a dataset bundle that is being written.

    Use it as a context manager inside ``write_bundle(path, "dataset")``, then put ``extra()`` into the draft's extra.

    Args:
        path: Directory of the bundle.
        layout: Fields and vocabularies of the ids.
        with_time: Whether rows carry a time.
        shard_rows: Rows of a full shard.
    """

    def __init__(
        self, path: Path, layout: FieldLayout, *, with_time: bool = False, shard_rows: int = SHARD_ROWS
    ) -> None:
        self._path = path
        self._layout = layout
        self._shard_rows = shard_rows
        self._specs: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {
            "ids": (np.dtype(np.uint32), (layout.num_slots,)),
            "label": (np.dtype(np.uint8), ()),
        }
        if layout.linear_fields:
            self._specs["numerics"] = (np.dtype(np.float32), (len(layout.linear_fields),))
        if with_time:
            self._specs["time"] = (np.dtype(np.float64), ())
        self._open: dict[str, dict[str, _NpyAppender]] = {}
        self._shards: dict[str, list[int]] = {s: [] for s in SPLITS}

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for split in list(self._open):
            self._close(split)

    def append(
        self,
        split: str,
        ids: NDArray[np.uint32],
        label: NDArray[np.uint8],
        *,
        numerics: NDArray[np.float32] | None = None,
        time: NDArray[np.float64] | None = None,
    ) -> None:
        """Append rows to one split.

        Args:
            split: train, valid or test.
            ids: (n, S); ``PAD_ID`` in empty slots of sequence fields.
            label: (n,), 0 or 1.
            numerics: (n, L), one weight per linear field (1 where the value is null); only with linear fields.
            time: (n,); only with ``with_time``.
        """
        arrays: dict[str, NDArray[Any] | None] = {"ids": ids, "label": label, "numerics": numerics, "time": time}
        rows: dict[str, NDArray[Any]] = {name: array for name, array in arrays.items() if array is not None}
        assert rows.keys() == self._specs.keys(), f"got {sorted(rows)}, need {sorted(self._specs)}"
        for name, (dtype, shape) in self._specs.items():
            assert rows[name].dtype == dtype, f"{name}: {rows[name].dtype}, need {dtype}"
            assert rows[name].shape == (len(label), *shape), f"{name}: {rows[name].shape}"
        start = 0
        while start < len(label):
            shards = self._shards[split]
            if split not in self._open:
                shards.append(0)
                self._start(split, len(shards) - 1)
            stop = min(len(label), start + self._shard_rows - shards[-1])
            for name, appender in self._open[split].items():
                appender.append(rows[name][start:stop])
            shards[-1] += stop - start
            start = stop
            if shards[-1] == self._shard_rows:
                self._close(split)

    def extra(self) -> dict[str, Any]:
        """What readers need: layout, rows and shards per split."""
        rows = {split: sum(self._shards[split]) for split in SPLITS}
        return {
            "layout": self._layout.to_json(),
            "rows": rows,
            "shards": {split: list(self._shards[split]) for split in SPLITS},
        }

    def _start(self, split: str, shard: int) -> None:
        (self._path / split).mkdir(exist_ok=True)
        self._open[split] = {
            name: _NpyAppender(self._path / shard_file(split, name, shard), dtype, shape)
            for name, (dtype, shape) in self._specs.items()
        }

    def _close(self, split: str) -> None:
        for appender in self._open.pop(split).values():
            appender.close()


def shard_file(split: str, name: str, shard: int) -> str:
    """Name of one shard's file inside the bundle; ``name`` is ids, label, numerics or time."""
    return f"{split}/{name}-{shard:05d}.npy"


class _NpyAppender:
    """A ``.npy`` file that grows; numpy pads its header so that the row count can be written at the end."""

    def __init__(self, path: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self._file = path.open("wb+")
        self._dtype = dtype
        self._row_shape = row_shape
        self._num_rows = 0
        self._write_header()
        self._header_bytes = self._file.tell()

    def append(self, rows: NDArray[Any]) -> None:
        self._file.write(np.ascontiguousarray(rows).data)
        self._num_rows += len(rows)

    def close(self) -> None:
        with self._file:
            self._file.seek(0)
            self._write_header()
            assert self._file.tell() == self._header_bytes, "the .npy header changed its length"

    def _write_header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (self._num_rows, *self._row_shape),
            },
        )

"""Sharded tables as the first process writes them into a bundle."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch

from mec.distributed.processes import current
from mec.distributed.sharded_table import ShardedTable
from mec.embeddings.full import CHUNK_ROWS, FullEmbedding


def gathered(embedding: FullEmbedding, folder: Path) -> FullEmbedding | None:
    """The embedding with all its rows, in the first process; every process has to call this.

    Rows come a chunk at a time into a file that is mapped into memory and has no name, so that the system may put them
    out of memory again, and they are gone from the disk with the process.

    Args:
        embedding: Trained; given back as it is where its rows are all here.
        folder: On the disk that has room for 4 (D + 1) bytes per value; made if need be.

    Returns:
        The embedding, on the CPU where it was sharded; None in other processes than the first.
    """
    if not isinstance(embedding.table, ShardedTable):
        return embedding
    first = current().first
    num_rows, width = embedding.layout.num_values, embedding.embedding_dim + 1
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            mapped = np.memmap(file, dtype=np.float32, mode="w+", shape=(num_rows, width))
    for start in range(0, num_rows, CHUNK_ROWS):
        rows = embedding.table.read_rows(start, min(start + CHUNK_ROWS, num_rows))
        if first:
            mapped[start : start + len(rows)] = rows.numpy()
    return FullEmbedding(embedding.layout, embedding.embedding_dim, torch.from_numpy(mapped)) if first else None

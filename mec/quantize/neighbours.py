"""Whether values keep their nearest neighbours when they are coded: overlap of a sample, and some to read.

Nearest is by cosine of the D-dimensional vectors, without the first-order weight. Values with one code have one vector,
so many may be equally near: the overlap is its mean over all ways to break such ties, and nothing hangs on the order
of ids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.evaluation.slices import is_by_popularity

MAX_VALUES = 10_000
NUM_QUERIES = 256
NUM_NEAREST = 10
NUM_SHOWN = 5  # values to read, and neighbours of each
_CHUNK_QUERIES = 64
_TIE = 2e-6  # cosines of equal vectors differ by rounding
_DECIMALS = 6

Names = Callable[[NDArray[np.int64]], list[str]]


def sample_values(counts: NDArray[np.int64], most: int = MAX_VALUES) -> NDArray[np.int64]:
    """Values to look for neighbours among: all seen in training, or the most popular and every n-th of the others.

    Args:
        counts: (V,) training counts by id; id 0 is no value.
        most: How many at most, at least 2.

    Returns:
        (N,) ids in rising order.
    """
    num = int(np.count_nonzero(counts[1:]))
    ranks = np.arange(num)
    if num > most:
        popular = most // 2
        ranks = np.append(ranks[:popular], np.linspace(popular, num - 1, most - popular).astype(np.int64))
    if not is_by_popularity(counts):
        ranks = np.argsort(-counts[1:], kind="stable")[ranks]
    return np.sort(ranks + 1)


def compare_neighbours(
    ids: NDArray[np.int64],
    counts: NDArray[np.int64],
    slices: Sequence[str],
    exact: Tensor,
    decoded: Tensor,
    names: Names,
) -> dict[str, Any] | None:
    """Nearest neighbours by decoded vectors against those by the vectors that were coded.

    Args:
        ids: (N,) of the sample.
        counts: (N,) training counts.
        slices: N names of popularity slices.
        exact: (N, D) vectors before coding.
        decoded: (N, D) after.
        names: Ids to values as text.

    Returns:
        JSON value, None for fewer than two values: ``sample``, ``nearest`` (10, or all others where there are fewer),
        ``queries``, ``overlap`` (mean share of neighbours kept), ``chance`` (of a random choice), ``same_vector``
        (other values of the sample with a query's decoded vector, mean), ``by_slice``; and ``shown``: the most popular
        values with ``value``, ``count``, ``overlap``, ``before`` and ``after`` (nearest values with their cosines) and
        ``as_near``, how many values more are as near as the last of ``after``.
    """
    if len(ids) < 2:
        return None
    order = np.argsort(-counts, kind="stable")  # ties are listed most popular first
    ids, counts, slices = ids[order], counts[order], [slices[place] for place in order]
    before, after = (_unit(vectors[torch.from_numpy(order)]) for vectors in (exact, decoded))
    nearest = min(NUM_NEAREST, len(ids) - 1)
    queries = np.unique(np.linspace(0, len(ids) - 1, min(NUM_QUERIES, len(ids))).astype(np.int64))
    overlap, same = np.zeros(len(queries)), np.zeros(len(queries))
    for start in range(0, len(queries), _CHUNK_QUERIES):
        part = torch.from_numpy(queries[start : start + _CHUNK_QUERIES])
        near, near_after = _cosines(before, part), _cosines(after, part)
        kept = (_membership(near, nearest) * _membership(near_after, nearest)).sum(1) / nearest
        overlap[start : start + len(part)] = kept.numpy()
        same[start : start + len(part)] = (near_after > 1 - _TIE).sum(1).numpy()
    shown = torch.arange(min(NUM_SHOWN, len(ids)))
    near, near_after = _cosines(before, shown), _cosines(after, shown)
    kept = (_membership(near, nearest) * _membership(near_after, nearest)).sum(1) / nearest
    return {
        "sample": len(ids),
        "nearest": nearest,
        "queries": len(queries),
        "overlap": round(float(overlap.mean()), _DECIMALS),
        "chance": round(nearest / (len(ids) - 1), _DECIMALS),
        "same_vector": round(float(same.mean()), _DECIMALS),
        "by_slice": _by_slice([slices[query] for query in queries], overlap),
        "shown": [
            {
                "value": names(ids[place : place + 1])[0],
                "count": int(counts[place]),
                "overlap": round(float(kept[place]), _DECIMALS),
                "before": _listed(near[place], ids, names)[0],
                "after": _listed(near_after[place], ids, names)[0],
                "as_near": _listed(near_after[place], ids, names)[1],
            }
            for place in range(len(shown))
        ],
    }


def _unit(vectors: Tensor) -> Tensor:
    """Vectors of length 1; one of length 0 stays, and is equally near to all."""
    lengths = vectors.square().sum(dim=1, keepdim=True).sqrt()
    return vectors / lengths.clamp_min(torch.finfo(torch.float32).tiny)


def _cosines(vectors: Tensor, queries: Tensor) -> Tensor:
    """(Q, N) cosines of some of the vectors to all; -2 to themselves."""
    cosines: Tensor = vectors[queries] @ vectors.T
    cosines[torch.arange(len(queries)), queries] = -2
    return cosines


def _membership(cosines: Tensor, num: int) -> Tensor:
    """(Q, N) chance to be among the ``num`` nearest when ties are broken at random."""
    last = cosines.topk(num, dim=1).values[:, -1:]  # (Q, 1)
    above = cosines > last + _TIE
    tied = (cosines - last).abs() <= _TIE
    chances: Tensor = above + tied * (num - above.sum(1, keepdim=True)) / tied.sum(1, keepdim=True)
    return chances


def _by_slice(slices: Sequence[str], overlap: NDArray[np.float64]) -> dict[str, dict[str, float]]:
    found = {}
    for name in dict.fromkeys(slices):  # most popular first
        chosen = overlap[[place for place, other in enumerate(slices) if other == name]]
        found[name] = {"queries": len(chosen), "overlap": round(float(chosen.mean()), _DECIMALS)}
    return found


def _listed(cosines: Tensor, ids: NDArray[np.int64], names: Names) -> tuple[list[list[Any]], int]:
    """The nearest values with their cosines, and how many others are as near as the last."""
    num = min(NUM_SHOWN, len(ids) - 1)
    last = float(cosines.topk(num).values[-1])
    above = torch.nonzero(cosines > last + _TIE)[:, 0]
    above = above[cosines[above].argsort(descending=True, stable=True)]
    tied = torch.nonzero((cosines - last).abs() <= _TIE)[:, 0]
    places = torch.cat([above, tied])[:num]
    listed = zip(names(ids[places.numpy()]), cosines[places].tolist(), strict=True)
    return [[name, round(cosine, 3)] for name, cosine in listed], len(above) + len(tied) - num

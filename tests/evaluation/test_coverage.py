"""Values and impressions by the way they are stored, against a loop over ids."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mec.evaluation.coverage import WAYS, coverage, vocabulary_coverage
from mec.quantize.plan import VocabularyPlan, stream_places

COUNTS = np.random.default_rng(0).integers(1, 1000, 60)


@pytest.mark.parametrize(
    ("head", "tail_start", "base"), [(0, 0, 0), (7, 60, 0), (0, 30, 0), (7, 30, 0), (7, 30, 50), (0, 0, 50), (7, 0, 50)]
)
def test_every_value_is_counted_where_it_is_stored(head: int, tail_start: int, base: int) -> None:
    plan = VocabularyPlan("residual", 1, 4, head, tail_start, base)
    size = len(COUNTS)
    places = stream_places(torch.arange(size), head, plan.coded(size), plan.tail(size), base or None).tolist()
    values, impressions = dict.fromkeys(WAYS, 0), dict.fromkeys(WAYS, 0)
    for value in range(size):
        if 1 <= value <= head:
            way = "head"
        elif places[value] == 0 and tail_start not in (0, base or size):
            way = "tail"
        else:
            way = "coded"
        values[way] += 1
        impressions[way] += int(COUNTS[value])
    found = vocabulary_coverage("user", COUNTS, plan)
    assert found == {"vocabulary": "user", "unknown": COUNTS[0], "values": values, "impressions": impressions}


def test_exact_vocabularies_and_their_order() -> None:
    counts = {"colour": COUNTS[:5], "b": COUNTS, "a": COUNTS}
    found = coverage(counts, {"a": VocabularyPlan("product", 2, 4)})
    assert [row["vocabulary"] for row in found] == ["a", "b", "colour"]
    assert found[0]["values"] == {"head": 0, "coded": 60, "tail": 0, "exact": 0}
    assert found[2]["values"] == {"head": 0, "coded": 0, "tail": 0, "exact": 5}
    assert found[2]["impressions"] == {"head": 0, "coded": 0, "tail": 0, "exact": COUNTS[:5].sum()}

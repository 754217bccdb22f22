"""Which plan each vocabulary gets: the settings' one, or what a byte budget leaves it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from mec.config import QuantizeConfig
from mec.quantize.allocation import TableToPlace, allocate
from mec.quantize.budget import parse_budget
from mec.quantize.fitting import check_shape
from mec.quantize.plan import VocabularyPlan, check_order, settings_plan
from mec.quantize.pretrained_tables import PretrainedTables

_FULL_FLOAT_BYTES = 4

Plans = dict[str, VocabularyPlan | None]


def choose_plans(
    tables: PretrainedTables, quantize: QuantizeConfig, *, seed: int, report: Callable[[float, str], None]
) -> tuple[Plans, dict[str, Any]]:
    """Plan every vocabulary.

    Args:
        tables: Rows and counts.
        quantize: A budget, or the plan of all vocabularies that are coded.
        seed: Of samples that a budget's plans are compared on.
        report: Told of progress with a budget: the share done, from 0 to 1, and a text.

    Returns:
        Vocabulary -> plan, None where all rows are exact, as they are where a plan would take no fewer bytes; and a
        JSON value that says why, empty without a budget.

    Raises:
        ConfigError: M, K and D do not go together, the budget is too small, or there is no such device.
        BundleError: Ids are not in order of popularity, and there is a head, a tail or a budget; or a size differs.
        TrainingError: A table cannot be coded.
    """
    if quantize.budget is not None:
        return _allocated(tables, quantize, quantize.budget, seed, report)
    check_shape(quantize.structure, quantize.num_codes, tables.width)
    plans: Plans = {}
    for name, size in tables.sizes.items():
        counts = tables.counts(name)
        plan = settings_plan(quantize, size, counts)
        if plan is not None and not plan.saves_bytes(size, tables.width, quantize.float_bytes):
            plan = None
        if plan is not None and (plan.head or plan.has_tail(size)):
            check_order(name, counts)
        plans[name] = plan
    return plans, {}


def _allocated(
    tables: PretrainedTables, quantize: QuantizeConfig, budget: str, seed: int, report: Callable[[float, str], None]
) -> tuple[Plans, dict[str, Any]]:
    to_place = []
    for name, size in tables.sizes.items():
        counts = tables.counts(name)
        check_order(name, counts)
        to_place.append(TableToPlace(name, size, partial(tables.rows, name), tables.weights(name), counts))
    full_bytes = sum(tables.sizes.values()) * tables.width * _FULL_FLOAT_BYTES
    num_bytes = parse_budget(budget).bytes(full_bytes)
    allocation = allocate(to_place, num_bytes, tables.width, quantize, seed, report)
    return dict(allocation.plans), {"budget": budget, "full_bytes": full_bytes, **allocation.to_json()}

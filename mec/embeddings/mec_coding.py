"""Pre-trained tables in memory to codebooks and codes, as the quantize step makes them of bundles."""

from __future__ import annotations

import hashlib
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mec.config import QuantizeConfig
from mec.embeddings.mec_settings import MecSettings
from mec.embeddings.method import MethodInputs
from mec.errors import ConfigError, TrainingError
from mec.quantize.allocation import TableToPlace, allocate
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.coding import CodedTable, code_table
from mec.quantize.fit_watch import FitWatch
from mec.quantize.plan import check_order, settings_plan
from mec.quantize.planning import Plans
from mec.quantize.reliability import popularity_ranges, reliability, sample_ranges
from mec.quantize.storage import stored
from mec.quantize.weights import popularity_weights


def settings_plans(inputs: MethodInputs, settings: MecSettings) -> Plans:
    """The plan of every vocabulary that the settings say.

    Raises:
        ConfigError: Plans of other vocabularies.
        BundleError: There is a head or a tail, and ids are not in order of popularity.
    """
    sizes = dict(inputs.layout.vocabularies)
    if settings.plans is not None and settings.plans.keys() != sizes.keys():
        raise ConfigError(
            f"the plans are not those of the vocabularies {', '.join(sizes)}",
            found=", ".join(settings.plans),
            fix="ask for the settings of a budget again (for_budget)",
        )
    plans: Plans = {}
    for name, size in sizes.items():
        if settings.plans is None:
            plan = settings_plan(settings.quantize, size, inputs.counts[name])
            if plan is not None and not plan.saves_bytes(size, inputs.width, settings.float_bytes):
                plan = None
        else:
            given = settings.plans[name]
            plan = None if given is None else given.plan
        if plan is not None and (plan.head or plan.has_tail(size)):
            check_order(name, inputs.counts[name])
        plans[name] = plan
    return plans


def budget_plans(inputs: MethodInputs, budget_bytes: int, quantize: QuantizeConfig) -> Plans:
    """What a budget leaves each vocabulary, by weighted distortion; see ``mec.quantize.allocation``.

    Raises:
        ConfigError: The budget is too small.
        BundleError: Ids are not in order of popularity.
        TrainingError: No value of a vocabulary was seen in training.
    """
    tables = []
    for name, size in inputs.layout.vocabularies:
        check_order(name, inputs.counts[name])
        weights = value_weights(inputs, name, quantize)
        tables.append(TableToPlace(name, size, partial(_own_rows, inputs, name), weights, inputs.counts[name]))
    return allocate(tables, budget_bytes, inputs.width, quantize, inputs.seed, lambda share, text: None).plans


def code_tables(inputs: MethodInputs, plans: Plans, quantize: QuantizeConfig) -> Codes:
    """Fit codebooks and code every vocabulary that has a plan.

    Raises:
        ConfigError: M and D do not go together, or a float that cannot be stored as set.
        TrainingError: No value of a vocabulary was seen in training, or a loss term is not finite.
    """
    done: dict[str, CodedTable] = {}
    exact: dict[str, Tensor] = {}
    for name, plan in plans.items():
        rows = _own_rows(inputs, name)
        if plan is None:
            exact[name] = stored(rows, quantize.floats, f"a row of vocabulary {name!r}")
            continue
        # the quantize step's seed: the same tables give the same codes
        seed = int.from_bytes(hashlib.sha256(f"{inputs.seed}/{name}".encode()).digest()[:6], "little")
        weights = value_weights(inputs, name, quantize)
        done[name] = code_table(
            name, rows, weights, plan, quantize, seed=seed, watch=FitWatch(), coded=lambda num: None
        )
    books = {name: table.book for name, table in done.items()}
    tails = {n: p.tail_start for n, p in plans.items() if p is not None and p.has_tail(inputs.layout.size(n))}
    return Codes(
        Codebooks("", inputs.layout, inputs.embedding_dim, books, exact, quantize.floats),
        {name: table.packed for name, table in done.items()},
        head={name: table.head for name, table in done.items() if len(table.head)},
        tail_start=tails,
    )


def value_weights(inputs: MethodInputs, name: str, quantize: QuantizeConfig) -> Tensor:
    """(V,) float32 weights of the values' squared errors, as ``PretrainedTables.weights`` has them.

    Raises:
        ConfigError: Reliability is wanted, and there are no out-of-fold tables.
        TrainingError: No value was seen in training.
    """
    counts = inputs.counts[name]
    if not counts.any():
        raise TrainingError(
            f"no value of vocabulary {name!r} was seen in training",
            found="counts of 0",
            fix="count the training split again",
        )
    weights = popularity_weights(counts, quantize.weights)
    if inputs.folds is None and quantize.reliability:
        raise ConfigError(
            "quantize.reliability compares models trained without a fold each, and there are none",
            found="no folds",
            fix="pre-train with folds, or set quantize.reliability to null",
        )
    if inputs.folds is not None and quantize.reliability is not False:
        ranges = popularity_ranges(counts)
        shares = _reliability(inputs, name, ranges, quantize.max_points)
        weights[ranges >= 0] *= shares[ranges[ranges >= 0]].astype(np.float32)
    return torch.from_numpy(weights)


def _reliability(inputs: MethodInputs, name: str, ranges: NDArray[np.int64], max_points: int) -> NDArray[np.float64]:
    assert inputs.folds is not None
    index, numbers = sample_ranges(ranges, max_points), range(inputs.folds.folds.num)
    known = np.logical_and.reduce([inputs.folds.counts(number, name)[index] > 0 for number in numbers])
    return reliability([inputs.folds.rows(number, name)[index] for number in numbers], ranges[index], known)


def _own_rows(inputs: MethodInputs, name: str) -> Tensor:
    assert inputs.pretrained is not None
    return inputs.pretrained[name].clone()

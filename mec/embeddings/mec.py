"""mec's own codes as a compression method: the quantize step on pre-trained tables, decoded by ``CodedEmbedding``.

Residual or product codes by weighted k-means or the MEC objective (arXiv 2502.15355), exact rows for the head, one
shared code for the tail, shapes per vocabulary by a byte budget, and out-of-fold codes to train on where the inputs
have out-of-fold tables. Codes, codewords and bytes are those that the train pipeline makes of the same tables.

Bytes per vocabulary: codes ceil(V' M ceil(log2 K) / 8) for V' values with a code of their own, codebooks M K (D + 1)
floats for residual and K (D + 1) for product codes, rows (D + 1) floats per value of the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mec.embeddings.coded import CodedEmbedding
from mec.embeddings.exact_rows import at_stored_width, round_floats, rows_bytes
from mec.embeddings.export import Array, Export, no_bytes
from mec.embeddings.mec_coding import budget_plans, code_tables, settings_plans
from mec.embeddings.mec_settings import MecSettings, PlanSettings
from mec.embeddings.method import METHODS, Method, MethodInputs, with_settings
from mec.embeddings.sizing import BudgetError
from mec.errors import ConfigError
from mec.quantize.allocation import least_bytes
from mec.quantize.codebook import Codebooks, make_codebook
from mec.quantize.codes import Codes
from mec.quantize.fold_codes import code_folds


@METHODS.register("mec")
class Mec(Method[MecSettings]):
    """Codes of pre-trained rows; with ``allocate`` it has one size, and spends a budget itself.

    Raises:
        ConfigError: No pre-trained tables, or settings that do not go together.
        BundleError: A head, a tail or a budget, and ids that are not in order of popularity.
        TrainingError: A table that cannot be coded.
    """

    name = "mec"
    Settings = MecSettings
    needs_pretrained = True

    def __init__(self, inputs: MethodInputs, settings: MecSettings) -> None:
        super().__init__(inputs, settings)
        plans = settings_plans(inputs, settings)
        self.codes = code_tables(inputs, plans, settings.quantize_config)
        weighting = settings.quantize.weights
        folds = None if inputs.folds is None else code_folds(inputs.folds, self.codes, weighting)
        self.coded = CodedEmbedding(self.codes.codebooks, self.codes, settings.codewords, folds)

    def forward(self, ids: Tensor, fold: Tensor | None = None) -> Tensor:
        """Rows of a batch.

        Args:
            ids: (B, S) int32.
            fold: (B,) int64, the fold of each training row, for rows that never saw its label; None: as served.

        Returns:
            (B, S, D + 1) float32.
        """
        rows: Tensor = self.coded(ids, fold)
        return rows

    @property
    def frozen(self) -> bool:
        """Where codewords are."""
        return self.settings.codewords == "frozen"

    @classmethod
    def planned_bytes(cls, inputs: MethodInputs, settings: MecSettings) -> dict[str, int]:
        """As the module's first lines say."""
        result = no_bytes()
        for name, plan in settings_plans(inputs, settings).items():
            if plan is None:
                result["rows"] += rows_bytes(inputs.counts, [name], inputs.width, settings.float_bytes)
                continue
            size = inputs.layout.size(name)
            for part, num_bytes in plan.serving_bytes(size, inputs.width, settings.float_bytes).items():
                result[part] += num_bytes
        return result

    def finish(self) -> None:
        """Round what was trained; see ``Method.finish``."""
        for parameter in self.coded.parameters():
            parameter.requires_grad_(False)
        trained = {key: array for key, array in self._arrays().items() if array.tensor.dtype == torch.float32}
        round_floats(trained, self.settings.floats)

    def export(self) -> Export:
        """See ``Method.export``."""
        facts = {name: PlanSettings.of(self.codes.plan(name)).model_dump() for name in self.coded.coded_names}
        arrays = at_stored_width(self._arrays(), self.settings.floats)
        settings = self.settings.model_dump(mode="json")
        return Export(self.name, settings, self.layout, self.embedding_dim, arrays, facts)

    def _arrays(self) -> dict[str, Array]:
        coded, arrays = self.coded, {}
        for name, codewords in zip(coded.coded_names, coded.codewords, strict=True):
            arrays[f"{name}/codes"] = Array("codes", torch.from_numpy(self.codes.packed[name]))
            arrays[f"{name}/codewords"] = Array("codebooks", codewords)
            if name in self.codes.head:
                arrays[f"{name}/head"] = Array("rows", self.codes.head[name])
        for name, rows in zip(coded.exact_names, coded.exact, strict=True):
            arrays[f"{name}/rows"] = Array("rows", rows)
        return arrays

    @classmethod
    def serve(cls, export: Export) -> nn.Module:
        """See ``Method.serve``."""
        arrays = {key: array.tensor for key, array in export.arrays.items()}
        plans = {name: PlanSettings.model_validate(facts).plan for name, facts in export.facts.items()}
        floats = MecSettings.model_validate(export.settings).floats
        books = {
            name: make_codebook(plan.structure, arrays[f"{name}/codewords"].float(), plan.num_codes)
            for name, plan in plans.items()
        }
        exact = {name: arrays[f"{name}/rows"] for name, _ in export.layout.vocabularies if name not in plans}
        sizes = dict(export.layout.vocabularies)
        codes = Codes(
            Codebooks("", export.layout, export.embedding_dim, books, exact, floats),
            {name: arrays[f"{name}/codes"].numpy() for name in plans},
            head=_present(arrays, {name: f"{name}/head" for name in plans}),
            tail_start={name: plan.tail_start for name, plan in plans.items() if plan.has_tail(sizes[name])},
        )
        return CodedEmbedding(codes.codebooks, codes)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: MecSettings) -> int:
        """One with ``allocate``; without, 2 to as many codewords as leave every large vocabulary coded."""
        if base.allocate:
            return 1
        own = base.quantize
        large = [size - own.head for _, size in inputs.layout.vocabularies if size >= own.min_values]
        return max(1, min([*large, own.max_points, 65_536]) - 2)

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: MecSettings, size: int) -> MecSettings:
        """K = size + 1; with ``allocate``, the settings as they are."""
        if base.allocate:
            return base
        return with_settings(base, quantize=base.quantize.model_dump() | {"num_codewords": size + 1})

    @classmethod
    def for_budget(cls, inputs: MethodInputs, budget_bytes: int, base: MecSettings | None = None) -> MecSettings:
        """Settings with a plan for every vocabulary, which together distort the rows least within a budget.

        Without ``allocate``, as of any method.

        Args:
            inputs: What the method will be built from.
            budget_bytes: Of all parts together.
            base: All other settings.

        Raises:
            BudgetError: The least plans of all vocabularies take more.
            ConfigError: No pre-trained tables.
            BundleError: Ids are not in order of popularity.
        """
        settings = base if base is not None else MecSettings()
        if not settings.allocate:
            return super().for_budget(inputs, budget_bytes, settings)
        if inputs.pretrained is None:
            raise ConfigError("the method 'mec' compresses pre-trained tables", fix="give it a pretrained bundle")
        sizes = dict(inputs.layout.vocabularies)
        least = sum(least_bytes(size, inputs.width, settings.float_bytes) for size in sizes.values())
        if least > budget_bytes:
            raise BudgetError(
                f"the method 'mec' cannot get down to {budget_bytes:,} bytes: its smallest size is {least:,} bytes",
                found=f"a budget of {budget_bytes:,} bytes",
                fix=f"set the budget to {least:,} bytes or more",
            )
        plans = budget_plans(inputs, budget_bytes, settings.quantize_config)
        held = {name: None if plan is None else PlanSettings.of(plan) for name, plan in plans.items()}
        return with_settings(settings, plans=held)


def _present(arrays: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    return {name: arrays[key] for name, key in keys.items() if key in arrays}

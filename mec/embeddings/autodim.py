"""AutoDim: Zhao et al., "AutoDim: field-aware embedding dimension search in recommender systems", WWW 2021 (arXiv
2006.14827).

Each vocabulary has a number of dimensions of its own, searched. In the search one table serves all candidates, each of
which reads a row's first d floats (the paper's weight sharing):

    e(x) = sum_d w_d BN(E[x, :d] Q_d),  w = softmax((log p + Gumbel noise) / temperature)

E, Q and the backbone learn from training batches, p from validation batches; see ``mec.embeddings.prefix_supernet``.
Then each vocabulary is trained anew as e(x) = P[x] Q, P (V, d), Q (d, D + 1); see ``mec.embeddings.projected``.

Bytes per vocabulary: d (V + D + 1) floats, or V (D + 1) where that is no more. The first-order weight's
column counts in d.
"""

from __future__ import annotations

import torch
from pydantic import Field

from mec.embeddings.choosing import dim_candidates
from mec.embeddings.method import METHODS, MethodInputs, with_settings
from mec.embeddings.prefix_supernet import PrefixSupernet
from mec.embeddings.projected import ProjectedTable, projected_bytes
from mec.embeddings.searched import Choice, SearchedMethod, SearchSettings, Supernet
from mec.embeddings.table_method import Table


class AutoDimSettings(SearchSettings):
    """Settings of AutoDim."""

    dim: int = Field(4, ge=1, description="floats per value before the search; D + 1 and more is a full table")
    candidates: tuple[int, ...] | None = Field(
        None, min_length=1, description="floats per value to choose from; null: powers of 2 below D + 1, and D + 1"
    )


@METHODS.register("autodim")
class AutoDim(SearchedMethod[AutoDimSettings]):
    """Dimensions per vocabulary by search; a size is one dimension for all of them."""

    name = "autodim"
    Settings = AutoDimSettings
    table_type = ProjectedTable
    size_settings = ("dim",)

    @classmethod
    def candidates(cls, vocabulary: str, inputs: MethodInputs, settings: AutoDimSettings) -> list[Choice]:
        """Dimensions."""
        return [(dim,) for dim in dim_candidates(settings.candidates, inputs.width, cls.name)]

    @classmethod
    def unsearched(cls, vocabulary: str, inputs: MethodInputs, settings: AutoDimSettings) -> Choice:
        """The setting."""
        return (min(settings.dim, inputs.width),)

    @classmethod
    def choice_bytes(
        cls, vocabulary: str, inputs: MethodInputs, settings: AutoDimSettings, choice: Choice
    ) -> dict[str, int]:
        """rows: V d floats, other: d (D + 1) floats."""
        return projected_bytes(inputs.layout.size(vocabulary), inputs.width, choice[0], settings.float_bytes)

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: AutoDimSettings) -> Table:
        """See ``TableMethod.make_table``."""
        ((dim,),) = self.choices(vocabulary, inputs, settings)
        size, seen = inputs.layout.size(vocabulary), torch.from_numpy(inputs.counts[vocabulary] > 0)
        return ProjectedTable(size, inputs.width, dim, seen, settings.init_std, inputs.generator(vocabulary))

    def make_supernet(self, vocabulary: str, inputs: MethodInputs, settings: AutoDimSettings) -> Supernet:
        """See ``SearchedMethod.make_supernet``."""
        dims = [dim for (dim,) in self.candidates(vocabulary, inputs, settings)]
        generator = inputs.generator(vocabulary, "search")
        return PrefixSupernet(inputs.layout.size(vocabulary), inputs.width, dims, settings.init_std, generator)

    @classmethod
    def num_sizes(cls, inputs: MethodInputs, base: AutoDimSettings) -> int:
        """D + 1."""
        return inputs.width

    @classmethod
    def at_size(cls, inputs: MethodInputs, base: AutoDimSettings, size: int) -> AutoDimSettings:
        """The dimension before the search; what was found for another one is dropped."""
        return with_settings(base, dim=size, found=None)

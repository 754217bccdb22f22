"""Methods that compress one vocabulary like another: small ones keep exact rows, each of the others gets a ``Table``.

A method of this kind is its settings, a ``Table`` and three class methods: the table's bytes by a closed formula, how
it is made, and the sizes that a budget chooses from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from mec.data.layout import FieldLayout
from mec.embeddings.exact_rows import ExactRows, at_stored_width, round_floats, rows_bytes, slots_of
from mec.embeddings.export import Array, Export, no_bytes
from mec.embeddings.method import Method, MethodInputs, MethodSettings
from mec.quantize.storage import Floats


class TableSettings(MethodSettings):
    """Settings of methods that treat vocabularies one by one."""

    min_values: int = Field(256, ge=2, description="vocabularies with fewer values keep one exact row per value")


TableSettingsT = TypeVar("TableSettingsT", bound=TableSettings)


class Table(nn.Module):
    """The compressed rows of one vocabulary, trained."""

    def forward(self, ids: Tensor) -> Tensor:
        """(N,) int64 ids -> (N, D + 1) float32 rows."""
        raise TypeError(f"{type(self).__name__} defines no forward")

    def arrays(self) -> dict[str, Array]:
        """What a server holds: float32 tensors, which are stored at ``floats``, and packed ones, stored as they are."""
        raise TypeError(f"{type(self).__name__} defines no arrays")

    def facts(self) -> dict[str, Any]:
        """What ``served_rows`` needs beside arrays: JSON of a size that does not grow with V."""
        return {}

    def finish(self, floats: Floats) -> None:
        """Round what is served to its stored width, in place; see ``Method.finish``.

        To be extended where ``arrays`` are computed, not held: in eval mode, ``forward`` must read the rounded ones.
        """
        round_floats(self.arrays(), floats)

    @staticmethod
    def served_rows(arrays: Mapping[str, Tensor], facts: Mapping[str, Any], ids: Tensor) -> Tensor:
        """The rows that ``forward`` gives in eval mode once finished, bit for bit.

        Args:
            arrays: As ``arrays`` named them, at their stored width; those of ``shared_arrays`` as ``*/name``.
            facts: As ``facts`` gave them.
            ids: (N,) int64.

        Returns:
            (N, D + 1) float32.
        """
        raise TypeError("served_rows is not defined")


class TableMethod(Method[TableSettingsT]):
    """Base of methods with a table per large vocabulary.

    Attributes:
        table_type: The class whose ``served_rows`` decodes; what ``make_table`` makes.
    """

    table_type: type[Table]

    def __init__(self, inputs: MethodInputs, settings: TableSettingsT) -> None:
        super().__init__(inputs, settings)
        large, small = self.split(inputs, settings)
        start = self.first_rows(inputs, settings)
        self.exact = ExactRows(inputs, small, settings.init_std, start) if small else None
        self.large = large
        self.make_shared(inputs, settings)
        self.tables = nn.ModuleList(self.make_table(name, inputs, settings) for name in large)
        self.slots = SlotOrder(inputs.layout, small, large)

    @classmethod
    def split(cls, inputs: MethodInputs, settings: TableSettingsT) -> tuple[list[str], list[str]]:
        """Vocabularies with a table and vocabularies with exact rows, each in the layout's order."""
        large = [name for name, size in inputs.layout.vocabularies if size >= settings.min_values]
        return large, [name for name, size in inputs.layout.vocabularies if size < settings.min_values]

    @classmethod
    def first_rows(cls, inputs: MethodInputs, settings: TableSettingsT) -> Mapping[str, Tensor] | None:
        """Vocabulary -> (V, D + 1) rows that small vocabularies start from; None draws them."""
        return None

    @classmethod
    def table_bytes(cls, vocabulary: str, inputs: MethodInputs, settings: TableSettingsT) -> dict[str, int]:
        """Bytes of one large vocabulary's arrays by a closed formula; parts left out are 0."""
        raise TypeError(f"{cls.__name__} defines no table_bytes")

    def make_table(self, vocabulary: str, inputs: MethodInputs, settings: TableSettingsT) -> Table:
        """The untrained table of one large vocabulary; first values from ``inputs.generator(vocabulary, ...)``."""
        raise TypeError(f"{type(self).__name__} defines no make_table")

    def make_shared(self, inputs: MethodInputs, settings: TableSettingsT) -> None:
        """Make what several tables share, such as one network; called before the first ``make_table``."""

    def shared_arrays(self) -> dict[str, Array]:
        """What a server holds once for all tables."""
        return {}

    @classmethod
    def shared_bytes(cls, inputs: MethodInputs, settings: TableSettingsT) -> dict[str, int]:
        """Bytes of ``shared_arrays`` by a closed formula."""
        return {}

    @classmethod
    def planned_bytes(cls, inputs: MethodInputs, settings: TableSettingsT) -> dict[str, int]:
        """Exact rows of small vocabularies, what is shared, and every table."""
        large, small = cls.split(inputs, settings)
        result = no_bytes()
        result["rows"] = rows_bytes(inputs.counts, small, inputs.width, settings.float_bytes)
        for part in (cls.shared_bytes(inputs, settings), *(cls.table_bytes(n, inputs, settings) for n in large)):
            for name, num_bytes in part.items():
                result[name] += num_bytes
        return result

    def forward(self, ids: Tensor) -> Tensor:
        """(B, S) int32 ids -> (B, S, D + 1) rows."""
        return self.slots.rows(ids, self.exact, list(self.tables))

    def finish(self) -> None:
        """See ``Method.finish``."""
        floats = self.settings.floats
        if self.exact is not None:
            self.exact.finish(floats)
        round_floats(self.shared_arrays(), floats)
        for table in self.tables:
            assert isinstance(table, Table)
            table.finish(floats)

    def export(self) -> Export:
        """See ``Method.export``."""
        arrays = self.exact.arrays() if self.exact is not None else {}
        arrays |= {f"*/{key}": array for key, array in self.shared_arrays().items()}
        facts = {}
        for name, table in zip(self.large, self.tables, strict=True):
            assert isinstance(table, Table)
            arrays |= {f"{name}/{key}": array for key, array in table.arrays().items()}
            facts[name] = table.facts()
        settings = self.settings.model_dump(mode="json")
        held = at_stored_width(arrays, self.settings.floats)
        return Export(self.name, settings, self.layout, self.embedding_dim, held, facts)

    @classmethod
    def serve(cls, export: Export) -> nn.Module:
        """See ``Method.serve``."""
        return Served(export, cls.table_type.served_rows)


class Served(nn.Module):
    """An export, ready to look up: every array is a frozen buffer at its stored width.

    Args:
        export: Of a method with tables, or with exact rows alone.
        served_rows: Decodes one table's rows, see ``Table.served_rows``.
    """

    def __init__(
        self, export: Export, served_rows: Callable[[Mapping[str, Tensor], Mapping[str, Any], Tensor], Tensor]
    ) -> None:
        super().__init__()
        names = dict(export.layout.vocabularies)
        large = [name for name in names if name in export.facts]
        self._names = list(export.arrays)
        for i, array in enumerate(export.arrays.values()):
            self.register_buffer(f"array_{i}", array.tensor)
        self._large, self._small = large, [name for name in names if name not in export.facts]
        self._facts = export.facts
        self._served_rows = served_rows
        self.layout = export.layout
        self.embedding_dim = export.embedding_dim
        self.slots = SlotOrder(export.layout, self._small, large)

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """(B, S) int32 ids -> (B, S, D + 1) float32 rows."""
        arrays = {name: self.get_buffer(f"array_{i}") for i, name in enumerate(self._names)}
        return self.slots.rows(ids, lambda own: self._exact(arrays, own), [self._table(arrays, n) for n in self._large])

    def _exact(self, arrays: Mapping[str, Tensor], ids: Tensor) -> Tensor:
        slots = slots_of(self.layout, self._small)
        rows = [functional.embedding(ids[:, i], arrays[f"{name}/rows"]) for i, name in enumerate(slots.values())]
        return torch.stack(rows, dim=1).float()

    def _table(self, arrays: Mapping[str, Tensor], name: str) -> Callable[[Tensor], Tensor]:
        shared = {key: tensor for key, tensor in arrays.items() if key.startswith("*/")}
        own = {key.removeprefix(f"{name}/"): t for key, t in arrays.items() if key.startswith(f"{name}/")}
        return lambda ids: self._served_rows(own | shared, self._facts[name], ids)


class SlotOrder(nn.Module):
    """Which slots are exact rows' and which are each table's, and how their rows become (B, S, D + 1).

    Args:
        layout: Fields and vocabularies.
        small: Vocabularies with exact rows.
        large: Vocabularies with a table each.
    """

    order: Tensor

    def __init__(self, layout: FieldLayout, small: Sequence[str], large: Sequence[str]) -> None:
        super().__init__()
        self._exact = list(slots_of(layout, small))
        self._of_table = [list(slots_of(layout, [name])) for name in large]
        order = [*self._exact, *(slot for slots in self._of_table for slot in slots)]
        self.register_buffer("order", torch.tensor(order).argsort(), persistent=False)
        self._in_order = order == sorted(order)

    def rows(
        self, ids: Tensor, exact: Callable[[Tensor], Tensor] | None, tables: Sequence[Callable[[Tensor], Tensor]]
    ) -> Tensor:
        """Look a batch up, each table once.

        Args:
            ids: (B, S).
            exact: (B, s) ids of the small vocabularies' slots -> (B, s, D + 1); None where there are none.
            tables: (N,) int64 ids -> (N, D + 1), for each large vocabulary.

        Returns:
            (B, S, D + 1).
        """
        parts = []
        if self._exact and exact is not None:
            parts.append(exact(ids[:, self._exact]))
        for slots, table in zip(self._of_table, tables, strict=True):
            if slots:
                own = ids[:, slots]  # (B, s)
                parts.append(table(own.flatten().long()).view(*own.shape, -1))
        rows = torch.cat(parts, dim=1)
        return rows if self._in_order else rows.index_select(1, self.order)

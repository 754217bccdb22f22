"""What a request must hold: the raw columns, their types, and how they become vocabulary values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mec.data import columns
from mec.data.columns import ValueType
from mec.data.layout import FieldLayout
from mec.data.numeric import linear_weights
from mec.errors import DataError

FORMAT = 2  # of the scorer bundle; a reader refuses any other


@dataclass(frozen=True)
class InputField:
    """One raw column of a request.

    type: of its vocabulary's values; None for a linear field, which is a number.
    max_length, separator: of a sequence field.
    mean, std: of a linear field, over the training rows.
    has_null: whether null is a value that training saw.
    """

    name: str
    kind: Literal["categorical", "bucketed", "linear", "sequence"]
    vocabulary: str
    type: ValueType | None
    has_null: bool
    max_length: int = 1
    separator: str = "|"
    mean: float = 0.0
    std: float = 1.0

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def canonical(self, array: pa.Array) -> pa.Array:
        """A raw column as int64, string, float64 or lists of values, exactly as training read it.

        Raises:
            DataError: A value that the field cannot hold; field, row and value are named.
        """
        try:
            match self.kind:
                case "categorical":
                    return columns.categorical(array, self._type)
                case "bucketed":
                    return columns.bucketed(array)
                case "linear":
                    return columns.numeric(array)
                case "sequence":
                    return self._lists(array)
        except columns.BadValueError as error:
            raise DataError(
                f"field {self.name!r}, row {error.row} of the request: the value {error.problem}",
                found=error.found,
                fix=error.fix,
            ) from None
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise self._wrong_type(str(error)[:200]) from None

    def _lists(self, array: pa.Array) -> pa.Array:
        if pa.types.is_null(array.type):
            array = pa.nulls(len(array), pa.list_(pa.int64() if self.type == "int64" else pa.string()))
        if not (columns.is_list(array.type) or columns.is_text(array.type)):
            raise self._wrong_type(str(array.type))
        return columns.sequence(array, self._type, separator=self.separator, max_length=self.max_length)

    def _wrong_type(self, found: str) -> DataError:
        what = {"int64": "integers", "string": "text", None: "numbers"}[self.type]
        expected = f"lists of {what}" if self.kind == "sequence" else "numbers" if self.kind == "bucketed" else what
        return DataError(
            f"field {self.name!r} of the request is not {expected}",
            found=found,
            fix="send the type that the model was trained on",
        )

    def weight(self, numbers: pa.Array) -> NDArray[np.float32]:
        """Standardised values (N,) of a linear field, 1 where null."""
        return linear_weights(numbers, self.mean, self.std)

    @property
    def _type(self) -> ValueType:
        assert self.type is not None
        return self.type


def input_fields(
    layout: FieldLayout,
    *,
    types: Mapping[str, ValueType],
    nullable: Mapping[str, bool],
    numeric: Mapping[str, Mapping[str, float]],
    separators: Mapping[str, str],
) -> tuple[InputField, ...]:
    """The raw columns of a layout's fields, in its order.

    Args:
        layout: Of the training data.
        types: Vocabulary -> type of its values.
        nullable: Vocabulary -> whether null is one of its values.
        numeric: Linear field -> its mean and std over the training rows.
        separators: Sequence field -> separator, where it is text.
    """
    fields = []
    for field in layout.fields:
        stats = numeric[field.name] if field.kind == "linear" else {}
        fields.append(
            InputField(
                name=field.name,
                kind=field.kind,
                vocabulary=field.vocabulary,
                type=None if field.kind == "linear" else types[field.vocabulary],
                has_null=field.kind == "linear" or nullable[field.vocabulary],
                max_length=field.num_slots,
                separator=separators.get(field.name, "|"),
                mean=float(stats.get("mean", 0.0)),
                std=float(stats.get("std", 1.0)),
            )
        )
    return tuple(fields)

"""What the config's columns mean: fields, vocabularies and their types, and whether they can be learned from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from mec.config import CategoricalField, NumericField, SequenceField
from mec.data.columns import ValueType, is_list, is_number, is_text, value_type
from mec.errors import DataError

Field = CategoricalField | NumericField | SequenceField

MIN_ROWS_PER_CLASS = 2  # of the validation and test splits: an interval of the AUC needs them

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*\Z")


@dataclass(frozen=True)
class FieldFacts:
    """What counting saw of one field in the training split.

    For a sequence field the values in its lists are counted, not the lists.
    """

    num_values: int  # null included
    num_nulls: int
    num_distinct: int  # of values that are not null; may be capped at 2


def vocabulary_of(field: Field) -> str:
    """Name of the vocabulary (and table) that a field's values are looked up in."""
    if isinstance(field, NumericField) or field.vocabulary is None:
        return field.name
    return field.vocabulary


def is_linear(field: Field) -> bool:
    """Whether a field is one learned direction times a number, so has no values to count."""
    return isinstance(field, NumericField) and field.transform == "linear"


def resolve_vocabularies(
    fields: tuple[Field, ...], types: Mapping[str, tuple[pa.DataType, ...]], *, is_untyped: bool, where: str
) -> dict[str, ValueType]:
    """Check each field against its column's type and give every vocabulary one type.

    Fields that share a vocabulary but differ in type all become string. Linear fields are left out.

    Args:
        fields: In order.
        types: Column name -> the types it is stored as.
        is_untyped: Whether text may hold numbers, as in CSV.
        where: Path of the data, for messages.

    Raises:
        DataError: A column's type cannot be what its field says, or a name cannot name a vocabulary.
    """
    found: dict[str, set[ValueType]] = {}
    kinds: dict[str, set[bool]] = {}
    for field in fields:
        name = vocabulary_of(field)
        _check_name(field, name)
        kinds.setdefault(name, set()).add(isinstance(field, NumericField))
        for kind in types[field.name]:
            value = _field_type(field, kind, is_untyped, where)
            if not is_linear(field):
                found.setdefault(name, set()).add(value)
    for name, numeric in kinds.items():
        if len(numeric) > 1:
            raise DataError(
                f"vocabulary {name!r} is a numeric field's and another field's at once",
                fix="give the other field a vocabulary of another name",
            )
    return {name: next(iter(t)) if len(t) == 1 else "string" for name, t in found.items()}


def check_facts(
    *, fields: Mapping[str, FieldFacts], rows: Mapping[str, int], positives: Mapping[str, int], label: str
) -> None:
    """Refuse data that nothing can be learned from; counting calls this with what it saw.

    Args:
        fields: Field name -> what the training split holds.
        rows: ``train``, ``valid`` and ``test`` -> number of rows.
        positives: Split -> its rows of label 1.
        label: Name of the label column.

    Raises:
        DataError: A split without rows or with one class only, a field that is all null or has a single value.
    """
    for split in ("train", "valid", "test"):
        if not rows.get(split):
            raise DataError(
                f"the {split} split has no rows",
                found=dict(rows),
                fix="check data.split, in a refresh refresh.split: its column and values, its fractions, or its times",
            )
    if positives["train"] in (0, rows["train"]):
        raise DataError(
            f"label column {label!r} has one class only in the training split",
            found=f"{positives['train']} ones in {rows['train']} rows",
            fix="use rows of both classes: nothing can be learned from one",
        )
    for split in ("valid", "test"):
        if min(positives[split], rows[split] - positives[split]) < MIN_ROWS_PER_CLASS:
            raise DataError(
                f"label column {label!r} has too few rows of a class in the {split} split to measure an AUC on",
                found=f"{positives[split]} ones in {rows[split]} rows",
                fix=f"give the {split} split more rows: it needs {MIN_ROWS_PER_CLASS} of each class",
            )
    for name, facts in fields.items():
        remove = f"remove {name!r} from the config's data section"
        if facts.num_values == facts.num_nulls:
            raise DataError(
                f"field {name!r} is null (or empty) in every training row", found=f"{facts.num_nulls} nulls", fix=remove
            )
        if facts.num_distinct == 1 and facts.num_nulls == 0:
            raise DataError(f"field {name!r} has a single value in the training split", found="1 value", fix=remove)


def _check_name(field: Field, name: str) -> None:
    if not _NAME.match(name):
        can_set = not isinstance(field, NumericField)
        raise DataError(
            f"field {field.name!r} cannot give its name to a vocabulary: it names files and online keys",
            found=name,
            fix=("set the field's `vocabulary`" if can_set else "rename the column")
            + " to a letter followed by letters, digits, '_', '.' or '-'",
        )


def _field_type(field: Field, kind: pa.DataType, is_untyped: bool, where: str) -> ValueType:
    if isinstance(field, NumericField):
        if is_number(kind) or (is_untyped and is_text(kind)):
            return "int64"
        raise _wrong_type(where, field.name, kind, "a numeric field needs numbers", "list it under data.categorical")
    if isinstance(field, SequenceField):
        inner = kind.value_type if is_list(kind) else kind if is_text(kind) else None
        if inner is not None and (result := value_type(inner)) is not None:
            return result
        needs = "a sequence field needs lists of integers or text, or text with a separator"
        raise _wrong_type(where, field.name, kind, needs, "store it so")
    if (result := value_type(kind)) is not None:
        return result
    instead = "list it under data.sequence" if is_list(kind) else "store it as integers or text"
    raise _wrong_type(where, field.name, kind, "a categorical field needs integers or text", instead)


def _wrong_type(where: str, column: str, kind: pa.DataType, needs: str, fix: str) -> DataError:
    return DataError(f"{where}: column {column!r} has the wrong type: {needs}", found=str(kind), fix=fix)

import pyarrow as pa
import pytest

from mec.config import CategoricalField, NumericField, SequenceField
from mec.data.schema import FieldFacts, check_facts, resolve_vocabularies, vocabulary_of
from mec.errors import DataError

ROWS = {"train": 80, "valid": 10, "test": 10}
POSITIVES = {"train": 20, "valid": 3, "test": 8}
GOOD = {"a": FieldFacts(80, 3, 2), "b": FieldFacts(80, 79, 1)}


def resolve(*fields, untyped: bool = False, **types):
    kinds = {name: kind if isinstance(kind, tuple) else (kind,) for name, kind in types.items()}
    return resolve_vocabularies(fields, kinds, is_untyped=untyped, where="rows.parquet")


def test_vocabulary_types_come_from_the_schema() -> None:
    fields = (
        CategoricalField(name="user"),
        CategoricalField(name="city"),
        CategoricalField(name="kind"),
        CategoricalField(name="flag"),
        NumericField(name="price"),
        NumericField(name="age", transform="linear"),
        SequenceField(name="tags"),
    )
    found = resolve(
        *fields,
        user=pa.float64(),
        city=pa.large_string(),
        kind=pa.dictionary(pa.int8(), pa.string()),
        flag=pa.bool_(),
        price=pa.decimal128(10, 2),
        age=pa.int8(),
        tags=pa.large_list(pa.uint16()),
    )
    assert found == {
        "user": "int64",
        "city": "string",
        "kind": "string",
        "flag": "int64",
        "price": "int64",
        "tags": "int64",
    }


def test_fields_that_share_a_vocabulary_have_one_type() -> None:
    item, last = CategoricalField(name="item"), SequenceField(name="last", vocabulary="item")
    assert vocabulary_of(last) == "item"
    assert resolve(item, last, item=pa.int32(), last=pa.list_(pa.int64())) == {"item": "int64"}
    assert resolve(item, last, item=pa.int32(), last=pa.string()) == {"item": "string"}
    assert resolve(item, item=(pa.int32(), pa.string())) == {"item": "string"}  # files that differ


@pytest.mark.parametrize(
    ("field", "kind", "message"),
    [
        (CategoricalField(name="x"), pa.timestamp("us"), "'x' has the wrong type.*timestamp"),
        (CategoricalField(name="x"), pa.list_(pa.int64()), "data.sequence"),
        (CategoricalField(name="x"), pa.decimal128(9, 2), "wrong type"),
        (NumericField(name="x"), pa.string(), "needs numbers; found: string"),
        (SequenceField(name="x"), pa.int64(), "needs lists"),
        (SequenceField(name="x"), pa.list_(pa.list_(pa.int64())), "needs lists"),
    ],
)
def test_wrong_types_name_file_and_column(field, kind, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        resolve(field, x=kind)
    assert "rows.parquet" in str(caught.value)


def test_text_may_hold_numbers_only_where_files_are_untyped() -> None:
    assert resolve(NumericField(name="x"), untyped=True, x=pa.string()) == {"x": "int64"}


def test_names_that_cannot_name_a_vocabulary() -> None:
    with pytest.raises(DataError, match="set the field's `vocabulary`"):
        resolve(CategoricalField(name="user id"), **{"user id": pa.int64()})
    assert resolve(CategoricalField(name="user id", vocabulary="user"), **{"user id": pa.int64()}) == {"user": "int64"}
    with pytest.raises(DataError, match="rename the column"):
        resolve(NumericField(name="a=b"), **{"a=b": pa.int64()})


def test_a_numeric_vocabulary_is_not_shared() -> None:
    with pytest.raises(DataError, match="vocabulary 'x' is a numeric field's"):
        resolve(CategoricalField(name="y", vocabulary="x"), NumericField(name="x"), x=pa.int64(), y=pa.int64())


def test_good_facts_pass() -> None:
    check_facts(fields=GOOD, rows=ROWS, positives=POSITIVES, label="label")


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_split_without_rows(split: str) -> None:
    with pytest.raises(DataError, match=f"the {split} split has no rows.*data.split, in a refresh refresh.split"):
        check_facts(fields=GOOD, rows=ROWS | {split: 0}, positives=POSITIVES, label="label")


@pytest.mark.parametrize("num_positive", [0, 80])
def test_one_class_only(num_positive: int) -> None:
    with pytest.raises(DataError, match="label column 'click' has one class only"):
        check_facts(fields=GOOD, rows=ROWS, positives=POSITIVES | {"train": num_positive}, label="click")


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("missing", [0, 1])
def test_too_few_rows_of_a_class_to_measure_on(split: str, missing: int) -> None:
    for num_positive in (missing, ROWS[split] - missing):
        with pytest.raises(DataError, match=f"too few rows of a class in the {split} split.*{num_positive} ones"):
            check_facts(fields=GOOD, rows=ROWS, positives=POSITIVES | {split: num_positive}, label="click")


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (FieldFacts(80, 80, 0), "'c' is null .* in every training row.*remove 'c'"),
        (FieldFacts(0, 0, 0), "'c' is null"),  # a sequence field of empty lists
        (FieldFacts(80, 0, 1), "'c' has a single value.*remove 'c'"),
    ],
)
def test_fields_nothing_can_be_learned_from(facts: FieldFacts, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_facts(fields=GOOD | {"c": facts}, rows=ROWS, positives=POSITIVES, label="label")

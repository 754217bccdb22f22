import pickle
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mec.config import DataConfig, SyntheticConfig
from mec.data.readers import open_source
from mec.data.synthetic import BLOCK_ROWS, SyntheticRows, bayes_auc, generate_block, write_synthetic
from mec.errors import DataError

SMALL = SyntheticConfig(num_rows=70_000, field_sizes=(3000, 50, 4))


def read_all(data: DataConfig, seed: int):
    source = open_source(data, seed=seed)
    blocks = [b for p in source.partitions() for b in source.read(p)]
    columns = {f.name: np.concatenate([b.columns[f.name].to_numpy() for b in blocks]) for f in source.fields}
    return source, columns, np.concatenate([b.label for b in blocks]), np.concatenate([b.split for b in blocks])


def test_default_bayes_auc_and_base_rate() -> None:
    config = SyntheticConfig()
    assert bayes_auc(config, 0) == pytest.approx(0.853, abs=0.005)
    labels = np.concatenate([generate_block(config, 0, i).label for i in range(2)])
    assert labels.mean() == pytest.approx(config.base_rate, abs=0.01)


def test_bayes_auc_is_the_auc_of_the_true_probabilities() -> None:
    block = generate_block(SMALL, 5, 0)
    order = np.argsort(np.argsort(block.probability))
    positive = block.label == 1
    auc = (order[positive].mean() - (positive.sum() - 1) / 2) / (~positive).sum()
    assert bayes_auc(SMALL, 5) == pytest.approx(auc, abs=0.006)


def test_stronger_signal_raises_the_bayes_auc() -> None:
    weak, strong = (bayes_auc(SMALL.model_copy(update={"signal": s}), 1) for s in (0.5, 3.0))
    assert weak < 0.66
    assert strong > 0.9


def test_values_follow_zipf() -> None:
    values = generate_block(SyntheticConfig(field_sizes=(1000, 2), zipf_exponent=1.0), 0, 0).values[0]
    counts = np.bincount(values, minlength=1000)
    assert values.min() == 0
    assert values.max() <= 999
    assert counts[1] / counts[9] == pytest.approx(5, rel=0.1)
    assert counts[1:4].sum() / counts[100:400].sum() == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / np.log(4), rel=0.1)


def test_same_seed_same_rows_whatever_the_block_size() -> None:
    one = read_all(DataConfig(synthetic=SMALL, block_rows=1024), seed=3)
    two = read_all(DataConfig(synthetic=SMALL, block_rows=100_000), seed=3)
    assert one[0].data_version == two[0].data_version
    for name in one[1]:
        assert np.array_equal(one[1][name], two[1][name])
    assert np.array_equal(one[2], two[2])
    assert np.array_equal(one[3], two[3])
    other = read_all(DataConfig(synthetic=SMALL), seed=4)
    assert other[0].data_version != one[0].data_version
    assert not np.array_equal(other[2], one[2])


def test_declares_its_own_fields_and_version() -> None:
    source, columns, labels, _ = read_all(DataConfig(synthetic=SMALL), seed=0)
    assert [f.name for f in source.fields] == ["f0", "f1", "f2"]
    assert source.vocabulary_types == {"f0": "int64", "f1": "int64", "f2": "int64"}
    assert len(labels) == source.num_rows_hint == 70_000
    assert len(np.unique(columns["f2"])) == 4
    assert SyntheticRows(SMALL, 0).version == source.data_version
    assert SyntheticRows(SMALL.model_copy(update={"signal": 1.0}), 0).version != source.data_version


def test_some_of_its_fields_and_the_period_as_time() -> None:
    config = SMALL.model_copy(update={"num_periods": 4})
    data = DataConfig(
        synthetic=config, categorical=["f1"], time="period", split={"kind": "time", "valid_from": 2, "test_from": 3}
    )
    _, columns, _, split = read_all(data, seed=0)
    assert list(columns) == ["f1"]
    assert np.bincount(split).tolist() == [35_000, 17_500, 17_500]


def test_later_periods_bring_new_values_and_drift() -> None:
    config = SyntheticConfig(
        num_rows=3 * BLOCK_ROWS, field_sizes=(400, 400), num_periods=3, new_values=0.2, drifted_values=0.3
    )
    first, second, third = (generate_block(config, 0, i) for i in range(3))
    assert [set(b.period.tolist()) for b in (first, second, third)] == [{0}, {1}, {2}]
    seen = [set(b.values[0].tolist()) for b in (first, second, third)]
    assert len(seen[0]) == pytest.approx(240, abs=25)
    assert len(seen[1] - seen[0]) == pytest.approx(80, abs=25)
    assert len(seen[2] - seen[1]) == pytest.approx(80, abs=25)

    def probabilities(block):
        return dict(zip(zip(*block.values.tolist(), strict=True), block.probability.tolist(), strict=True))

    before, after = probabilities(first), probabilities(third)
    both = before.keys() & after.keys()
    unchanged = sum(before[pair] == after[pair] for pair in both) / len(both)
    assert unchanged == pytest.approx(0.7**4, abs=0.1)  # two values, two chances each to move


def test_one_period_has_no_new_values() -> None:
    assert len(set(generate_block(SyntheticConfig(field_sizes=(50, 50)), 0, 0).values[0].tolist())) == 50


def test_written_file_reads_back_the_same(tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"num_rows": 140_000})
    path = tmp_path / "new" / "rows.parquet"
    write_synthetic(config, 9, path, rows_per_group=BLOCK_ROWS)
    assert pq.ParquetFile(path).num_row_groups == 3
    assert [p.name for p in path.parent.iterdir()] == ["rows.parquet"]
    from_file = read_all(DataConfig(path=str(path), categorical=["f0", "f1", "f2"]), seed=9)
    made = read_all(DataConfig(synthetic=config), seed=9)
    for name in made[1]:
        assert np.array_equal(from_file[1][name], made[1][name])
    assert np.array_equal(from_file[2], made[2])
    assert np.array_equal(from_file[3], made[3])


def test_five_million_values_cost_no_memory() -> None:
    source = open_source(DataConfig(synthetic={"num_rows": 5000, "field_sizes": [5_000_000] * 8}), seed=0)
    (block,) = source.read(source.partitions()[0])
    assert block.num_rows == 5000
    assert len(pickle.dumps(source)) < 20_000


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_periods": 20, "new_values": 0.1}, "new in later periods"),
        ({"field_sizes": (10, 1)}, "two values or more"),
        ({"field_sizes": ()}, "two values or more"),
    ],
)
def test_impossible_settings(settings: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(DataConfig(synthetic=settings), seed=0)


def test_unknown_column_lists_the_known() -> None:
    with pytest.raises(DataError, match="column 'f9' is missing; found: f0, f1, f2, label, period"):
        open_source(DataConfig(synthetic=SMALL, categorical=["f9"]), seed=0)

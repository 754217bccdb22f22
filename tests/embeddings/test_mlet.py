"""MLET: trained as a product, served as one narrow table."""

from __future__ import annotations

import pytest
import torch

from mec.embeddings.methods import build_method
from mec.errors import ConfigError
from mec.testing_method_data import every_id, inputs


def test_rows_are_the_product_and_then_one_table():
    method = build_method("mlet", inputs(), {"dim": 2, "factor": 5, "floats": "float32"}).eval()
    table = method.tables[0]
    torch.nn.init.normal_(table.projection)
    assert (table.table.weight.shape, table.projection.shape) == ((700, 15), (15, 3))
    product = (table.table.weight @ table.projection).detach()
    torch.testing.assert_close(method(every_id())[:, 0], product)
    method.finish()
    seen = torch.from_numpy(inputs().counts["user"] > 0)
    rows = method(every_id())[:, 0]
    torch.testing.assert_close(rows[seen], product[seen])
    torch.testing.assert_close(rows[~seen], product[seen].mean(dim=0).expand(int((~seen).sum()), -1))
    assert (method.embedding_dim, method.serving_bytes()["rows"]) == (2, (700 + 500 + 7) * 3 * 4)
    assert not [key for key in method.state_dict() if key.startswith("tables.")]


def test_first_vectors_have_the_standard_deviation_asked_for_and_weights_are_0():
    rows = build_method("mlet", inputs(), {"dim": 6, "init_std": 0.2}).eval()(every_id())[:, 0].detach()
    assert float(rows[:, 1:].std()) == pytest.approx(0.2, rel=0.1)
    assert not bool(rows[:, 0].any())


def test_more_dimensions_than_the_full_table_are_refused():
    with pytest.raises(ConfigError, match="mlet has more dimensions than the full table's 6; found: 7"):
        build_method("mlet", inputs(), {"dim": 7})

"""Settings of the MEC objective: impossible combinations, defaults."""

from __future__ import annotations

import pytest

from mec.config import MecConfig, RunConfig, parse_config
from mec.errors import ConfigError


@pytest.mark.parametrize(
    ("quantize", "message"),
    [
        ({"mec": {}}, r"mec has no effect with objective: kmeans"),
        ({"objective": "mec", "mec": {"commitment": 0.5}}, r"commitment=0\.5 has no effect without an encoder"),
        ({"objective": "mec", "mec": {"hidden_units": 8}}, r"hidden_units=8 has no effect without an encoder"),
        ({"objective": "mec", "mec": {"entropy": 0, "entropy_temperature": 1}}, r"has no effect while entropy is 0"),
        ({"objective": "mec", "mec": {"contrastive": 0, "negatives": 3}}, r"negatives=3 has no effect"),
        ({"objective": "mec", "mec": {"checkpoint": "last", "patience": 3}}, r"patience=3 has no effect"),
        (
            {"objective": "mec", "mec": {"encoder": "mlp", "reconstruction": 0, "contrastive": 0}},
            r"nothing trains the decoder",
        ),
        (
            {"objective": "mec", "mec": {"reconstruction": 0, "codebook": 0, "entropy": 0, "contrastive": 0}},
            r"no term moves the codewords",
        ),
        (
            {"objective": "mec", "mec": {"encoder": "mlp", "codebook": 0, "entropy": 0, "contrastive": 0}},
            r"no term moves the codewords",
        ),
        ({"objective": "mec", "mec": {"rho": 0.5}}, r"quantize\.mec\.rho: unknown key.*replace_probability"),
    ],
)
def test_impossible_combinations(quantize: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"quantize": quantize})


def test_settings_are_filled_in_and_travel_as_json() -> None:
    config = parse_config({"quantize": {"objective": "mec"}})
    assert config.quantize.mec == MecConfig()
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    assert config.quantize.mec.commitment_weight == 0
    assert MecConfig(encoder="mlp").commitment_weight == 0.25
    assert parse_config({}).quantize.mec is None

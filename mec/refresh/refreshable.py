"""Which models a refresh may serve."""

from __future__ import annotations

from safetensors import safe_open

from mec.bundle import WEIGHTS_FILE, Bundle
from mec.errors import ConfigError


def check_refreshable(model: Bundle) -> None:
    """Refuse a model that does not read the codewords and rows of its space.

    Args:
        model: "model" bundle.

    Raises:
        ConfigError: It scores full tables, or trained its codewords on: refreshed vectors are not of its own.
    """
    if model.extra["embedding"] != "codes":
        raise ConfigError(
            f"the model {model.path} does not score codes, so there is nothing to refresh",
            found=f"embedding {model.extra['embedding']!r}",
            fix="pass the model of the train step",
        )
    with safe_open(model.file(WEIGHTS_FILE), framework="np") as weights:
        own = sorted(name for name in weights.keys() if name.startswith("embedding."))  # noqa: SIM118
    if own:
        raise ConfigError(
            f"the model {model.path} trained its codewords on, and new vectors can only be brought into the space that "
            "they were pre-trained in",
            found=f"{len(own)} trained tensors of embeddings",
            fix="train with train.codewords=frozen to be able to refresh",
        )

"""Where trained rows start: drawn, or from the rows of a pre-trained table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from mec.embeddings.method import MethodInputs
from mec.embeddings.table_method import TableSettings
from mec.errors import ConfigError

Start = Literal["random", "pretrained"]


class StartSettings(TableSettings):
    """Settings of methods whose rows may start from pre-trained ones."""

    start: Start = Field("random", description="first rows: drawn, or the pre-trained ones")

    @model_validator(mode="after")
    def _init_std_has_an_effect(self) -> Self:
        if self.start == "pretrained":
            self.refuse_without_effect(["init_std"], "on rows that start from pre-trained ones")
        return self


def start_rows(inputs: MethodInputs, settings: StartSettings, name: str) -> Mapping[str, Tensor] | None:
    """Vocabulary -> (V, D + 1) pre-trained rows to start from; None where rows are drawn.

    Raises:
        ConfigError: The method of this name is to start from pre-trained rows, and there are none.
    """
    if settings.start == "random":
        return None
    if inputs.pretrained is None:
        raise ConfigError(
            f"the method {name!r} is to start from pre-trained tables",
            found="none",
            fix="give it a pretrained bundle, or set start to random",
        )
    return inputs.pretrained

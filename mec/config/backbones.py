"""Which backbones a run trains: one, or several on the same codebook."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from pydantic import Field, field_validator, model_validator

from mec.config.base import NAME_PATTERN, Name
from mec.config.training import CodesTrainingConfig, TrainConfig


class BackbonesConfig(CodesTrainingConfig):
    """The downstream backbone, trained on codes; or a list of several, trained on the same codes and compared."""

    model: Name | tuple[Name, ...] = Field(
        "deepfm", description="backbone; or a list of two and more, each trained on the same codes and registered"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="the backbone's own settings; with a list: backbone -> its settings"
    )

    @field_validator("model", mode="before")
    @classmethod
    def _names(cls, model: Any) -> Any:
        names = model if isinstance(model, list | tuple) else [model]
        for name in names:
            if not (isinstance(name, str) and re.fullmatch(NAME_PATTERN, name)):
                raise ValueError(
                    f"a backbone's name starts with a letter and has letters, digits, _ . - in it: {name!r}"
                )
        if isinstance(model, list | tuple):
            if len(names) < 2:
                raise ValueError("a list compares two backbones or more; write a single one without brackets")
            twice = [name for name, times in Counter(names).items() if times > 1]
            if twice:
                raise ValueError(f"{', '.join(twice)} is listed twice: each backbone is trained once")
        return model

    @model_validator(mode="after")
    def _settings_belong_to_a_backbone(self) -> BackbonesConfig:
        if isinstance(self.model, str):
            return self
        listed = ", ".join(self.model)
        for name, settings in self.settings.items():
            if name not in self.model:
                raise ValueError(
                    f"with several backbones, settings maps each to its own settings, and {name!r} is none of {listed}"
                )
            if not isinstance(settings, dict):
                raise ValueError(f"settings.{name} is no mapping of {name}'s settings: {settings!r}")
        return self

    @property
    def several(self) -> bool:
        """Whether a list was given."""
        return not isinstance(self.model, str)

    def each(self) -> tuple[TrainConfig, ...]:
        """Each backbone's own settings, as its training gets them; one where no list was given."""
        shared = self.model_dump(exclude={"model", "settings"})
        if isinstance(self.model, str):
            return (TrainConfig(model=self.model, settings=self.settings, **shared),)
        return tuple(TrainConfig(model=name, settings=self.settings.get(name, {}), **shared) for name in self.model)

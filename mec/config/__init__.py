"""Every setting of a run: one YAML file, one pydantic model, one ``--set key=value`` syntax.

Unknown keys are errors. Relative paths are taken from the directory the command runs in.
"""

from mec.config.backbones import BackbonesConfig
from mec.config.bakeoff import BakeoffConfig, MethodTraining
from mec.config.base import Fraction, Name, Settings
from mec.config.data import (
    CategoricalField,
    CountConfig,
    DataConfig,
    NumericField,
    SequenceField,
    SplitConfig,
    SyntheticConfig,
)
from mec.config.loading import apply_override, joined, load_config, overlaid, parse_config, read_settings, section
from mec.config.refresh import ArrivalsConfig, BoundsConfig, RefreshConfig
from mec.config.run import GateConfig, PublishConfig, RunConfig, TrackingConfig
from mec.config.training import (
    EvaluateConfig,
    MecConfig,
    OptimizerConfig,
    PretrainConfig,
    QuantizeConfig,
    ReferenceConfig,
    TrainConfig,
)

__all__ = [
    "ArrivalsConfig",
    "BackbonesConfig",
    "BakeoffConfig",
    "BoundsConfig",
    "CategoricalField",
    "CountConfig",
    "DataConfig",
    "EvaluateConfig",
    "Fraction",
    "GateConfig",
    "MecConfig",
    "MethodTraining",
    "Name",
    "NumericField",
    "OptimizerConfig",
    "PretrainConfig",
    "PublishConfig",
    "QuantizeConfig",
    "ReferenceConfig",
    "RefreshConfig",
    "RunConfig",
    "SequenceField",
    "Settings",
    "SplitConfig",
    "SyntheticConfig",
    "TrackingConfig",
    "TrainConfig",
    "apply_override",
    "joined",
    "load_config",
    "overlaid",
    "parse_config",
    "read_settings",
    "section",
]

"""Every compression method by name: mec's own and those of installed packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from mec.bundle import Bundle
from mec.embeddings import (
    amtl,
    autodim,
    autodpq,
    autoemb,
    binary,
    dhe,
    dpq_sx,
    dpq_vq,
    full_method,
    hashing,
    lightfm,
    low_rank,
    magnitude_pruning,
    mde,
    mec,
    mgqe,
    mlet,
    opq,
    others,
    pq,
    qr,
    scalar,
    xlightfm,
)
from mec.embeddings.export import read_export
from mec.embeddings.method import METHODS, Method, MethodInputs, MethodSettings
from mec.errors import ConfigError

__all__ = [
    "METHODS",
    "amtl",
    "autodim",
    "autodpq",
    "autoemb",
    "binary",
    "build_method",
    "check_method_settings",
    "check_settings",
    "dhe",
    "dpq_sx",
    "dpq_vq",
    "full_method",
    "hashing",
    "lightfm",
    "load_served",
    "low_rank",
    "magnitude_pruning",
    "mde",
    "mec",
    "method_type",
    "mgqe",
    "mlet",
    "opq",
    "others",
    "pq",
    "qr",
    "scalar",
    "xlightfm",
]


def method_type(name: str) -> type[Method[Any]]:
    """The class of a method.

    Raises:
        ConfigError: Unknown, of a broken package, or called otherwise than it is registered.
    """
    cls = METHODS.get(name)
    if getattr(cls, "name", None) != name:
        raise ConfigError(
            f"the method registered as {name!r} calls itself otherwise, and its exports would not be found",
            found=getattr(cls, "name", None),
            fix=f"set the class attribute name to {name!r}",
        )
    return cls


def check_method_settings(name: str, settings: dict[str, Any]) -> MethodSettings:
    """A method's settings, checked.

    Raises:
        ConfigError: Unknown method, or settings that it does not have.
    """
    return check_settings(method_type(name), settings, name)


def check_settings(cls: type[Method[Any]], settings: dict[str, Any], name: str) -> MethodSettings:
    """The settings of one class of methods, checked; ``name`` is for messages.

    Raises:
        ConfigError: The class has no settings model, or not these settings.
    """
    model = getattr(cls, "Settings", None)
    if not (isinstance(model, type) and issubclass(model, MethodSettings)):
        raise ConfigError(
            f"the method {name!r} has no Settings",
            found=cls.__qualname__,
            fix="set the class attribute Settings to a subclass of mec.embeddings.method.MethodSettings",
        )
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        bad = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        known = ", ".join(model.model_fields)
        raise ConfigError(f"bad settings of the method {name!r}", found=bad, fix=f"its settings are: {known}") from None


def build_method(name: str, inputs: MethodInputs, settings: dict[str, Any] | MethodSettings) -> Method[Any]:
    """Build an untrained method by name.

    Raises:
        ConfigError: Unknown method, settings that it does not have, or no pre-trained tables where it needs them.
    """
    checked = check_method_settings(name, settings if isinstance(settings, dict) else settings.model_dump())
    return method_type(name)(inputs, checked)


def load_served(directory: Path | str | Bundle) -> nn.Module:
    """What a server runs: the rows of a bundle that ``write_export`` wrote, from the bundle alone.

    Returns:
        A module of frozen buffers, (B, S) int32 ids -> (B, S, D + 1) float32 rows.

    Raises:
        BundleError: No such bundle, or a corrupt one.
        ConfigError: Its method is not installed.
    """
    export = read_export(directory)
    return method_type(export.method).serve(export)

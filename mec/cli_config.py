"""``mec config``: print a resolved config, explain the settings."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mec import cli_options as options
from mec.config import RunConfig, load_config
from mec.errors import ConfigError


@click.command()
@options.optional_config
@options.layers
@options.overrides
@click.option("--explain", metavar="SECTION", help="List the settings of a section; `all` for the sections themselves.")
def config(config: Path | None, layers: tuple[Path, ...], overrides: tuple[str, ...], explain: str | None) -> None:
    """Print the settings in CONFIG with every default filled in, or explain settings.

    \b
    Examples:
      mec config configs/ml1m.yaml --set seed=3      what a run would use
      mec config --explain all                       which sections there are
      mec config --explain data.split                what a section's settings mean
    """
    if (config is None) == (explain is None):
        raise click.UsageError("name a CONFIG to print, or a section to --explain")
    click.echo(resolved(config, overrides, layers) if config is not None else explanation(str(explain)))


def resolved(config: Path, overrides: Sequence[str], layers: Sequence[Path]) -> str:
    """The settings in a config file as YAML, defaults filled in.

    Raises:
        ConfigError: As ``load_config``.
    """
    settings = load_config(config, overrides, layers).model_dump(mode="json")
    return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True).rstrip()


def explanation(section: str) -> str:
    """What the settings of a section are: name, type, default and meaning, one below the other.

    Args:
        section: Dotted name such as ``quantize`` or ``data.split``; ``all`` for the top level.

    Raises:
        ConfigError: There is no such section or setting.
    """
    model: type[BaseModel] = RunConfig
    path = [] if section == "all" else section.split(".")
    for depth, name in enumerate(path):
        if name not in model.model_fields:
            raise ConfigError(f"no setting {section!r}", found=name, fix=f"use one of {', '.join(model.model_fields)}")
        nested = _section_of(model.model_fields[name].annotation)
        if nested is None:
            if depth < len(path) - 1:
                raise ConfigError(f"no setting {section!r}", found=path[depth + 1], fix=f"{name} is a plain setting")
            return "\n".join(_explain(section, model.model_fields[name]))
        model = nested
    prefix = "" if section == "all" else f"{section}."
    lines = [" ".join((model.__doc__ or "").split()), ""]
    for name, field in model.model_fields.items():
        lines += _explain(prefix + name, field)
    return "\n".join(lines)


def _explain(name: str, field: FieldInfo) -> list[str]:
    nested = _section_of(field.annotation)
    if nested is not None:
        meaning = field.description or (nested.__doc__ or "").strip().splitlines()[0]
        several = "a list; " if typing.get_origin(field.annotation) is tuple else ""
        return [name, f"    {meaning}", f"    {several}more: mec config --explain {name}"]
    value = field.get_default(call_default_factory=True)
    default = "required" if field.is_required() else f"default {_shown(value)}"
    bounds = [text for text in map(_bound, field.metadata) if text]
    facts = ", ".join([_type_name(field.annotation), *bounds, default])
    return [name, *([f"    {field.description}"] if field.description else []), f"    {facts}"]


def _section_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in typing.get_args(annotation):
        nested = _section_of(argument)
        if nested is not None:
            return nested
    return None


def _type_name(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " | ".join(str(a) for a in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join("null" if a is type(None) else _type_name(a) for a in arguments)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin is tuple:
        return f"list of {_type_name(arguments[0])}"
    if origin is dict:
        return "mapping"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true | false"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


def _bound(constraint: object) -> str:
    for attribute, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        if hasattr(constraint, attribute):
            return f"{sign} {_shown(getattr(constraint, attribute))}"
    return ""


def _shown(value: object) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()

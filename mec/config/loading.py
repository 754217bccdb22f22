"""From YAML and ``key=value`` to checked settings, and errors that name the key."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mec.config.base import Settings
from mec.config.run import RunConfig
from mec.errors import ConfigError


def load_config(path: Path | str, overrides: Sequence[str] = (), layers: Sequence[Path | str] = ()) -> RunConfig:
    """Read a YAML config, lay other files over it, apply ``key=value`` overrides, check everything.

    Args:
        path: YAML file.
        overrides: Dotted keys with YAML values, such as ``quantize.budget=16x``; later ones win.
        layers: YAML files with some of the settings, such as those under configs/ablations; later ones win, and
            overrides win over all.

    Raises:
        ConfigError: No such file, not YAML, an unknown key (the known ones are listed) or a bad value.
    """
    raw = read_settings(path)
    for layer in layers:
        raw = overlaid(raw, read_settings(layer))
    for override in overrides:
        apply_override(raw, override)
    return parse_config(raw, where=" with ".join(map(str, [path, *layers])))


def read_settings(path: Path | str) -> dict[str, Any]:
    """The mapping in a YAML file of settings, all of them or some, as it is written; nothing is checked.

    Raises:
        ConfigError: No such file, not YAML, or no mapping.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"no config file {path}", fix="pass a YAML file; examples are under configs/") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the config {path}", found=error, fix="write it as UTF-8 YAML") from None
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise ConfigError(
            f"the config {path} is not a mapping of keys", found=type(raw).__name__, fix="see configs/demo.yaml"
        )
    return raw


def overlaid(raw: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with others laid over them: mappings key by key, all else, lists too, as a whole.

    Args:
        raw: Settings; not changed.
        layer: Those that win.
    """
    result = dict(raw)
    for key, value in layer.items():
        below = result.get(key)
        # a mapping in the result is always a copy: overrides change it in place
        result[key] = overlaid(below if isinstance(below, dict) else {}, value) if isinstance(value, dict) else value
    return result


def parse_config(raw: dict[str, Any], where: str = "config") -> RunConfig:
    """Check a mapping of settings; errors name every bad key and list the known ones."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{where} has bad settings:\n  " + "\n  ".join(explain(error, RunConfig))) from None


def section(model: type[Settings], text: str) -> Any:
    """Read one section back from the JSON that a pipeline parameter carries.

    Raises:
        ConfigError: The JSON does not fit the section.
    """
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"bad {model.__name__} parameter:\n  " + "\n  ".join(explain(error, model))) from None


def joined(
    name: str,
    seed: int,
    store: str,
    data: str,
    count: str,
    pretrain: str,
    quantize: str,
    publish: str,
    train: str,
    evaluate: str,
    tracking: str,
) -> str:
    """Put a run's settings together again from pipeline parameters; sections are JSON.

    Returns:
        JSON that ``RunConfig`` reads; the image, which changes no result, is left out.
    """
    sections = {
        "data": data,
        "count": count,
        "pretrain": pretrain,
        "quantize": quantize,
        "publish": publish,
        "train": train,
        "evaluate": evaluate,
        "tracking": tracking,
    }
    return json.dumps({"name": name, "seed": seed, "store": store, **{k: json.loads(v) for k, v in sections.items()}})


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Put one ``key=value`` into a mapping of settings; keys are dotted, values YAML."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError("--set needs key=value", found=override, fix="for example --set quantize.budget=16x")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {key}: the value is not YAML", found=error, fix="quote it") from None
    *parents, last = key.strip().split(".")
    node: Any = raw
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise ConfigError(f"--set {key}: {parent} is not a section", found=json.dumps(node, default=str))
    node[last] = value


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line for each thing that is wrong: the key, what was found, and the known keys where it is unknown."""
    lines = []
    for item in error.errors():
        location = [str(p) for p in item["loc"]]
        where = ".".join(location) or "settings"
        if item["type"] == "extra_forbidden":
            known = ", ".join(_known_keys(model, location[:-1]))
            lines.append(f"{where}: unknown key; found: {item['input']!r}; fix: use one of {known}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            shown = f"; found: {item['input']!r}" if not isinstance(item["input"], (dict, BaseModel)) else ""
            lines.append(f"{where}: {message}{shown}")
    return lines


def _known_keys(model: type[BaseModel], parents: Sequence[str]) -> list[str]:
    current: type[BaseModel] = model
    for name in parents:
        if name not in current.model_fields:  # an index, or a key of the user's
            continue
        nested = _model_of(current.model_fields[name].annotation)
        if nested is None:
            break
        current = nested
    return list(current.model_fields)


def _model_of(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_of(argument)
        if found is not None:
            return found
    return None

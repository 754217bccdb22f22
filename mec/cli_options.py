"""Options that several commands have."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mec.config import RunConfig

config = click.argument("config", type=click.Path(path_type=Path))
optional_config = click.argument("config", type=click.Path(path_type=Path), required=False)
overrides = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change one setting, such as quantize.budget=16x; give it as often as you like.",
)
layers = click.option(
    "--with",
    "layers",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Lay the settings in FILE over those in CONFIG; give it as often as you like. --set comes last.",
)
store = click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=Path(".mec"),
    show_default=True,
    help="The `store` of the runs: where kept bundles and the embedded databases are.",
)
uri = click.option("--uri", help="Tracking server.  [default: MLFLOW_TRACKING_URI, else sqlite under the store]")
own_overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; give it as often as you like."
)


def tell_without_effect(config: RunConfig, *, on_cluster: bool) -> None:
    """Say on standard error what a bake-off leaves aside."""
    from mec.bakeoff.cells import without_effect

    for note in without_effect(config, on_cluster=on_cluster):
        click.echo(f"note: {note}", err=True)


def bakeoff_overrides(methods: str | None, budgets: str | None, seeds: int | None) -> list[str]:
    """Options of ``mec bakeoff`` as ``key=value`` settings, those that were given; lists have commas."""
    lists = {"methods": methods, "budgets": budgets}
    found = [
        f"bakeoff.{name}={json.dumps([item.strip() for item in text.split(',')])}"
        for name, text in lists.items()
        if text is not None
    ]
    return found if seeds is None else [*found, f"bakeoff.seeds={seeds}"]

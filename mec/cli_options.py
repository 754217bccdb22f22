"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

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
own_overrides = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting; give it as often as you like."
)

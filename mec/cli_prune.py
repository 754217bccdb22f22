"""``mec prune``: what was kept of old versions, and their codes online, shown or deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from mec import cli_options as options
from mec.config import TrackingConfig


@click.command()
@click.argument("name")
@click.option(
    "--keep", type=click.IntRange(min=1), default=10, show_default=True, help="Newest versions that stay whole."
)
@click.option("--yes", is_flag=True, help="Delete; without it only what would be deleted is shown.")
@options.store
@options.uri
def prune(name: str, keep: int, yes: bool, store: Path, uri: str | None) -> None:
    """Delete the kept bundles and online codes of old versions of NAME, which can then no longer be put in service.

    The newest versions stay, those with an alias, what they share with others, and the rows that later refreshes
    replay and compare with. Codes online go where no version that stays names their codebook. The versions
    themselves, their numbers and the history stay in MLflow.

    \b
    Examples:
      mec prune shop                   what would go
      mec prune shop --keep 5 --yes
    """
    from mec.evaluation.formatting import human_bytes
    from mec.publish.online_value import feature_name
    from mec.tracking.pruning import prune, prune_facts

    found = prune(name, keep, tracking=TrackingConfig(uri=uri), store=store, delete=yes)
    for repo in found.gone:
        click.echo(f"no feature repo at {repo}: codes of old versions that are online elsewhere stay there", err=True)
    if not found.places and not found.online:
        click.echo(f"nothing to delete: every bundle of {name} is needed by a version that stays")
        return
    kinds = ", ".join(f"{number} {kind}" for kind, number in prune_facts(found).items())
    verb = "deleted" if yes else "would be deleted (--yes does it)"
    if found.places:
        click.echo(f"{human_bytes(found.num_bytes)} of {_named(found.versions)} {verb}: {kinds}")
    for codes in found.online:
        what = f"{feature_name(codes.codebook)} of {_named(codes.versions)}, {codes.rows:,} online rows"
        click.echo(f"feature view and service {what}, {verb}: {codes.repo}")


def _named(versions: Sequence[str]) -> str:
    return ", ".join(f"v{number}" for number in versions)

"""``mec schedule``: bring the recurring runs of a Kubeflow cluster in line with a directory of files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mec.cli_submit import endpoint_options, named_endpoint

if TYPE_CHECKING:
    from pipelines.kubeflow_api import KubeflowApi
    from pipelines.scheduling_changes import Change

_directory = click.argument("directory", type=click.Path(path_type=Path))
_image = click.option("--image", metavar="NAME@sha256:…", required=True, help="Container image of the steps.")
_owner = click.option(
    "--owner", default="mec", show_default=True, help="Marks the recurring runs; those of others are left alone."
)
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group()
def schedule() -> None:
    """Recurring runs on a Kubeflow cluster, from a directory with one YAML file each.

    \b
    Examples:
      mec schedule diff schedules --image registry.example/mec@sha256:…
      mec schedule apply schedules --image registry.example/mec@sha256:…
      mec schedule remove shop-nightly-refresh
    """


@schedule.command()
@_directory
@_image
@_owner
@endpoint_options
def diff(directory: Path, image: str, owner: str, **where: Any) -> None:
    """Show what `apply` would change, and change nothing."""
    _plan(directory, image, owner, where)


@schedule.command()
@_directory
@_image
@_owner
@_yes
@endpoint_options
def apply(directory: Path, image: str, owner: str, yes: bool, **where: Any) -> None:
    """Create, replace and remove recurring runs until they are those of DIRECTORY.

    Shows the changes and asks first. Runs in flight go on: a recurring run that has some stays, disabled, until a
    later `apply` finds them ended. Recurring runs that the owner did not make are never touched.
    """
    api, changes = _plan(directory, image, owner, where)
    _apply(api, changes, owner, yes=yes)


@schedule.command()
@click.argument("names", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All of the owner's.")
@_owner
@_yes
@endpoint_options
def remove(names: tuple[str, ...], everything: bool, owner: str, yes: bool, **where: Any) -> None:
    """Remove the recurring runs NAMES; runs in flight go on."""
    if bool(names) == everything:
        raise click.UsageError("name what to remove, or pass --all")
    from pipelines.kubeflow_api import connect
    from pipelines.scheduling_changes import plan_removal

    api = connect(named_endpoint(**where))
    changes = plan_removal(api, list(names), owner)
    _show(changes)
    _apply(api, changes, owner, yes=yes)


def _plan(directory: Path, image: str, owner: str, where: dict[str, Any]) -> tuple[KubeflowApi, list[Change]]:
    from pipelines.kubeflow_api import connect
    from pipelines.scheduling import load_schedules
    from pipelines.scheduling_changes import plan_changes

    schedules = load_schedules(directory, image)
    api = connect(named_endpoint(**where))
    changes = plan_changes(api, schedules, owner)
    _show(changes)
    return api, changes


def _show(changes: list[Change]) -> None:
    """One line for each schedule, and one for each thing that differs."""
    width = max((len(change.name) for change in changes), default=0)
    for change in changes:
        first, *others = change.why or [""]
        click.echo(f"{change.action:<10} {change.name:<{width}}  {first}".rstrip())
        for line in others:
            click.echo(f"{'':<10} {'':<{width}}  {line}")
    left = sum(change.action not in ("unchanged", "keep") for change in changes)
    click.echo(f"{left} to change" if left else "nothing to change")


def _apply(api: KubeflowApi, changes: list[Change], owner: str, *, yes: bool) -> None:
    from pipelines.scheduling_changes import apply_changes

    if all(change.action in ("unchanged", "keep") for change in changes):
        return
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("nobody to ask: pass --yes to make these changes")
        click.confirm("Make these changes?", abort=True)
    apply_changes(api, changes, owner, click.echo)

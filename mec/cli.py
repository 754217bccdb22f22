"""The command line: what each command is called, takes and says; most of the work is elsewhere.

Commands import what they need when they run: ``mec --help`` answers at once.
"""

from __future__ import annotations

import json
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import click

from mec import cli_options as options
from mec.cli_check import check_backbone, check_method
from mec.cli_config import config
from mec.cli_prune import prune
from mec.cli_schedule import schedule
from mec.cli_submit import submit
from mec.config import load_config
from mec.errors import MecError
from mec.version import __version__

_runner = click.option(
    "--runner",
    type=click.Choice(["subprocess", "docker"]),
    default="subprocess",
    show_default=True,
    help="Each step in a process, or in a container of the `image` setting.",
)

_full = click.option(
    "--full", is_flag=True, help="Write all rows, where codes or vocabulary of the version in service are damaged."
)


class _Commands(click.Group):
    """Ends with 2 and one message when the user's input is wrong or a disk is full, with 130 after Ctrl-C."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Exception as error:
            from mec.full_disk import full_disk

            known = error if isinstance(error, MecError) else full_disk(error)
            if known is None:
                raise
            if ctx.meta.get("debug"):
                traceback.print_exc()
            click.echo(f"error: {known}", err=True)
            ctx.exit(2)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="mec", message="%(prog)s %(version)s")
def main() -> None:
    """Compressed embeddings for CTR models: from raw rows to a registered model.

    \b
    Examples:
      mec run configs/demo.yaml                      the whole pipeline on synthetic rows
      mec run configs/ml1m.yaml --set data.path=…    on your own copy of a data set
      mec refresh configs/shop.yaml --data new       new rows, the same backbone
      mec config --explain quantize                  which settings there are
    """


@main.command()
@options.config
@options.layers
@options.overrides
@_runner
@click.option("--out", type=click.Path(path_type=Path), help="Directory of the run.  [default: runs/NAME-TIME]")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def run(
    ctx: click.Context,
    config: Path,
    layers: tuple[Path, ...],
    overrides: tuple[str, ...],
    runner: Literal["subprocess", "docker"],
    out: Path | None,
    debug: bool,
) -> None:
    """Run the train pipeline on this machine with the settings in CONFIG.

    Every run has a directory with its settings (config.yaml), results (summary.json, report.html), artifacts
    (bundles/) and log (run.log). Running again with the same --out goes on where the run was stopped, and takes
    every finished step whose settings, input and code are the same.

    \b
    Examples:
      mec run configs/demo.yaml
      mec run configs/ml1m.yaml --out runs/ml1m
      mec run configs/ml1m.yaml --out runs/ml1m --set quantize.budget=16x --set train.model=pnn
      mec run configs/ml1m.yaml --with configs/ablations/pq.yaml
      mec run configs/ml1m.yaml --set train.model=[deepfm,pnn,gdcn_p]

    Exit code: 0 finished, 2 wrong input, wrong settings or a full disk, 1 a step crashed, 130 interrupted.
    """
    ctx.meta["debug"] = debug
    settings = load_config(config, overrides, layers)
    if out is None:
        out = Path("runs", f"{settings.name}-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    from mec.cli_run import run_and_show

    ctx.exit(run_and_show(settings, out, runner, debug=debug))


@main.command()
@options.config
@click.option(
    "--data",
    "new",
    multiple=True,
    type=click.Path(path_type=Path),
    required=True,
    help="File, directory or pattern of the new rows; give it as often as you like.",
)
@click.option(
    "--with-waiting", is_flag=True, help="Also the rows that no version has learned from; `mec history` lists them."
)
@click.option(
    "--period",
    "periods",
    multiple=True,
    metavar="VALUE",
    help="Value of refresh.arrivals.column that the new rows must hold; give it as often as you like.",
)
@options.layers
@options.overrides
@_runner
@click.option("--out", type=click.Path(path_type=Path), help="Directory of the run.  [default: runs/NAME-refresh-TIME]")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def refresh(
    ctx: click.Context,
    config: Path,
    new: tuple[Path, ...],
    with_waiting: bool,
    periods: tuple[str, ...],
    layers: tuple[Path, ...],
    overrides: tuple[str, ...],
    runner: Literal["subprocess", "docker"],
    out: Path | None,
    debug: bool,
) -> None:
    """Refresh the champion of CONFIG's model with new rows; its backbone stays as it is.

    The small model is retrained and brought into the champion's space, values are coded again, and the champion is
    measured on held-out new rows with old and new codes. Then the new generation is promoted, or the old one kept,
    or a new training is called for, which refresh.on_escalation=train starts at once. CONFIG is that of the train
    run. docs/refresh.md tells what each decision means.

    Running again with the same --out goes on where the refresh was stopped. Rows that the champion has learned from
    already change nothing.

    \b
    Examples:
      mec refresh configs/shop.yaml --data clicks/week-31.parquet
      mec refresh configs/shop.yaml --data clicks/week-32.parquet --with-waiting
      mec refresh configs/shop.yaml --data clicks/ --set refresh.arrivals.column=day --period 2026-08-01
      mec refresh configs/shop.yaml --data clicks/ --set refresh.codebooks=renewed

    Exit code: 0 finished, whatever was decided; 2 wrong input, wrong settings or a full disk, 1 a step crashed, 130
    interrupted.
    """
    ctx.meta["debug"] = debug
    if periods:
        overrides = (*overrides, f"refresh.arrivals.values={json.dumps(periods)}")
    settings = load_config(config, overrides, layers)
    if out is None:
        out = Path("runs", f"{settings.name}-refresh-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    from mec.cli_refresh import refresh_and_show

    ctx.exit(refresh_and_show(settings, new, out, runner, with_waiting=with_waiting, debug=debug))


@main.command()
@options.config
@click.option("--methods", metavar="NAME,…", help="Compression methods.  [default: bakeoff.methods, else all]")
@click.option("--budgets", metavar="BUDGET,…", help="Such as 2x,8x,32x.  [default: bakeoff.budgets]")
@click.option("--seeds", type=click.IntRange(min=1), help="Trainings of each.  [default: bakeoff.seeds]")
@options.layers
@options.overrides
@_runner
@click.option("--out", type=click.Path(path_type=Path), help="Directory of the run.  [default: runs/NAME-bakeoff-TIME]")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def bakeoff(
    ctx: click.Context,
    config: Path,
    methods: str | None,
    budgets: str | None,
    seeds: int | None,
    layers: tuple[Path, ...],
    overrides: tuple[str, ...],
    runner: Literal["subprocess", "docker"],
    out: Path | None,
    debug: bool,
) -> None:
    """Compare compression methods at several budgets on the data of CONFIG, and recommend one for each budget.

    Every method is trained at every budget with CONFIG's backbone, once per seed, and measured on what a server would
    hold. A method that cannot reach a budget says so. The run's directory gets a leaderboard with the curve of AUC
    over bytes (report.html, summary.json) and an MLflow run with one below it for every training.

    Running again with the same --out trains only what is not there yet: stop it, or add methods, budgets and seeds.

    \b
    Examples:
      mec bakeoff configs/demo.yaml --methods full,qr,hashing,mec --budgets 2x,8x --seeds 3
      mec bakeoff configs/ml1m.yaml --out runs/bakeoff --budgets 2x,8x,32x,128x
      mec bakeoff configs/ml1m.yaml --methods qr,mec --set bakeoff.settings.qr.compose=add

    Exit code: 0 finished, 2 wrong input, wrong settings or a full disk, 1 a step crashed, 130 interrupted.
    """
    ctx.meta["debug"] = debug
    settings = load_config(config, (*overrides, *options.bakeoff_overrides(methods, budgets, seeds)), layers)
    if out is None:
        out = Path("runs", f"{settings.name}-bakeoff-{datetime.now(UTC):%Y%m%d-%H%M%S}")
    from mec.cli_bakeoff import bake_and_show

    ctx.exit(bake_and_show(settings, out, runner, debug=debug))


@main.command()
@click.argument("name")
@options.store
@options.uri
def history(name: str, store: Path, uri: str | None) -> None:
    """List the generations of the registered model NAME, and who replaced whom.

    \b
    Examples:
      mec history shop
    """
    from mec.cli_history import show_history

    show_history(name, store, uri)


@main.command()
@click.argument("name")
@click.argument("generation", required=False)
@_full
@options.store
@options.uri
def rollback(name: str, generation: str | None, full: bool, store: Path, uri: str | None) -> None:
    """Put the version of NAME that was in service before in service again, or that of GENERATION.

    Restores its codes online, writing only rows that differ, and moves the aliases. GENERATION is a number such as 3,
    or a version such as v4.

    \b
    Examples:
      mec rollback shop
      mec rollback shop 0
    """
    from mec.cli_history import roll_back

    click.echo(roll_back(name, generation, store, uri, full=full))


@main.command()
@click.argument("name")
@click.argument("version")
@_full
@options.store
@options.uri
def promote(name: str, version: str, full: bool, store: Path, uri: str | None) -> None:
    """Put VERSION of the registered model NAME in service, whatever the gate decided.

    VERSION is a version such as v4, or the number of a generation.

    \b
    Examples:
      mec promote shop v4
    """
    from mec.cli_history import put_in_service

    click.echo(put_in_service(name, version, store, uri, full=full))


@main.command(name="compile")
@options.optional_config
@options.layers
@options.overrides
@click.option("--image", metavar="NAME@sha256:…", help="Container image of the steps.  [default: the `image` setting]")
@click.option("--profile", metavar="NAME|PATH", help="What steps ask of the cluster: cpu, gpu, spot or a file.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Directory to write the YAML to.")
def compile_(
    config: Path | None,
    layers: tuple[Path, ...],
    overrides: tuple[str, ...],
    image: str | None,
    profile: str | None,
    out: Path,
) -> None:
    """Compile the train, the refresh and the bake-off pipeline to YAML for a Kubeflow cluster.

    With CONFIG, its settings become the defaults of the pipelines' parameters: train.yaml, or train_backbones.yaml
    when it lists several backbones, refresh.yaml, and bakeoff.yaml when it has a bakeoff section. Without one, all
    of them are written.

    A profile gives each step its resources, nodes, retries, time limit and volumes; steps that get a GPU compute on
    it. The files under pipelines/profiles are examples to copy.

    \b
    Examples:
      mec compile --image registry.example/mec@sha256:… --out build
      mec compile configs/criteo.yaml --set store=/mnt/mec --set data.path=/mnt/mec/criteo.parquet \\
          --image registry.example/mec@sha256:… --profile gpu --out build
    """
    if config is None and (overrides or layers):
        raise click.UsageError("--set and --with change settings of a CONFIG: name one")
    settings = None if config is None else load_config(config, overrides, layers)
    image = image or (settings.image if settings is not None else None)
    if image is None:
        raise click.UsageError("no image: pass --image NAME@sha256:…, or a CONFIG that sets `image`")
    from pipelines.compiling import compile_pipelines

    if settings is not None and "bakeoff" in settings.model_fields_set:
        options.tell_without_effect(settings, on_cluster=True)
    for path in compile_pipelines(image, out, settings, profile):
        click.echo(path)


for _command in (prune, submit, schedule, config, check_backbone, check_method):
    main.add_command(_command)


@main.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--rows", type=click.IntRange(min=100), default=200_000, show_default=True, help="Rows to write.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of every random draw.")
@options.own_overrides
def synth(out: Path, rows: int, seed: int, overrides: tuple[str, ...]) -> None:
    """Write synthetic click data to the Parquet file OUT.

    Zipf-distributed values, planted latent factors, a known Bayes AUC; --set changes the generator's settings
    (mec config --explain data.synthetic).

    \b
    Examples:
      mec synth clicks.parquet --rows 1000000
      mec synth drift.parquet --rows 3000000 --set num_periods=3 --set new_values=0.2
    """
    from mec.cli_synth import write

    click.echo(write(out, rows, seed, overrides))


@main.command()
def version() -> None:
    """Print the version."""
    click.echo(f"mec {__version__}")

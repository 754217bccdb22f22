"""``mec submit``: one run on a Kubeflow cluster."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mec import cli_options as options
from mec.config import load_config
from mec.errors import ConfigError

if TYPE_CHECKING:
    from pipelines.kubeflow_api import Endpoint

_FAILED = 1  # exit code


def endpoint_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options that say where the API is and who asks; the command gets ``host``, ``namespace``, … ."""
    where = [
        click.option("--host", metavar="URL", help="Kubeflow Pipelines API.  [default: KF_PIPELINES_ENDPOINT]"),
        click.option("--namespace", help="Of a multi-user Kubeflow."),
        click.option(
            "--token-file",
            type=click.Path(path_type=Path),
            help="File with a bearer token.  [default: KF_PIPELINES_SA_TOKEN_PATH]",
        ),
        click.option("--ca-file", type=click.Path(path_type=Path), help="Certificates to trust, as PEM."),
    ]
    for option in reversed(where):
        command = option(command)
    return command


def named_endpoint(host: str | None, namespace: str | None, token_file: Path | None, ca_file: Path | None) -> Endpoint:
    """What the options of ``endpoint_options`` say."""
    from pipelines.kubeflow_api import Endpoint

    return Endpoint(host, namespace, token_file, ca_file)


@click.command()
@options.config
@options.layers
@options.overrides
@click.option("--image", metavar="NAME@sha256:…", help="Container image of the steps.  [default: the `image` setting]")
@click.option("--profile", metavar="NAME|PATH", help="What steps ask of the cluster: cpu, gpu, spot or a file.")
@click.option("--pipeline", default="train", show_default=True, help="train, refresh or bakeoff.")
@click.option("--data", help="Path of the new rows of a refresh, as steps see it.")
@click.option(
    "--param", "parameters", multiple=True, metavar="NAME=VALUE", help="Value of one parameter of the pipeline."
)
@click.option("--name", help="Of the run.  [default: CONFIG-PIPELINE-TIME]")
@click.option("--experiment", default="mec", show_default=True, help="Kubeflow experiment of the run.")
@click.option("--wait", is_flag=True, help="Wait until the run has ended.")
@endpoint_options
@click.pass_context
def submit(
    ctx: click.Context,
    /,
    config: Path,
    layers: tuple[Path, ...],
    overrides: tuple[str, ...],
    image: str | None,
    profile: str | None,
    pipeline: str,
    data: str | None,
    parameters: tuple[str, ...],
    name: str | None,
    experiment: str,
    wait: bool,
    **where: Any,
) -> None:
    """Start one run on a Kubeflow cluster with the settings in CONFIG, and print its address.

    The pipeline is compiled and uploaded as a version named by its contents, unless that version is there already.
    Paths in CONFIG are those that the steps see. Ctrl-C while waiting leaves the run alone.

    \b
    Examples:
      mec submit shop.yaml --image … --profile cpu --param data_version=2026-08-01 --wait
      mec submit shop.yaml --image … --pipeline refresh --data /mnt/mec/new/31.parquet \\
          --param data_version=week-31 --host https://kubeflow.example/pipeline

    Exit code: 0 started, or finished with --wait; 2 wrong input, or the API refuses; 1 the run failed.
    """
    settings = load_config(config, overrides, layers)
    image = image or settings.image
    if image is None:
        raise click.UsageError("no image: pass --image NAME@sha256:…, or a CONFIG that sets `image`")
    from pipelines import submitting
    from pipelines.kubeflow_api import connect

    if pipeline == "bakeoff":
        options.tell_without_effect(settings, on_cluster=True)

    request = submitting.request_run(
        settings, image=image, profile=profile, pipeline=pipeline, values=_values(parameters), data=data
    )
    api = connect(named_endpoint(**where))
    name = name or f"{request.pipeline}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    run_id = submitting.submit(api, request, name=name, experiment=experiment)
    click.echo(api.run_url(run_id))
    if wait:
        ctx.exit(_wait(api, run_id))


def _wait(api: Any, run_id: str) -> int:
    """Show how a run gets on, and return the exit code."""
    from rich.console import Console

    from pipelines.submitting import wait

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status("PENDING") as line:
            state, problem = wait(api, run_id, line.update)
    else:
        state, problem = wait(api, run_id, lambda text: click.echo(text, err=True))
    click.echo(f"{state}{f': {problem}' if problem else ''}", err=True)
    return 0 if state in ("SUCCEEDED", "SKIPPED") else _FAILED


def _values(parameters: tuple[str, ...]) -> dict[str, str]:
    values = {}
    for parameter in parameters:
        name, equals, value = parameter.partition("=")
        if not equals or not name:
            raise ConfigError("--param needs NAME=VALUE", found=parameter, fix="for example --param data_version=7")
        values[name] = value
    return values

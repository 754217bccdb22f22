"""``mec check-backbone`` and ``mec check-method``: hold one to what the pipeline relies on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from mec import cli_options as options
from mec.config import apply_override

if TYPE_CHECKING:
    from mec.testing import Finding


@click.command(name="check-backbone")
@click.argument("name")
@options.own_overrides
@click.pass_context
def check_backbone(ctx: click.Context, name: str, overrides: tuple[str, ...]) -> None:
    """Check that the backbone NAME keeps what the pipeline relies on.

    Shapes, gradients, determinism, saving, the order of fields, codes, extreme inputs, half precision (bfloat16, not
    float16), and whether it learns the interactions it claims. NAME is one of mec's own or of an installed package;
    --set changes the backbone's settings.

    \b
    Examples:
      mec check-backbone deepfm
      mec check-backbone sam --set interaction_type=SAM2E

    Exit code: 0 it conforms, 1 there are findings, 2 no such backbone or settings.
    """
    text, conforms = backbone_report(name, overrides)
    click.echo(text)
    ctx.exit(0 if conforms else 1)


@click.command(name="check-method")
@click.argument("name")
@options.own_overrides
@click.pass_context
def check_method(ctx: click.Context, name: str, overrides: tuple[str, ...]) -> None:
    """Check that the compression method NAME keeps what training, comparison and serving rely on.

    Shapes, gradients, determinism, saving, serving from the export alone, honest bytes, budgets, and whether it
    learns. NAME is one of mec's own or of an installed package; --set changes the method's settings.

    \b
    Examples:
      mec check-method hashing
      mec check-method qr --set compose=concat

    Exit code: 0 it conforms, 1 there are findings, 2 no such method or settings.
    """
    text, conforms = method_report(name, overrides)
    click.echo(text)
    ctx.exit(0 if conforms else 1)


def backbone_report(name: str, overrides: Sequence[str]) -> tuple[str, bool]:
    """Run the conformance checks.

    Args:
        name: A registered backbone, or one of an installed package.
        overrides: Settings of the backbone as ``key=value``.

    Returns:
        What was found, for a person, and whether the backbone conforms.

    Raises:
        ConfigError: No such backbone, or settings that it does not have.
    """
    from mec import testing

    return _report(name, testing.check_backbone(name, _settings(overrides)), testing.CHECKS)


def method_report(name: str, overrides: Sequence[str]) -> tuple[str, bool]:
    """Run the conformance checks of compression methods.

    Args:
        name: A registered method, or one of an installed package.
        overrides: Settings of the method as ``key=value``.

    Returns:
        What was found, for a person, and whether the method conforms.

    Raises:
        ConfigError: No such method, or settings that it does not have.
    """
    from mec import testing_methods

    return _report(name, testing_methods.check_method(name, _settings(overrides)), testing_methods.CHECKS)


def _settings(overrides: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for override in overrides:
        apply_override(settings, override)
    return settings


def _report(name: str, findings: Sequence[Finding], checks: Iterable[str]) -> tuple[str, bool]:
    if not findings:
        return f"{name}: conforms ({', '.join(checks)})", True
    lines = [f"{name}: {len(findings)} findings" if len(findings) > 1 else f"{name}: 1 finding"]
    return "\n".join([*lines, *(f"  {finding}" for finding in findings)]), False

"""``mec check-backbone`` and ``mec check-method``: hold one to what the pipeline relies on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from mec.config import apply_override
from mec.testing import CHECKS, Finding, check_backbone
from mec.testing_methods import CHECKS as METHOD_CHECKS
from mec.testing_methods import check_method


def check(name: str, overrides: Sequence[str]) -> tuple[str, bool]:
    """Run the conformance checks.

    Args:
        name: A registered backbone, or one of an installed package.
        overrides: Settings of the backbone as ``key=value``.

    Returns:
        What was found, for a person, and whether the backbone conforms.

    Raises:
        ConfigError: No such backbone, or settings that it does not have.
    """
    return _report(name, check_backbone(name, _settings(overrides)), CHECKS)


def check_compression(name: str, overrides: Sequence[str]) -> tuple[str, bool]:
    """Run the conformance checks of compression methods.

    Args:
        name: A registered method, or one of an installed package.
        overrides: Settings of the method as ``key=value``.

    Returns:
        What was found, for a person, and whether the method conforms.

    Raises:
        ConfigError: No such method, or settings that it does not have.
    """
    return _report(name, check_method(name, _settings(overrides)), METHOD_CHECKS)


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

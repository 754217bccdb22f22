"""``mec check-backbone``: hold a backbone to what the pipeline relies on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mec.config import apply_override
from mec.testing import CHECKS, check_backbone


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
    settings: dict[str, Any] = {}
    for override in overrides:
        apply_override(settings, override)
    findings = check_backbone(name, settings)
    if not findings:
        return f"{name}: conforms ({', '.join(CHECKS)})", True
    lines = [f"{name}: {len(findings)} findings" if len(findings) > 1 else f"{name}: 1 finding"]
    return "\n".join([*lines, *(f"  {finding}" for finding in findings)]), False

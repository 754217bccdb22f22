"""``mec synth``: write synthetic click data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mec.config import apply_override, parse_config
from mec.data.synthetic import bayes_auc, write_synthetic
from mec.errors import ConfigError


def write(out: Path, rows: int, seed: int, overrides: Sequence[str]) -> str:
    """Write the rows to one Parquet file.

    Args:
        out: The file.
        rows: How many.
        seed: Of every random draw.
        overrides: Settings of the generator as ``key=value``.

    Returns:
        What was written, for a person.

    Raises:
        ConfigError: A bad setting or a file that cannot be written.
    """
    raw: dict[str, Any] = {"num_rows": rows}
    for override in overrides:
        apply_override(raw, override)
    synthetic = parse_config({"data": {"synthetic": raw}}, where="mec synth").data.synthetic
    assert synthetic is not None
    try:
        write_synthetic(synthetic, seed, out)
    except OSError as error:
        raise ConfigError(f"cannot write {out}", found=error.strerror, fix="choose another place") from None
    best = bayes_auc(synthetic, seed)
    return f"{out}: {synthetic.num_rows:,} rows, {len(synthetic.field_sizes)} fields; no model can beat AUC {best:.4f}"

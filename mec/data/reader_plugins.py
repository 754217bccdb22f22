"""Readers of other packages: rows in a format that mec does not know.

A package names its class in its ``pyproject.toml``; installed beside mec, it reads ``data.format: arrow``:

    [project.entry-points."mec.readers"]
    arrow = "mec_arrow:ArrowRows"
"""

from __future__ import annotations

from importlib.metadata import entry_points

from mec.data.blocks import RawRows
from mec.errors import ConfigError

GROUP = "mec.readers"
OWN_FORMATS = ("auto", "parquet", "csv", "tsv")
_NEEDED = ("version", "num_rows_hint", "is_untyped", "column_names", "column_types", "partitions", "read", "row_name")


def open_plugin(format: str, path: str) -> RawRows:
    """Open rows with the reader that an installed package offers for a format.

    Args:
        format: Name of its entry point.
        path: ``data.path``.

    Raises:
        ConfigError: No package reads this format, several do, or its reader cannot be loaded.
    """
    found = {entry_point.value: entry_point for entry_point in entry_points(group=GROUP, name=format)}
    if not found:
        known = sorted({*OWN_FORMATS, *entry_points(group=GROUP).names})
        raise ConfigError("no reader of data.format", found=format, fix=f"use one of {', '.join(known)}")
    if len(found) > 1:
        raise ConfigError(
            f"several packages read data.format {format!r}", found=sorted(found), fix="uninstall all but one"
        )
    ((target, entry_point),) = found.items()
    try:
        reader = entry_point.load()
    except Exception as error:  # whatever a stranger's module raises while it is imported
        raise ConfigError(
            f"the reader of data.format {format!r} cannot be loaded from {target!r}",
            found=f"{type(error).__name__}: {error}",
            fix="repair or uninstall the package",
        ) from error
    rows: RawRows = reader(path)
    lacking = [name for name in _NEEDED if not hasattr(rows, name)]
    if lacking:
        raise ConfigError(
            f"the reader {target!r} of data.format {format!r} lacks {', '.join(lacking)}",
            fix="give it everything that mec.data.blocks.RawRows has",
        )
    return rows

"""From ``data.path`` to a sorted list of files of one format."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

from mec.errors import DataError

Format = Literal["parquet", "csv", "tsv"]

_SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv"}
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz")


def find_files(paths: Sequence[str], format: str, default: Format | None = None) -> tuple[list[Path], Format]:
    """List the files behind some paths, sorted, and say what format they are.

    In whatever order the paths are given, the files come in one order: the same rows have one identity.

    Args:
        paths: Each a file, a directory (its files, hidden ones and those starting with ``_`` left out) or a glob.
        format: ``parquet``, ``csv``, ``tsv``, or ``auto`` to go by the file names.
        default: Format of file names that tell nothing, where a preset knows it.

    Raises:
        DataError: Nothing there, a file that two paths name, an empty or compressed file, files of several formats, or
            a format of another package.
    """
    if format != "auto" and format not in _SUFFIXES.values():
        raise DataError(
            f"files of data.format {format!r} are found by the package that reads them",
            fix="set data.format to auto, parquet, csv or tsv here",
        )
    files = sorted(file for path in paths for file in _files_at(path, format, default))
    doubled = sorted({str(file) for file, following in itertools.pairwise(files) if file == following})
    if doubled:
        raise DataError("files are named twice by data.path", found=doubled[:8], fix="name each of them once")
    for file in files:
        if file.suffix in _COMPRESSED:
            raise DataError(f"{file} is compressed as a whole", fix="decompress it first (Parquet compresses inside)")
        if file.stat().st_size == 0:
            raise DataError(f"{file} is empty", found="0 bytes", fix="fetch or write it again, or take it away")
    formats = {_SUFFIXES.get(f.suffix, default) for f in files} if format == "auto" else {cast(Format, format)}
    if None in formats:
        unknown = next(f for f in files if f.suffix not in _SUFFIXES)
        raise DataError(f"the name of {unknown} does not tell its format", fix="set data.format to parquet, csv or tsv")
    if len(formats) > 1:
        raise DataError(
            f"data.path {', '.join(paths)} holds files of several formats",
            found=sorted(str(f) for f in formats),
            fix="keep one format per directory, or give a glob such as 'dir/*.parquet'",
        )
    (only,) = formats
    assert only is not None
    return files, only


def _files_at(path: str, format: str, default: Format | None) -> list[Path]:
    """Absolute paths of the files behind one path."""
    root = Path(path)
    if root.is_file():
        files = [root]
    elif root.is_dir():
        files = [f for f in root.iterdir() if f.is_file() and not f.name.startswith((".", "_"))]
        if format == "auto":
            files = [f for f in files if f.suffix in _SUFFIXES] or (files if default else [])
    else:
        found = glob.glob(path, recursive=True)  # noqa: PTH207 (Path.glob refuses absolute patterns)
        files = [Path(f) for f in found if Path(f).is_file()]
    if not files:
        raise DataError(
            f"no data files at data.path {path!r}",
            found=_what_is_there(root),
            fix="give a file, a directory of .parquet, .csv or .tsv files, or a glob such as 'day_*/**/*.parquet'",
        )
    return [file.absolute() for file in files]


def _what_is_there(root: Path) -> str:
    if root.is_dir():
        names = sorted(f.name for f in root.iterdir())
        return f"a directory with {names[:8]}{' …' if len(names) > 8 else ''}"
    return f"nothing (looked from {Path.cwd()})"

"""What the package exports, and what importing it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import mec

HEAVY = {
    "dask",
    "distributed",
    "docker",
    "feast",
    "kfp",
    "matplotlib",
    "mlflow",
    "numpy",
    "pandas",
    "polars",
    "pyarrow",
    "sklearn",
    "torch",
}


def test_exported_names():
    assert mec.__all__ == ["__version__"]


def test_the_version_is_a_release_number():
    assert [part.isdigit() for part in mec.__version__.split(".")] == [True, True, True]


@pytest.mark.parametrize(
    "module",
    [
        "data.encoding",
        "pretraining",
        "quantize.quantizing",
        "training_steps",
        "evaluation.evaluating",
        "publish.publishing",
    ],
)
def test_steps_start_without_what_only_parts_of_them_need(module):
    code = f"import mec.{module}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"pandas", "polars", "matplotlib", "scipy", "feast", "mlflow", "kfp"} & set(done.stdout.split()) == set()


@pytest.mark.parametrize(
    "statement",
    [
        "import mec",
        "import mec.config",
        "import mec.errors, mec.bundle, mec.progress, mec.steps",
        "import mec.cli",
        "from click.testing import CliRunner; from mec.cli import main; CliRunner().invoke(main, ['--help'])",
        "from click.testing import CliRunner; from mec.cli import main; CliRunner().invoke(main, ['run', '--help'])",
        "from click.testing import CliRunner; from mec.cli import main; CliRunner().invoke(main, ['run', 'none.yaml'])",
    ],
)
def test_nothing_heavy_is_imported(statement):
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()

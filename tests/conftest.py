"""Shared by all tests."""

from __future__ import annotations

import os

# real servers and long waits have no place in tests; set before any test imports the libraries
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("FEAST_USAGE", "False")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

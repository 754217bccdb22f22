"""The parts of ``benchmarks/compression.py``: tables, variants, jobs, statistics, plots."""

"""Parts of ``benchmarks/bakeoff.py``."""

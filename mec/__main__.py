"""``python -m mec`` is ``mec``."""

from mec.cli import main

main(prog_name="mec")

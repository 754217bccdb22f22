"""mec: compressed embeddings for CTR models."""

from mec.version import __version__

__all__ = ["__version__"]

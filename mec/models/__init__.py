"""Backbones: one file each, found by name in ``BACKBONES``."""

from mec.models import deepfm, fm, pnn
from mec.models.base import BACKBONES, Backbone, build_backbone

__all__ = ["BACKBONES", "Backbone", "build_backbone", "deepfm", "fm", "pnn"]

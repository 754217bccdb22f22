"""Backbones: one file each, found by name in ``BACKBONES``."""

from mec.models import afm, afn, autoint, dcn, dcnv2, deepfm, fm, gdcn, lr, pnn, sam
from mec.models.base import BACKBONES, Backbone, build_backbone, check_backbone_settings

__all__ = [
    "BACKBONES",
    "Backbone",
    "afm",
    "afn",
    "autoint",
    "build_backbone",
    "check_backbone_settings",
    "dcn",
    "dcnv2",
    "deepfm",
    "fm",
    "gdcn",
    "lr",
    "pnn",
    "sam",
]

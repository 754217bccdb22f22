"""First-order weights beside backbones whose papers have no place for them."""

from __future__ import annotations

import pytest
import torch

from mec.models import BACKBONES
from mec.models.wide import WideBackbone, WideSettings
from tests.models.reference import make, make_inputs

WIDE = ["pnn", "dcn", "dcnv2", "autoint", "autoint_plus", "afn", "afn_plus", "sam", "gdcn_p", "gdcn_s"]


@pytest.mark.parametrize("name", WIDE)
def test_the_weights_are_added_once_or_not_at_all(name: str) -> None:
    vectors, first_order = make_inputs()
    model, paper = make(name), make(name, wide=False)
    alone = model(vectors, None)
    torch.testing.assert_close(model(vectors, first_order), alone + first_order)
    assert torch.equal(paper(vectors, first_order), alone)
    (gradient,) = torch.autograd.grad(model(vectors, first_order).sum(), first_order)
    assert torch.equal(gradient, torch.ones_like(first_order))


def test_every_other_backbone_reads_the_weights_itself() -> None:
    others = {name for name in ("lr", "fm", "afm", "deepfm") if not issubclass(BACKBONES.get(name), WideBackbone)}
    assert others == {"lr", "fm", "afm", "deepfm"}
    vectors, first_order = make_inputs()
    for name in others:
        (gradient,) = torch.autograd.grad(make(name)(vectors, first_order).sum(), first_order)
        assert torch.equal(gradient, torch.ones_like(first_order))
    assert all(issubclass(BACKBONES.get(name).settings_type, WideSettings) for name in WIDE)

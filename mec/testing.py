"""Conformance of backbones: what the pipeline relies on, checked in seconds.

    from mec.testing import check_backbone
    assert check_backbone(MyBackbone) == []

The same on the command line, for a registered name or an installed plug-in: ``mec check-backbone NAME``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import product

import torch
from safetensors.torch import load, save

from mec.ctr_model import CtrModel
from mec.data.layout import FieldLayout, FieldSlots
from mec.embeddings.coded import CodedEmbedding
from mec.errors import ConfigError
from mec.models import BACKBONES, Backbone
from mec.models.base import check_settings
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.packing import pack
from mec.quantize.residual import ResidualCodebook
from mec.testing_backbone_data import B, D, F, Make, inputs, moved, same
from mec.testing_backbone_training import gradients, learning

ODD_SIZES = [(1, 1, 1), (1, 4, 3), (5, 1, 3), (5, 4, 1), (2, 2, 1), (3, 1, 1), (7, 5, 3)]  # (B, F, D)


@dataclass(frozen=True)
class Finding:
    """One thing that a backbone does wrong: which check says so, and what was found."""

    check: str
    problem: str

    def __str__(self) -> str:
        return f"{self.check}: {self.problem}"


def check_backbone(backbone: str | type[Backbone], settings: dict[str, object] | None = None) -> list[Finding]:
    """Check one backbone with one choice of settings.

    Seeds are fixed and the caller's random state stays as it is. A check that makes no sense after the failure
    of another one is left out, so that each finding is a cause. Half precision is bfloat16; float16 is not tried.

    Args:
        backbone: A registered name, or a class that need not be registered.
        settings: Its settings; the defaults of those left out.

    Returns:
        What is wrong; empty for a backbone that conforms.

    Raises:
        ConfigError: No such backbone, no subclass of ``Backbone``, or settings that it does not have.
    """
    cls = BACKBONES.get(backbone) if isinstance(backbone, str) else backbone
    if not (isinstance(cls, type) and issubclass(cls, Backbone)):
        raise ConfigError(
            "what is to be checked is no backbone",
            found=repr(cls),
            fix="give a registered name, or a class derived from mec.models.Backbone (the class, not an instance)",
        )
    name = backbone if isinstance(backbone, str) else cls.__name__
    checked = check_settings(cls, settings or {}, name)

    def make(num_fields: int, dim: int) -> Backbone:
        torch.manual_seed(1)
        return cls(num_fields, dim, checked)

    findings: list[Finding] = []
    with torch.random.fork_rng(devices=[]):
        for check, (run, needs) in CHECKS.items():
            if not any(finding.check in needs for finding in findings):
                findings += [Finding(check, problem) for problem in _problems(run, make)]
    return findings


def _problems(run: Callable[[Make], Iterator[str]], make: Make) -> list[str]:
    try:
        return list(run(make))
    except Exception as error:  # whatever a stranger's forward raises is a finding
        return [f"raised {type(error).__name__}: {error}"]


def _shapes(make: Make) -> Iterator[str]:
    """(B, F, D), (B,) -> (B,) finite logits of the same dtype at odd and ordinary sizes, inputs left as they were."""
    for num_rows, num_fields, dim in [*ODD_SIZES, (B, F, D)]:
        where = f"for {num_rows} rows, {num_fields} fields, D {dim}"
        for training in (True, False):
            vectors, first_order = inputs(num_rows, num_fields, dim)
            kept = vectors.clone()
            try:
                logits = make(num_fields, dim).train(training)(vectors, first_order)
            except Exception as error:
                yield f"{'training' if training else 'eval'} mode raised {type(error).__name__} {where}: {error}"
                return
            if logits.shape != (num_rows,) or logits.dtype != torch.float32:
                yield f"logits must be ({num_rows},) float32, not {tuple(logits.shape)} {logits.dtype}, {where}"
                return
            if not torch.isfinite(logits).all():
                yield f"logits are not finite in {'training' if training else 'eval'} mode {where}"
                return
            if not torch.equal(vectors, kept):
                yield f"forward changed the embeddings it was given {where}"
                return


def _eval(make: Make) -> Iterator[str]:
    """Eval mode repeats itself bit for bit, changes no state and scores each row as it would alone."""
    model = moved(make(F, D)).eval()
    vectors, first_order = inputs(B, F, D)
    if not torch.isfinite(model(vectors, first_order)).all():
        yield "logits are not finite once the parameters have moved a little from where they start"
        return
    before = {key: value.clone() for key, value in model.state_dict().items()}
    if not torch.equal(model(vectors, first_order), model(vectors, first_order)):
        yield "eval mode gave the same rows two different scores: dropout or noise must stop with training"
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    if changed:
        yield f"eval mode changed {', '.join(changed)}"
    together, alone = _both_ways(model, vectors, first_order)
    if not same(alone, together, together) and not _is_rounding(model, vectors, first_order):
        row = int((alone - together).abs().argmax())
        where = f"row {row} of {B} scores {together[row]:.6g} in a batch, {alone[row]:.6g} alone"
        yield f"a row's score depends on the rows beside it: {where}"


def _both_ways(model: Backbone, vectors: torch.Tensor, first_order: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) logits of a batch, and of its rows one by one."""
    rows = [model(vectors[i : i + 1], first_order[i : i + 1]) for i in range(len(vectors))]
    return model(vectors, first_order), torch.cat(rows)


def _is_rounding(model: Backbone, vectors: torch.Tensor, first_order: torch.Tensor) -> bool:
    """Whether rows score alone as in a batch in double precision: cubes, say, lose more digits than ``same`` allows."""
    try:
        together, alone = _both_ways(deepcopy(model).double(), vectors.double(), first_order.double())
    except Exception:  # a stranger's forward that takes no doubles: what was found stands
        return False
    return same(alone, together, together)


def _first_order(make: Make) -> Iterator[str]:
    """Rows without first-order weights score as rows whose weights are 0, or are refused."""
    model = moved(make(F, D)).eval()
    vectors, first_order = inputs(B, F, D)
    zeros = model(vectors, torch.zeros_like(first_order))
    try:
        without = model(vectors, None)
    except Exception as error:
        if not (isinstance(error, ValueError) and "first_order" in str(error)):
            yield (
                f"first_order=None raised {type(error).__name__}: {error}: score as with zeros, or raise a ValueError "
                "that names first_order if the backbone is nothing without it"
            )
        return
    if without.shape != zeros.shape or not same(without, zeros, zeros):
        yield "scores of first_order=None are not those of zeros: leave the first-order part out, and nothing else"


def _saving(make: Make) -> Iterator[str]:
    """Weights written and read into a fresh backbone give the same bits, after some training steps too."""
    model = moved(make(F, D)).train()
    vectors, first_order = inputs(B, F, D)
    for _ in range(3):
        model(vectors, first_order)
    weights = load(save({key: value.contiguous() for key, value in model.state_dict().items()}))
    torch.manual_seed(99)
    other = type(model)(F, D, model.settings)
    other.load_state_dict(weights)
    if not torch.equal(model.eval()(vectors, first_order), other.eval()(vectors, first_order)):
        yield "a fresh backbone with the saved weights scores otherwise: keep state in parameters or buffers"


def _field_order(make: Make) -> Iterator[str]:
    """Whether scores change with the order of the fields is what the class says of it."""
    model = moved(make(F, D)).eval()
    vectors, first_order = inputs(B, F, D)
    scores = model(vectors, first_order)
    # every order of F fields is a sequence of these two, so whatever any order changes, one of them does
    swapped, rotated = [1, 0, *range(2, F)], [*range(1, F), 0]
    matters = not all(same(model(vectors[:, fields], first_order), scores, scores) for fields in (swapped, rotated))
    if matters and not model.field_order_matters:
        yield "scores change with the order of the fields: if meant, set field_order_matters = True in the class"
    if model.field_order_matters and not matters:
        yield "scores are the same for every order of the fields: leave field_order_matters at False"


def _codes(make: Make) -> Iterator[str]:
    """Packed codes give the logits that the decoded full tables give, whatever was scored before."""
    generator = torch.Generator().manual_seed(4)
    names = ("a", "b", "c")
    fields = tuple(FieldSlots(n, "categorical", n, i, 1, "none") for i, n in enumerate(names))
    layout = FieldLayout(fields, tuple((n, 9) for n in names))
    coded = {n: ResidualCodebook(torch.randn(2, 4, D + 1, generator=generator)) for n in names}
    books = Codebooks("", layout, D, coded, {})
    drawn = {n: torch.randint(4, (9, 2), generator=generator) for n in names}
    codes = Codes(books, {n: pack(c.numpy(), 2) for n, c in drawn.items()})
    model = CtrModel(layout, CodedEmbedding(books, codes), moved(make(len(names), D))).eval()
    ids = torch.randint(9, (B, len(names)), generator=generator, dtype=torch.int32)
    rows = torch.stack([coded[n].decode(drawn[n])[ids[:, i].long()] for i, n in enumerate(names)], dim=1)
    on_tables = model.logits_from_rows(rows.flip(0), None).flip(0).detach()
    on_codes = model.logits(ids, None).detach()
    if not same(on_codes, on_tables, on_tables):
        difference = float((on_codes - on_tables).abs().max())
        yield f"logits on codes and on the decoded tables differ by {difference:.3g}"


def _extremes(make: Make) -> Iterator[str]:
    """Embeddings of 0 and of size 1e4 give finite logits, and gradients that are numbers, in both modes."""
    signs = torch.randn(B, F, D, generator=torch.Generator().manual_seed(5)).sign()
    cases = {"0": torch.zeros(B, F, D), "1e4": torch.full((B, F, D), 1e4), "1e4 of random sign": 1e4 * signs}
    for (what, vectors), training in product(cases.items(), (True, False)):
        model = make(F, D).train(training)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        wanted = [vectors.clone().requires_grad_(), vectors[:, 0, 0].clone().requires_grad_(), *parameters]
        logits = model(wanted[0], wanted[1])
        where = f"for embeddings of {what} in {'training' if training else 'eval'} mode"
        if not torch.isfinite(logits).all():
            yield f"logits are not finite {where}"
        elif logits.requires_grad:
            gradients = torch.autograd.grad(logits.sum(), wanted, allow_unused=True, materialize_grads=True)
            if any(torch.isnan(g).any() for g in gradients):
                yield f"a gradient is NaN {where}"


def _half(make: Make) -> Iterator[str]:
    """In bfloat16 the logits are those of float32 but for rounding, unless the class says it has no half precision."""
    model = make(F, D).eval()
    if not model.half_precision:
        return
    vectors, first_order = inputs(64, F, D)
    exact = model(vectors, first_order).detach()
    half = make(F, D).eval().bfloat16()(vectors.bfloat16(), first_order.bfloat16()).detach()
    error = float((half.float() - exact).abs().max() / (exact.abs().max() + 1e-6))
    if half.dtype != torch.bfloat16 or not error < 0.1:
        yield (
            f"in bfloat16 the logits are {half.dtype} and off by {error:.0%} of the largest: "
            "if that cannot be helped, set half_precision = False in the class"
        )


# check -> (function, checks that it makes no sense without)
CHECKS: dict[str, tuple[Callable[[Make], Iterator[str]], frozenset[str]]] = {
    "shapes": (_shapes, frozenset()),
    "gradients": (gradients, frozenset({"shapes"})),
    "eval": (_eval, frozenset({"shapes"})),
    "first order": (_first_order, frozenset({"shapes", "eval"})),
    "saving": (_saving, frozenset({"shapes", "eval"})),
    "field order": (_field_order, frozenset({"shapes", "eval"})),
    "codes": (_codes, frozenset({"shapes", "eval"})),
    "extremes": (_extremes, frozenset({"shapes"})),
    "half precision": (_half, frozenset({"shapes", "eval"})),
    "learning": (learning, frozenset({"shapes", "gradients", "eval"})),
}

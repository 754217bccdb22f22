"""Conformance of backbones: what the pipeline relies on, checked in seconds.

    from mec.testing import check_backbone
    assert check_backbone(MyBackbone) == []

The same on the command line, for a registered name or an installed plug-in: ``mec check-backbone NAME``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mec.ctr_model import CtrModel
from mec.data.layout import FieldLayout, FieldSlots
from mec.embeddings.coded import CodedEmbedding
from mec.evaluation.metrics import auc
from mec.models import BACKBONES, Backbone
from mec.models.base import check_settings
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.packing import pack
from mec.quantize.residual import ResidualCodebook

Make = Callable[[int, int], Backbone]  # (F, D) -> a backbone; the same weights each time

B, F, D = 16, 4, 6
ODD_SIZES = [(1, 1, 1), (1, 4, 3), (5, 1, 3), (5, 4, 1), (2, 2, 1), (3, 1, 1), (7, 5, 3)]  # (B, F, D)
LEARNED_AUC = 0.9  # a model that cannot learn the order stays at 0.5, one that can reaches 1
MAX_STEPS = 600


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
    of another one is left out, so that each finding is a cause.

    Args:
        backbone: A registered name, or a class that need not be registered.
        settings: Its settings; the defaults of those left out.

    Returns:
        What is wrong; empty for a backbone that conforms.

    Raises:
        ConfigError: No such backbone, or settings that it does not have.
    """
    cls, name = (BACKBONES.get(backbone), backbone) if isinstance(backbone, str) else (backbone, backbone.__name__)
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
    """(B, F, D), (B,) -> (B,) of the same dtype at odd sizes, in both modes, and inputs left as they were."""
    for num_rows, num_fields, dim in ODD_SIZES:
        where = f"for {num_rows} rows, {num_fields} fields, D {dim}"
        for training in (True, False):
            vectors, first_order = _inputs(num_rows, num_fields, dim)
            kept = vectors.clone()
            try:
                logits = make(num_fields, dim).train(training)(vectors, first_order)
            except Exception as error:
                yield f"{'training' if training else 'eval'} mode raised {type(error).__name__} {where}: {error}"
                return
            if logits.shape != (num_rows,) or logits.dtype != torch.float32:
                yield f"logits must be ({num_rows},) float32, not {tuple(logits.shape)} {logits.dtype}, {where}"
                return
            if not torch.equal(vectors, kept):
                yield f"forward changed the embeddings it was given {where}"
                return


def _gradients(make: Make) -> Iterator[str]:
    """A training step moves every parameter, and the embeddings or first-order weights.

    In float64, where a small gradient and a rounding error can be told apart.
    """
    model = _moved(make(F, D)).double().train()
    vectors, first_order = (part.double() for part in _inputs(64, F, D))
    parameters = {name: p for name, p in model.named_parameters() if p.numel()}
    wanted = [vectors.requires_grad_(), first_order.requires_grad_(), *parameters.values()]
    logits = model(vectors, first_order)
    if not logits.requires_grad:
        yield "the logits have no gradient at all: something is detached, or computed under no_grad"
        return
    upstream = torch.randn(64, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    gradients = torch.autograd.grad(logits, wanted, upstream, allow_unused=True, materialize_grads=True)
    largest = [float(g.abs().max()) for g in gradients]
    smallest = 1e-13 * max(largest)
    idle = [name for name, size in zip(parameters, largest[2:], strict=True) if size <= smallest]
    if idle:
        yield f"no gradient reaches {', '.join(idle)}"
    if max(largest[:2]) == 0:
        yield "no gradient reaches the embeddings or the first-order weights"


def _eval(make: Make) -> Iterator[str]:
    """Eval mode repeats itself bit for bit and changes no state."""
    model = _moved(make(F, D)).eval()
    vectors, first_order = _inputs(B, F, D)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    if not torch.equal(model(vectors, first_order), model(vectors, first_order)):
        yield "eval mode gave the same rows two different scores: dropout or noise must stop with training"
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    if changed:
        yield f"eval mode changed {', '.join(changed)}"
    together, alone = model(vectors, first_order), model(vectors[:1], first_order[:1])
    if not _same(alone, together[:1], together):
        yield f"a row's score depends on the rows beside it: {together[0]:.6g} in a batch, {alone[0]:.6g} alone"


def _saving(make: Make) -> Iterator[str]:
    """Weights written and read into a fresh backbone give the same bits, after some training steps too."""
    model = _moved(make(F, D)).train()
    vectors, first_order = _inputs(B, F, D)
    for _ in range(3):
        model(vectors, first_order)
    weights = load(save({key: value.contiguous() for key, value in model.state_dict().items()}))
    torch.manual_seed(99)
    other = type(model)(F, D, model.settings)
    other.load_state_dict(weights)
    if not torch.equal(model.eval()(vectors, first_order), other.eval()(vectors, first_order)):
        yield "a fresh backbone with the saved weights scores otherwise: keep state in parameters or buffers"


def _field_order(make: Make) -> Iterator[str]:
    """Fields may come in any order, unless the class says that the order matters."""
    model = _moved(make(F, D)).eval()
    vectors, first_order = _inputs(B, F, D)
    scores, flipped = model(vectors, first_order), model(vectors.flip(1), first_order)
    if not model.field_order_matters and not _same(flipped, scores, scores):
        yield "scores change with the order of the fields: if meant, set field_order_matters = True in the class"


def _learning(make: Make) -> Iterator[str]:
    """Of each order that the class claims, planted data without any signal of a lower order is learned."""
    for order in sorted(make(F, D).interaction_orders):
        reached = _planted_auc(make, order)
        if reached < LEARNED_AUC:
            yield (
                f"order {order}: test AUC {reached:.3f} on planted data after {MAX_STEPS} steps, "
                f"{LEARNED_AUC} is wanted: if this order is beyond it, take it out of interaction_orders"
            )


def _planted_auc(make: Make, order: int) -> float:
    """Test AUC where the label is the product of hidden signs of the first ``order`` fields; one field is noise."""
    num_fields, num_values, dim = order + 1, 4, 8
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(num_values, (4096 + 1024, num_fields), generator=generator)
    labels = (torch.tensor([1.0, -1.0, -1.0, 1.0])[ids[:, :order]].prod(dim=1) > 0).float()  # two values of each sign
    model = make(num_fields, dim)
    table = nn.Parameter(0.3 * torch.randn(num_fields, num_values, dim + 1, generator=generator))
    bias = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([table, bias, *model.parameters()], lr=0.01)

    def score(part: Tensor) -> Tensor:
        rows = table[torch.arange(num_fields), part]  # (B, F, D + 1)
        logits: Tensor = model(rows[:, :, 1:], rows[:, :, 0].sum(dim=1)) + bias
        return logits

    reached = 0.0
    for step in range(1, MAX_STEPS + 1):
        batch = torch.randint(4096, (256,), generator=generator)
        loss = binary_cross_entropy_with_logits(score(ids[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 50 == 0:
            model.eval()
            with torch.no_grad():
                reached = auc(labels[4096:].numpy().astype(np.uint8), score(ids[4096:]).numpy())
            model.train()
            if reached >= LEARNED_AUC:
                break
    return reached


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
    model = CtrModel(layout, CodedEmbedding(books, codes), _moved(make(len(names), D))).eval()
    ids = torch.randint(9, (B, len(names)), generator=generator, dtype=torch.int32)
    rows = torch.stack([coded[n].decode(drawn[n])[ids[:, i].long()] for i, n in enumerate(names)], dim=1)
    on_tables = model.logits_from_rows(rows.flip(0), None).flip(0).detach()
    on_codes = model.logits(ids, None).detach()
    if not _same(on_codes, on_tables, on_tables):
        difference = float((on_codes - on_tables).abs().max())
        yield f"logits on codes and on the decoded tables differ by {difference:.3g}"


def _extremes(make: Make) -> Iterator[str]:
    """Embeddings of 0 and of size 1e4 give finite logits, and gradients that are numbers, in both modes."""
    signs = torch.randn(B, F, D, generator=torch.Generator().manual_seed(5)).sign()
    inputs = {"0": torch.zeros(B, F, D), "1e4": torch.full((B, F, D), 1e4), "1e4 of random sign": 1e4 * signs}
    for (what, vectors), training in product(inputs.items(), (True, False)):
        model = make(F, D).train(training)
        wanted = [vectors.clone().requires_grad_(), vectors[:, 0, 0].clone().requires_grad_(), *model.parameters()]
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
    vectors, first_order = _inputs(64, F, D)
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
    "gradients": (_gradients, frozenset({"shapes"})),
    "eval": (_eval, frozenset({"shapes"})),
    "saving": (_saving, frozenset({"shapes", "eval"})),
    "field order": (_field_order, frozenset({"shapes", "eval"})),
    "codes": (_codes, frozenset({"shapes", "eval"})),
    "extremes": (_extremes, frozenset({"shapes"})),
    "half precision": (_half, frozenset({"shapes", "eval"})),
    "learning": (_learning, frozenset({"shapes", "gradients", "eval"})),
}


def _inputs(num_rows: int, num_fields: int, dim: int) -> tuple[Tensor, Tensor]:
    """Embeddings (B, F, D), a view into wider rows as in a ``CtrModel``, and first-order sums (B,)."""
    rows = torch.randn(num_rows, num_fields, dim + 1, generator=torch.Generator().manual_seed(2))
    return rows[:, :, 1:].detach(), rows[:, :, 0].sum(dim=1)


def _same(found: Tensor, wanted: Tensor, batch: Tensor) -> bool:
    """Equal but for rounding errors, which are of the size of the largest logit of the batch."""
    return bool((found - wanted).abs().max() <= 1e-5 * (1 + batch.abs().max()))


@torch.no_grad()
def _moved(model: Backbone) -> Backbone:
    """Away from initial values, whose zeros and ones hide what depends on what."""
    generator = torch.Generator().manual_seed(6)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model

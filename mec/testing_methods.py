"""Conformance of compression methods: what training, comparison and serving rely on, checked in seconds.

    from mec.testing_methods import check_method
    assert check_method(MyMethod) == []

The same on the command line, for a registered name or an installed plug-in: ``mec check-method NAME``.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from mec.ctr_model import CtrModel
from mec.data.dataset import Batch
from mec.embeddings.export import PARTS, Export, read_export, write_export
from mec.embeddings.full import RowSparseTable
from mec.embeddings.method import Method, MethodInputs, MethodSettings
from mec.embeddings.methods import check_settings, method_type
from mec.evaluation.metrics import auc
from mec.models import build_backbone
from mec.optimizer import CtrOptimizer
from mec.testing import Finding
from mec.testing_method_budget import budget_problems
from mec.testing_method_data import LAYOUT, SLOTS, every_id, inputs, planted
from mec.testing_method_search import search_problems
from mec.testing_method_unseen import unseen_problems
from mec.training import train_batch

LEARNED_AUC = 0.65  # rows that learn nothing stay at 0.5; the full table reaches 0.95
MAX_STEPS = 300
ROUNDING = 0.01  # of the largest float: what storing floats as float16 may change
TIES = 0.05  # rows that rounding may move to another code
FACTS_BYTES = 1024  # per vocabulary: salts and shapes, never anything per value
HELD_BYTES = 4096  # a served module's own, beside its arrays: which slot is whose


class Maker:
    """One method with one choice of settings, built again and again."""

    def __init__(self, cls: type[Method[Any]], settings: MethodSettings) -> None:
        self.cls = cls
        self.settings = settings

    def __call__(self, inputs: MethodInputs, settings: MethodSettings | None = None) -> Method[Any]:
        torch.manual_seed(1)
        return self.cls(inputs, settings if settings is not None else self.settings)


def check_method(method: str | type[Method[Any]], settings: dict[str, Any] | None = None) -> list[Finding]:
    """Check one compression method with one choice of settings.

    Seeds are fixed and the caller's random state stays as it is. A check that makes no sense after the failure of
    another one is left out, so that each finding is a cause.

    Args:
        method: A registered name, or a class that need not be registered.
        settings: Its settings; the defaults of those left out.

    Returns:
        What is wrong; empty for a method that conforms.

    Raises:
        ConfigError: No such method, or settings that it does not have.
    """
    cls, name = (method_type(method), method) if isinstance(method, str) else (method, method.__name__)
    make = Maker(cls, check_settings(cls, settings or {}, name))
    findings: list[Finding] = []
    with torch.random.fork_rng(devices=[]):
        for check, (run, needs) in CHECKS.items():
            if not any(finding.check in needs for finding in findings):
                findings += [Finding(check, problem) for problem in _problems(run, make)]
    return findings


def _problems(run: Callable[[Maker], Iterator[str]], make: Maker) -> list[str]:
    try:
        return list(run(make))
    except Exception as error:  # whatever a stranger's code raises is a finding
        return [f"raised {type(error).__name__}: {error}"]


def _shapes(make: Maker) -> Iterator[str]:
    """(B, S) int32 -> (B, S, D + 1) float32 in both modes, first and last ids among them, ids left as they were."""
    for num_rows in (1, 7, 700):
        for training in (True, False):
            where = f"for {num_rows} rows in {'training' if training else 'eval'} mode"
            method = make(inputs()).train(training)
            CtrOptimizer(_with_bias(method), 0.01)
            ids = every_id()[-num_rows:].clone()
            kept = ids.clone()
            rows = method(ids)
            wanted = (num_rows, LAYOUT.num_slots, method.embedding_dim + 1)
            if tuple(rows.shape) != wanted or rows.dtype != torch.float32:
                yield f"rows must be {wanted} float32, not {tuple(rows.shape)} {rows.dtype}, {where}"
                return
            if not bool(torch.isfinite(rows).all()):
                yield f"rows are not finite {where}"
            if not torch.equal(ids, kept):
                yield f"forward changed the ids it was given {where}"


def _gradients(make: Maker) -> Iterator[str]:
    """A step on every id moves every parameter and every table, and a table is called once per forward."""
    method = make(inputs()).train()
    optimizer = CtrOptimizer(_with_bias(method), 0.01)
    calls: dict[str, int] = {}
    for name, module in method.named_modules():
        if isinstance(module, RowSparseTable):
            module.register_forward_hook(lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1}))
    before = _trained(method)
    rows = method(every_id())
    twice = [name for name, times in calls.items() if times > 1]
    if twice:
        yield f"{', '.join(twice)} is called more than once per forward, and keeps only the last call's gradient"
    loss = (rows * torch.randn(rows.shape, generator=_generator(7))).sum()
    extra = method.regulariser(rows)
    loss = loss if extra is None else loss + extra
    if loss.requires_grad:
        loss.backward()
        optimizer.step()
        method.after_step(1)
    after = _trained(method)
    idle = [name for name, value in before.items() if value.numel() and torch.equal(value, after[name])]
    if idle:
        yield f"no gradient reaches {', '.join(idle)}"


def _eval(make: Maker) -> Iterator[str]:
    """Eval mode repeats itself bit for bit, changes no state, and a row depends on its id alone."""
    method = _stepped(make(inputs())).eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    ids = every_id()
    rows = method(ids)
    if not torch.equal(rows, method(ids)):
        yield "eval mode gave the same ids two different rows: noise must stop with training"
    changed = [key for key, value in method.state_dict().items() if not torch.equal(value, before[key])]
    if changed:
        yield f"eval mode changed {', '.join(changed)}"
    if not torch.allclose(method(ids[:1]), rows[:1], rtol=1e-5, atol=1e-6):
        yield "a row depends on the ids beside its own"


def _vocabularies(make: Maker) -> Iterator[str]:
    """One id of a vocabulary has one row, in whichever slot: the online store's key is vocabulary and value."""
    method = _stepped(make(inputs())).eval()
    ids = every_id()
    ids[:, 3], ids[:, 4] = ids[:, 1], ids[:, 1]
    rows = method(ids)
    for slot in (3, 4):
        if not torch.equal(rows[:, 1], rows[:, slot]):
            yield f"slots 1 and {slot} share a vocabulary, and gave one id two rows"


def _saving(make: Maker) -> Iterator[str]:
    """Weights written and read into a fresh method give the same bits."""
    method = _stepped(make(inputs()))
    weights = load(save({key: value.contiguous() for key, value in method.state_dict().items()}))
    other = make(inputs())
    other.load_state_dict(weights)
    if not torch.equal(method.eval()(every_id()), other.eval()(every_id())):
        yield "a fresh method with the saved weights gives other rows: keep state in parameters, buffers or tables"


def _serving(make: Maker) -> Iterator[str]:
    """From the export alone, bit for bit the rows of the finished method; for ids in order of count, and in none."""
    for order in ("falling", "no"):
        where = f"with ids in {order} order of count"
        own = inputs(in_order=order == "falling")
        method = _stepped(make(own))
        method.finish()
        method.eval()
        served, export = exported(method)
        for ids in (every_id(), every_id()[:1]):
            if not torch.equal(served(ids), method(ids)):
                largest = float((served(ids) - method(ids)).abs().max())
                yield f"served rows differ from the finished method's by up to {largest:.3g} {where}"
                break
        planned, found = make.cls.planned_bytes(own, make.settings), export.num_bytes()
        if not (method.serving_bytes() == planned == found and tuple(found) == PARTS):
            yield f"arrays take {found}, serving_bytes says {method.serving_bytes()} and planned_bytes {planned}"
        held = sum(t.numel() * t.element_size() for t in [*served.buffers(), *served.parameters()])
        if held > sum(found.values()) + HELD_BYTES:
            yield f"the served module holds {held:,} bytes, its arrays {sum(found.values()):,}: decode at look-up"
        size = max((len(json.dumps(fact)) for fact in export.facts.values()), default=0)
        if size > FACTS_BYTES:
            yield f"facts of a vocabulary take {size:,} bytes: what grows with V must be an array, and counted"


def _finish(make: Maker) -> Iterator[str]:
    """But for rounding, finishing changes no eval row of a value in training; see ``unseen_problems`` of the others."""
    own, ids = inputs(), every_id()
    method = _stepped(make(own)).eval()
    before = method(ids).detach().clone()
    method.finish()
    after = method.eval()(ids)
    seen = torch.stack([torch.from_numpy(own.counts[n] > 0)[ids[:, i].long()] for i, n in enumerate(SLOTS)], dim=1)
    changed = (after.detach() - before).abs().amax(dim=2) > ROUNDING * float(before.abs().max())
    share = float(changed[seen].float().mean())
    if share > TIES:
        yield f"finish changed {100 * share:.0f} % of the rows beyond rounding: eval mode must give what is served"
    yield from unseen_problems(make, _stepped)


def _budget(make: Maker) -> Iterator[str]:
    """A budget is kept and used; see ``mec.testing_method_budget``."""
    yield from budget_problems(make)


def _learning(make: Maker) -> Iterator[str]:
    """With an FM, a hidden weight of every value is learned, well above chance on other rows."""
    method = make(inputs())
    ids, label = planted(6000)
    model = CtrModel(LAYOUT, method, build_backbone("fm", LAYOUT.num_fields, method.embedding_dim, {}))
    optimizer, device, reached = CtrOptimizer(model, 0.02), torch.device("cpu"), 0.0
    weights = np.tile(np.array([1, 1, 1, 0.5, 0.5], np.float32), (len(ids), 1))
    rng = np.random.default_rng(5)
    for step in range(1, MAX_STEPS + 1):
        rows = rng.integers(0, 5000, 256)
        model.train()
        train_batch(model, optimizer, Batch(ids[rows], weights[rows], label[rows]), 0.0, device, step)
        if step % 50 == 0:
            model.eval()
            with torch.no_grad():
                logits = model.logits(torch.from_numpy(ids[5000:]), torch.from_numpy(weights[5000:]))
            reached = auc(label[5000:].astype(np.uint8), logits.numpy())
            if reached >= LEARNED_AUC:
                return
    yield f"AUC {reached:.3f} on planted first-order weights after {MAX_STEPS} steps, {LEARNED_AUC} is wanted"


def _search(make: Maker) -> Iterator[str]:
    """A search reads no test rows, repeats itself, and gives a fresh method that is sound itself."""
    yield from search_problems(make, (_gradients, _serving))


# check -> (function, checks that it makes no sense without)
CHECKS: dict[str, tuple[Callable[[Maker], Iterator[str]], frozenset[str]]] = {
    "shapes": (_shapes, frozenset()),
    "gradients": (_gradients, frozenset({"shapes"})),
    "eval": (_eval, frozenset({"shapes"})),
    "vocabularies": (_vocabularies, frozenset({"shapes", "eval"})),
    "saving": (_saving, frozenset({"shapes", "eval"})),
    "serving": (_serving, frozenset({"shapes", "eval"})),
    "finish": (_finish, frozenset({"shapes", "eval"})),
    "budget": (_budget, frozenset({"serving"})),
    "learning": (_learning, frozenset({"shapes", "gradients", "eval"})),
    "search": (_search, frozenset({"shapes", "gradients", "eval", "serving"})),
}


def exported(method: Method[Any]) -> tuple[nn.Module, Export]:
    """Written, read back and served; the method may be a class that is not registered."""
    with tempfile.TemporaryDirectory() as directory:
        write_export(Path(directory) / "export", method.export())
        export = read_export(Path(directory) / "export")
    return type(method).serve(export), export


def _stepped(method: Method[Any]) -> Method[Any]:
    """After some training steps, away from initial values."""
    optimizer = CtrOptimizer(_with_bias(method), 0.05)
    method.train()
    for step in range(1, 4):
        rows = method(every_id())
        loss, extra = (rows * torch.randn(rows.shape, generator=_generator(step))).mean(), method.regulariser(rows)
        loss = loss if extra is None else loss + extra
        optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
        optimizer.step()
        method.after_step(step)
    return method


def _with_bias(method: Method[Any]) -> nn.Module:
    """Beside a parameter of the model's, as there always is: an optimizer refuses a method that has none itself."""
    holder = nn.Module()
    holder.method, holder.bias = method, nn.Parameter(torch.zeros(()))
    return holder


def _trained(method: Method[Any]) -> dict[str, Tensor]:
    """Copies of everything that training is to move."""
    found = {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}
    tables = {name: module for name, module in method.named_modules() if isinstance(module, RowSparseTable)}
    return found | {name: table.weight.clone() for name, table in tables.items()}


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)

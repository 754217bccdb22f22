"""The conformance checks of backbones that train: every parameter has a gradient, every claimed order is learned."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from mec.evaluation.metrics import auc
from mec.models import Backbone
from mec.testing_backbone_data import NUM_VALUES, D, F, Make, inputs, moved, planted

NUM_DRAWS = 40  # of weights and rows; a ReLU network of 12 layers needs 12 until every unit was alive once
LEARNED_AUC = 0.9  # a model that cannot learn the order stays at 0.5, one that can reaches 1
MAX_STEPS = 600
NUM_STARTS = 3  # of embeddings and rows, for models that are near it: some take one in a few, on some processors
BY_CHANCE_AUC = 0.6
NUM_TRAIN, NUM_TEST = 4096, 1024


def gradients(make: Make) -> Iterator[str]:
    """A training step moves every parameter, and the embeddings or first-order weights.

    In float64, where a small gradient and a rounding error can be told apart.
    """
    model = make(F, D)
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    if frozen:
        yield f"requires_grad is off for {', '.join(frozen)}: what training never changes belongs in a buffer"
    found = _gradients(moved(model).train(), 0)
    if found is None:
        yield "the logits have no gradient at all: something is detached, or computed under no_grad"
        return
    to_inputs, to_parameters = found
    largest = {name: float(gradient.abs().max()) for name, gradient in to_parameters.items()}
    smallest = 1e-13 * max(to_inputs, *largest.values(), 0.0)
    idle = [name for name, size in largest.items() if size <= smallest]
    if idle:
        yield f"no gradient reaches {', '.join(idle)}"
    if to_inputs == 0:
        yield "no gradient reaches the embeddings or the first-order weights"
    unused = {name: gradient == 0 for name, gradient in to_parameters.items() if name not in idle}
    yield from _unused_elements(model, unused)


def _unused_elements(model: Backbone, unused: dict[str, Tensor]) -> Iterator[str]:
    """Elements (masks by name, of the first draw) whose gradient is exactly 0 whatever weights and inputs are.

    A ReLU unit may be dead with one draw of weights, and dropout may hide one, so all draws have to agree, in eval
    mode too.
    """
    for draw in range(1, NUM_DRAWS):
        if not any(mask.any() for mask in unused.values()):
            return
        torch.manual_seed(draw + 1)
        found = _gradients(moved(type(model)(F, D, model.settings), draw).train(draw % 2 == 0), draw)
        for name, gradient in ({} if found is None else found[1]).items():
            if name in unused:
                unused[name] &= gradient == 0
    for name, mask in unused.items():
        if mask.any():
            yield f"no gradient reaches {int(mask.sum())} of the {mask.numel()} elements of {name}: leave them out"


def _gradients(model: Backbone, draw: int) -> tuple[float, dict[str, Tensor]] | None:
    """The largest gradient of the inputs, and those of all parameters; None if the logits have no gradient."""
    model = model.double()
    # of several sizes, so that no unit stays shut for a bias
    vectors, first_order = (2 ** (draw % 8) * part.double() for part in inputs(64, F, D, draw + 2))
    named = {name: p for name, p in model.named_parameters() if p.numel() and p.requires_grad}
    wanted = [vectors.requires_grad_(), first_order.requires_grad_(), *named.values()]
    logits = model(vectors, first_order)
    if not logits.requires_grad:
        return None
    upstream = torch.randn(64, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    found = torch.autograd.grad(logits, wanted, upstream, allow_unused=True, materialize_grads=True)
    return max(float(g.abs().max()) for g in found[:2]), dict(zip(named, found[2:], strict=True))


def learning(make: Make) -> Iterator[str]:
    """Of each order that the class claims, planted data without any signal of a lower order is learned."""
    orders = make(F, D).interaction_orders
    if not orders or not all(isinstance(order, int) and order >= 1 for order in orders):
        yield (
            f"interaction_orders is {set(orders) or 'empty'}: name the orders that the backbone can learn, as whole "
            "numbers, 1 for single fields"
        )
        return
    for order in sorted(orders):
        reached, start = _planted_auc(make, order, 0), 1
        while BY_CHANCE_AUC < reached < LEARNED_AUC and start < NUM_STARTS:
            reached, start = max(reached, _planted_auc(make, order, start)), start + 1
        if reached < LEARNED_AUC:
            yield (
                f"order {order}: test AUC {reached:.3f} on planted data after {MAX_STEPS} steps, "
                f"{LEARNED_AUC} is wanted: if this order is beyond it, take it out of interaction_orders"
            )


def _planted_auc(make: Make, order: int, start: int) -> float:
    """Test AUC after as many steps as it takes, up to ``MAX_STEPS``."""
    generator = torch.Generator().manual_seed(3 + start)
    ids, labels = planted(NUM_TRAIN + NUM_TEST, order, generator)
    num_fields, dim = ids.shape[1], 8
    model = make(num_fields, dim)
    table = nn.Parameter(0.3 * torch.randn(num_fields, NUM_VALUES, dim + 1, generator=generator))
    bias = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([table, bias, *model.parameters()], lr=0.01)

    def score(part: Tensor) -> Tensor:
        rows = table[torch.arange(num_fields), part]  # (B, F, D + 1)
        logits: Tensor = model(rows[:, :, 1:], rows[:, :, 0].sum(dim=1)) + bias
        return logits

    reached = 0.0
    for step in range(1, MAX_STEPS + 1):
        batch = torch.randint(NUM_TRAIN, (256,), generator=generator)
        loss = binary_cross_entropy_with_logits(score(ids[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % 50 == 0:
            model.eval()
            with torch.no_grad():
                reached = auc(labels[NUM_TRAIN:].numpy().astype(np.uint8), score(ids[NUM_TRAIN:]).numpy())
            model.train()
            if reached >= LEARNED_AUC:
                break
    return reached

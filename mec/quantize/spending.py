"""Bytes where they gain most: steps of several vocabularies, by gain per byte, until a budget is spent.

Each step goes to the vocabulary whose next plan on the lower convex hull of (bytes, distortion) gains most per byte,
which is the best use of the bytes at each step's end (Everett, 1963; Shoham and Gersho, 1988). A step that no longer
fits is left out and the vocabulary goes on with its smaller plans. Heads and codes grow by single values at the end.
"""

from __future__ import annotations

from collections.abc import Sequence

from mec.quantize.plan_front import Choice, PlanFront


def least_choices(fronts: Sequence[PlanFront]) -> list[Choice]:
    """The plan of each vocabulary that takes the fewest bytes."""
    return [front.choice(0) for front in fronts]


def spend(fronts: Sequence[PlanFront], budget_bytes: int) -> list[Choice]:
    """Choose a plan for each vocabulary.

    Args:
        fronts: Plans, by vocabulary.
        budget_bytes: At least what ``least_choices`` take.

    Returns:
        One choice per vocabulary, together of no more bytes than the budget.
    """
    choices = least_choices(fronts)
    left = budget_bytes - sum(choice.num_bytes for choice in choices)
    assert left >= 0
    below = [budget_bytes + 1] * len(fronts)
    moves = [_next(front, choice, below[v]) for v, (front, choice) in enumerate(zip(fronts, choices, strict=True))]
    while True:
        place = max(range(len(fronts)), key=lambda v: gain_per_byte(choices[v], moves[v]))
        front, choice, move = fronts[place], choices[place], moves[place]
        if move is None:
            return choices
        if move.num_bytes - choice.num_bytes <= left:
            reached = move
            moves[place] = _next(front, reached, below[place])
        elif any(move == neighbour for neighbour in front.neighbours(choice)):
            reached = front.part_way(choice, move, choice.num_bytes + left)
            moves[place] = None
        else:
            reached = choice
            below[place] = move.num_bytes
            moves[place] = _next(front, choice, below[place])
        left -= reached.num_bytes - choice.num_bytes
        choices[place] = reached


def gain_per_byte(choice: Choice, move: Choice | None) -> float:
    """Distortion that a larger plan takes away, per byte that it adds; -1 without one."""
    if move is None:
        return -1.0
    added = move.num_bytes - choice.num_bytes
    return (choice.distortion - move.distortion) / added if added > 0 else float("inf")


def _next(front: PlanFront, choice: Choice, below: int) -> Choice | None:
    """The next step: to a plan of the front, or one edge further with the same codebook."""
    steps = [move for move in front.neighbours(choice) if move.distortion < choice.distortion]
    steepest = front.steepest(choice, below)
    if steepest is not None:
        steps.append(steepest)
    return max(steps, key=lambda move: gain_per_byte(choice, move), default=None)

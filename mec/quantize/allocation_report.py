"""Why bytes went where they did: what each vocabulary was given, and its plans just below and above."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mec.quantize.plan import VocabularyPlan
from mec.quantize.plan_front import Choice
from mec.quantize.spending import gain_per_byte


@dataclass(frozen=True)
class VocabularyShare:
    """What one vocabulary was given.

    Attributes:
        size: V.
        parts: Bytes of codes, codebooks and rows.
        choice: The plan.
        smaller: The smaller plan that loses least per byte saved; None where the plan is the smallest.
        larger: The larger plan that gains most per byte added; None where no larger one distorts less.
    """

    size: int
    parts: Mapping[str, int]
    choice: Choice
    smaller: Choice | None
    larger: Choice | None

    @property
    def stopped_at(self) -> float:
        """Distortion that the next byte would take away; 0 where none would."""
        return max(gain_per_byte(self.choice, self.larger), 0.0)

    @property
    def held_at(self) -> float | None:
        """Distortion that the last byte took away; None for the smallest plan."""
        return gain_per_byte(self.smaller, self.choice) if self.smaller is not None else None


def allocation_json(budget_bytes: int, shares: Mapping[str, VocabularyShare]) -> dict[str, object]:
    """JSON value for people: bytes by part, and per vocabulary plan, bytes, distortion, alternatives and reason."""
    used = sum(share.choice.num_bytes for share in shares.values())
    distortion = sum(share.choice.distortion for share in shares.values())
    return {
        "budget_bytes": budget_bytes,
        "used_bytes": used,
        "parts": {part: sum(share.parts[part] for share in shares.values()) for part in ("codes", "codebooks", "rows")},
        "distortion": distortion,
        "vocabularies": {
            name: {
                "size": share.size,
                "plan": _plan_json(share.choice.plan),
                "bytes": dict(share.parts),
                "distortion": share.choice.distortion,
                "distortion_share": share.choice.distortion / distortion if distortion > 0 else 0.0,
                "gain_per_byte": {"last": share.held_at, "next": share.stopped_at},
                "below": _choice_json(share.smaller),
                "above": _choice_json(share.larger),
                "reason": _reason(share, budget_bytes, distortion),
            }
            for name, share in shares.items()
        },
    }


def plan_text(plan: VocabularyPlan | None, size: int) -> str:
    """A plan in words, for one of V = ``size`` values."""
    if plan is None:
        return "all rows exact"
    parts = [f"{plan.structure} {plan.num_codes}x{plan.num_codewords}"]
    if plan.head:
        parts.append(f"the first {plan.head:,} rows exact")
    if plan.has_tail(size):
        parts.append(f"one code for the last {size - plan.head - plan.coded(size):,} values")
    return ", ".join(parts)


def _reason(share: VocabularyShare, budget_bytes: int, distortion: float) -> str:
    choice, larger = share.choice, share.larger
    of_bytes = 100 * choice.num_bytes / budget_bytes
    of_distortion = 100 * choice.distortion / distortion if distortion > 0 else 0.0
    text = (
        f"{plan_text(choice.plan, share.size)}: {choice.num_bytes:,} bytes, {of_bytes:.1f} % of the budget, with "
        f"{of_distortion:.1f} % of the distortion"
    )
    if larger is None:
        return f"{text}; no larger plan distorts less"
    added, gained = larger.num_bytes - choice.num_bytes, choice.distortion - larger.distortion
    part = 100 * gained / distortion if distortion > 0 else 0.0
    return (
        f"{text}; next would be {plan_text(larger.plan, share.size)}: {added:,} bytes more for {part:.2g} % of the "
        "distortion, less per byte than the other vocabularies gained, or more bytes than were left"
    )


def _choice_json(choice: Choice | None) -> dict[str, object] | None:
    if choice is None:
        return None
    return {"plan": _plan_json(choice.plan), "bytes": choice.num_bytes, "distortion": choice.distortion}


def _plan_json(plan: VocabularyPlan | None) -> dict[str, object] | None:
    if plan is None:
        return None
    return {
        "structure": plan.structure,
        "num_codes": plan.num_codes,
        "num_codewords": plan.num_codewords,
        "head": plan.head,
        "tail_start": plan.tail_start,
    }

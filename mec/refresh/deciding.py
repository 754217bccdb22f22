"""The decision step: promote the new generation, keep the old one, or escalate to the train pipeline."""

from __future__ import annotations

from pathlib import Path

from mec.bundle import Bundle, open_bundle, read_json, write_bundle, write_json
from mec.config import BoundsConfig, RefreshConfig
from mec.errors import BundleError
from mec.evaluation.metrics import Interval
from mec.refresh.decision import Bounds, Measured, decide
from mec.steps import step

DECISION = "decision.json"


def decision_step(*, refresh: RefreshConfig, evaluation: Path | None, out: Path) -> None:
    """Decide on a refresh and write the "decision" bundle.

    Args:
        refresh: Its bounds.
        evaluation: "evaluation" bundle of ``refresh_evaluate_step``; None where there is no champion to refresh.
        out: Directory of the bundle: ``decision.json`` with ``action`` (promote, keep or escalate), ``reasons`` and
            ``numbers``, see ``mec.refresh.decision``.

    Raises:
        BundleError: The evaluation is not one of a refresh.
    """
    with step("decision", out) as record:
        bundle = None if evaluation is None else open_bundle(evaluation, "evaluation")
        measured = None if bundle is None else read_measured(bundle)
        decision = decide(measured, bounds_of(refresh.bounds))
        parents = {} if bundle is None else {"evaluation": bundle}
        config = {"bounds": refresh.bounds.model_dump(mode="json")}
        with write_bundle(out, "decision", parents=parents, config=config) as draft:
            write_json(draft.path / DECISION, decision.to_json())
        record.summary = f"{decision.action}: {decision.reasons[0]}"


def branch_after(decision: Path, refresh: RefreshConfig) -> str:
    """The branch of the pipeline that a decision leads to: its action, or ``train`` where an escalation trains.

    Args:
        decision: "decision" bundle.
        refresh: What happens on escalation.
    """
    action = str(read_json(decision / DECISION)["action"])
    return "train" if action == "escalate" and refresh.on_escalation == "train" else action


def bounds_of(settings: BoundsConfig) -> Bounds:
    """The bounds that settings name."""
    return Bounds(**settings.model_dump())


def read_measured(evaluation: Bundle) -> Measured:
    """What a decision needs of the evaluation of a refresh.

    Raises:
        BundleError: It is not one of a refresh.
    """
    facts = evaluation.json("evaluation.json")
    names = ("auc_stale", "auc_refreshed", "auc_difference", "logloss_difference", "auc_at_training")
    missing = [name for name in names if name not in facts]
    if missing:
        raise BundleError(
            f"the evaluation {evaluation.path} is not that of a refresh",
            found=f"no {', '.join(missing)}",
            fix="pass the bundle of the refresh_evaluate step",
        )
    return Measured(
        num_positives=facts["num_positives"],
        num_negatives=facts["num_negatives"],
        **{name: Interval(**facts[name]) for name in names},
    )

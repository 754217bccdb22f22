"""The gate: whether a challenger becomes champion. One pure function, no input or output."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mec.config import GateConfig


@dataclass(frozen=True)
class Metrics:
    """Test metrics of one model, and which rows they were measured on.

    auc: area under the ROC curve.
    logloss: in nats, calibrated, as served.
    num_rows: rows scored.
    data_version: identity of the raw rows.
    split: hash of the test split's labels, in order; two splits of the same rows differ in it.
    """

    auc: float
    logloss: float
    num_rows: int
    data_version: str
    split: str

    def same_rows(self, other: Metrics) -> bool:
        """Whether both were measured on the same rows."""
        mine, theirs = (self.data_version, self.split, self.num_rows), (other.data_version, other.split, other.num_rows)
        return mine == theirs


@dataclass(frozen=True)
class Decision:
    """Whether the challenger becomes champion, and every reason that counted."""

    promote: bool
    reasons: tuple[str, ...]


def decide(challenger: Metrics, champion: Metrics | None, gate: GateConfig) -> Decision:
    """Decide between a challenger and the champion.

    The challenger must exceed ``gate.min_auc``. Against a champion it must have been measured on the
    same rows and have an AUC of at least the champion's less ``gate.max_auc_drop``; an equal AUC keeps
    the champion, for nothing is gained by the switch. Metrics that are not finite fail.

    Args:
        challenger: Metrics of the new model.
        champion: Metrics of the model in service, on the challenger's rows; None for the first model.
        gate: The bounds.
    """
    against: list[str] = []
    if not (math.isfinite(challenger.auc) and math.isfinite(challenger.logloss)):
        against.append(f"the challenger's metrics are not finite: AUC {challenger.auc}, logloss {challenger.logloss}")
    elif not challenger.auc > gate.min_auc:
        against.append(f"AUC {challenger.auc:.6f} is not above the bound {gate.min_auc:.6f}")
    if champion is not None:
        against += _against_champion(challenger, champion, gate)
    if against:
        return Decision(False, tuple(against))
    above = f"AUC {challenger.auc:.6f} is above the bound {gate.min_auc:.6f}"
    if champion is None:
        return Decision(True, (above, "there is no champion to compare with"))
    return Decision(True, (above, f"the champion has {champion.auc:.6f} on the same rows{_allowed(gate)}"))


def _against_champion(challenger: Metrics, champion: Metrics, gate: GateConfig) -> list[str]:
    """Why the champion stays; empty if it does not."""
    differences = [
        f"{name} {theirs!r} against {ours!r}"
        for name, ours, theirs in (
            ("data version", challenger.data_version, champion.data_version),
            ("test split", challenger.split, champion.split),
            ("test rows", challenger.num_rows, champion.num_rows),
        )
        if ours != theirs
    ]
    if differences:
        return [f"not comparable, the champion was measured on other rows: {', '.join(differences)}"]
    if not math.isfinite(champion.auc):
        return [f"not comparable, the champion's AUC is {champion.auc}"]
    if challenger.auc == champion.auc:
        return [f"a tie with the champion at AUC {champion.auc:.6f} keeps the champion"]
    if challenger.auc < champion.auc - gate.max_auc_drop:
        return [f"AUC {challenger.auc:.6f} is below the champion's {champion.auc:.6f} on the same rows{_allowed(gate)}"]
    return []


def _allowed(gate: GateConfig) -> str:
    return f", a drop of {gate.max_auc_drop:.6f} allowed" if gate.max_auc_drop else ""

"""One setting of every backbone for the tables of ``backbones.py``.

Starting points are the tuned settings of the BARS leaderboards (Frappe_x1 and MovielensLatest_x1), made smaller: hidden
layers 128-64 in place of 400-400-400, attention likewise; AFN's 32 logarithmic neurons, for with 128 it trains 13,000
rows/s. Change one by validation AUC only.
The one that was: SAM's step size on codes, .7019 against .6908 with 1e-3 (synthetic table, one seed, validation).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Choice:
    """How one backbone is built and trained; what is left out is the config's.

    Attributes:
        settings: The backbone's own.
        train: Over ``train`` of the config, for the model on codes.
    """

    settings: dict[str, Any]
    train: dict[str, Any] = field(default_factory=dict)


_HIDDEN = {"hidden_units": [128, 64]}
_WIDE = {"wide": True}
_DEEP = {**_WIDE, **_HIDDEN}
# a backbone without weights of its own would learn nothing but a bias on frozen codewords
_TRAINED_CODEWORDS = {"codewords": "warm"}

CHOICES: dict[str, Choice] = {
    "lr": Choice({}, _TRAINED_CODEWORDS),
    "fm": Choice({}, _TRAINED_CODEWORDS),
    "afm": Choice({"attention_size": 16, "attention_dropout": 0.1, "dropout": 0.1}),
    "deepfm": Choice({**_HIDDEN, "dropout": 0.3}),
    "pnn": Choice({**_DEEP, "dropout": 0.3, "product": "inner"}),
    "dcn": Choice({**_DEEP, "dropout": 0.2, "batch_norm": True, "num_cross_layers": 3}),
    "dcnv2": Choice({**_DEEP, "dropout": 0.3, "batch_norm": True, "num_cross_layers": 3, "structure": "parallel"}),
    "autoint": Choice({**_WIDE, "num_layers": 2, "num_heads": 2, "attention_dim": 32}),
    "autoint_plus": Choice(
        {**_DEEP, "num_layers": 2, "num_heads": 2, "attention_dim": 32, "dropout": 0.2, "batch_norm": True}
    ),
    "afn": Choice({**_DEEP, "logarithmic_neurons": 32}),
    "afn_plus": Choice({**_DEEP, "logarithmic_neurons": 32, "dnn_hidden_units": [128, 64], "dnn_dropout": 0.2}),
    "sam": Choice(
        {**_WIDE, "interaction_type": "SAM3A", "num_layers": 2, "aggregation": "concat", "dropout": 0.1},
        {"learning_rate": 4e-3},
    ),
    "gdcn_p": Choice({**_DEEP, "dropout": 0.3, "num_cross_layers": 3}),
    "gdcn_s": Choice({**_DEEP, "dropout": 0.3, "num_cross_layers": 3}),
}

"""The same backbones in public packages, fed with given embeddings in place of their own look-ups.

deepctr-torch 0.3.0 has lr, fm, afm, deepfm, pnn, dcn, dcnv2, autoint, autoint_plus and afn; torch-rechub 0.9.0 has dcn,
dcnv2, autoint and autoint_plus (its DeepFM always normalizes batches, its AFM has no pairs). No package that we found
has AFN+, SAM or GDCN. Each gets its embeddings as its own look-up would give them: deepctr-torch F tensors (B, 1, D),
torch-rechub one tensor (B, F, D). Their L2 terms are left out, which costs them nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

PINNED = {"deepctr-torch": "0.3.0", "torch-rechub": "0.9.0"}


class Rival:
    """One public model on given embeddings.

    Args:
        model: (B, ·) -> (B,) or (B, 1) probabilities; its argument is ignored.
        leaves: What the loss is differentiated by beside the parameters, embeddings and first-order weights.
        dummy: The model's argument.
    """

    def __init__(self, model: nn.Module, leaves: list[Tensor], dummy: Any) -> None:
        self.model = model.train()
        self.leaves = leaves
        self.dummy = dummy

    def loss(self, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy of the model's probabilities, as its own training computes it."""
        return nn.functional.binary_cross_entropy(self.model(self.dummy).view(-1), labels)


def check_versions() -> None:
    """Refuse other versions than the pinned ones.

    Raises:
        SystemExit: A package has another version; it is named.
    """
    for name, pinned in PINNED.items():
        if version(name) != pinned:
            raise SystemExit(f"the comparison is with {name}=={pinned}; found: {version(name)}; fix: install {pinned}")


def build_rivals(name: str, embeddings: Tensor, first_order: Tensor, settings: dict[str, Any]) -> dict[str, Rival]:
    """Package -> its model of this name, in training mode; empty where no package has it.

    Args:
        name: Backbone.
        embeddings: (B, F, D) float32.
        first_order: (B,) float32.
        settings: The backbone's settings, all of them.
    """
    rivals = {}
    if name in _DEEPCTR:
        rivals["deepctr-torch"] = _deepctr(name, embeddings, first_order, settings)
    if name in _RECHUB:
        rivals["torch-rechub"] = _rechub(name, embeddings, settings)
    return rivals


def _deepctr(name: str, embeddings: Tensor, first_order: Tensor, settings: dict[str, Any]) -> Rival:
    models, inputs = import_module("deepctr_torch.models"), import_module("deepctr_torch.inputs")
    num_fields, embedding_dim = embeddings.shape[1:]
    columns = [inputs.SparseFeat(f"f{i}", vocabulary_size=2, embedding_dim=embedding_dim) for i in range(num_fields)]
    model: Any = _DEEPCTR[name](models, columns, settings)
    vectors = [e.clone().requires_grad_() for e in torch.split(embeddings, 1, dim=1)]  # F of (B, 1, D)
    weights = first_order.clone().unsqueeze(1).requires_grad_()  # (B, 1)
    model.input_from_feature_columns = lambda *_, **__: (vectors, [])
    model.linear_model = _Given(weights)
    return Rival(model, [*vectors, weights], None)


class _Given(nn.Module):
    """Gives a tensor away, as a copy: deepctr-torch adds to it in place."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, _: object) -> Tensor:
        return self.value.clone()


def _deep(settings: dict[str, Any]) -> dict[str, Any]:
    return {"dnn_hidden_units": tuple(settings["hidden_units"]), "dnn_dropout": settings["dropout"]}


def _deepctr_dcn(models: Any, columns: list[Any], settings: dict[str, Any], form: str) -> nn.Module:
    crossed: nn.Module = models.DCN(
        columns,
        columns,
        cross_num=settings["num_cross_layers"],
        cross_parameterization=form,
        dnn_use_bn=settings["batch_norm"],
        **_deep(settings),
    )
    return crossed


def _deepctr_autoint(models: Any, columns: list[Any], settings: dict[str, Any]) -> nn.Module:
    deep = _deep(settings) | {"dnn_use_bn": settings["batch_norm"]} if "hidden_units" in settings else None
    attention: nn.Module = models.AutoInt(
        columns,
        columns,
        att_layer_num=settings["num_layers"],
        att_head_num=settings["num_heads"],
        **(deep or {"dnn_hidden_units": ()}),
    )
    return attention


_DEEPCTR: dict[str, Callable[[Any, list[Any], dict[str, Any]], nn.Module]] = {
    "lr": lambda m, c, s: m.WDL(c, c, dnn_hidden_units=()),
    "fm": lambda m, c, s: m.DeepFM(c, c, dnn_hidden_units=()),
    "afm": lambda m, c, s: m.AFM(c, c, attention_factor=s["attention_size"], afm_dropout=s["dropout"]),
    "deepfm": lambda m, c, s: m.DeepFM(c, c, **_deep(s)),
    "pnn": lambda m, c, s: m.PNN(c, **_deep(s)),
    "dcn": lambda m, c, s: _deepctr_dcn(m, c, s, "vector"),
    "dcnv2": lambda m, c, s: _deepctr_dcn(m, c, s, "matrix"),
    "autoint": _deepctr_autoint,
    "autoint_plus": _deepctr_autoint,
    "afn": lambda m, c, s: m.AFN(
        c,
        c,
        ltl_hidden_size=s["logarithmic_neurons"],
        afn_dnn_hidden_units=tuple(s["hidden_units"]),
        dnn_dropout=s["dropout"],
    ),
}


class _GivenEmbedding(nn.Module):
    """Stands in for torch-rechub's ``EmbeddingLayer``."""

    def __init__(self, vectors: Tensor) -> None:
        super().__init__()
        self.vectors = vectors  # (B, F, D)

    def forward(self, _x: object, _features: object, squeeze_dim: bool = False) -> Tensor:
        return self.vectors.flatten(1) if squeeze_dim else self.vectors


def _rechub(name: str, embeddings: Tensor, settings: dict[str, Any]) -> Rival:
    basic, ranking = import_module("torch_rechub.basic.features"), import_module("torch_rechub.models.ranking")
    num_fields, embedding_dim = embeddings.shape[1:]
    features = [basic.SparseFeature(f"f{i}", vocab_size=2, embed_dim=embedding_dim) for i in range(num_fields)]
    model: Any = _RECHUB[name](ranking, features, settings)
    vectors = embeddings.clone().requires_grad_()
    given = _GivenEmbedding(vectors)
    if name.startswith("autoint"):
        model.sparse_embedding = given
    else:
        model.embedding = given
    return Rival(model, [vectors], {})


def _mlp(settings: dict[str, Any]) -> dict[str, Any]:
    assert settings["batch_norm"], "torch-rechub's deep networks always normalize batches"
    return {"dims": list(settings["hidden_units"]), "dropout": settings["dropout"]}


def _rechub_autoint(ranking: Any, features: list[Any], settings: dict[str, Any]) -> nn.Module:
    mlp_params = _mlp(settings) if "hidden_units" in settings else None
    attention: nn.Module = ranking.AutoInt(
        features, None, num_layers=settings["num_layers"], num_heads=settings["num_heads"], mlp_params=mlp_params
    )
    return attention


_RECHUB: dict[str, Callable[[Any, list[Any], dict[str, Any]], nn.Module]] = {
    "dcn": lambda r, f, s: r.DCN(f, s["num_cross_layers"], _mlp(s)),
    "dcnv2": lambda r, f, s: r.DCNv2(
        f, s["num_cross_layers"], _mlp(s), model_structure=s["structure"], use_low_rank_mixture=False
    ),
    "autoint": _rechub_autoint,
    "autoint_plus": _rechub_autoint,
}

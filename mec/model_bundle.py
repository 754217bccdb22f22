"""The model bundle: a backbone's weights, what it trained of the embeddings, and the space it is bound to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from mec.bundle import WEIGHTS_FILE, Bundle, write_bundle
from mec.ctr_model import CtrModel
from mec.data.layout import FieldLayout
from mec.embeddings.coded import CodedEmbedding
from mec.embeddings.full import FullEmbedding
from mec.errors import BundleError, SpaceError
from mec.models import build_backbone
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.storage import stored


def write_model(
    out: Path,
    model: CtrModel,
    *,
    embedding: str,
    backbone: str,
    space: str,
    codebook: str | None,
    parents: Mapping[str, Bundle | str],
    config: Mapping[str, Any],
    fit: Mapping[str, Any],
) -> None:
    """Write a trained model.

    Frozen codewords stay in the codebook bundle; what was trained is written here, codewords and exact rows rounded as
    the codebook stores its floats. So the model that is loaded, evaluated and served is the rounded one.

    Args:
        out: Directory of the bundle.
        model: Trained.
        embedding: ``codes`` or ``full``.
        backbone: Registry name.
        space: uuid of the embedding space it was trained in.
        codebook: uuid of the codebook it was trained with; None for full tables.
        parents: Role -> bundle.
        config: Settings that shaped it.
        fit: How training went.

    Raises:
        ConfigError: A trained codeword or row is beyond float16's range.
    """
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    weights = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items() if k not in frozen}
    if isinstance(model.embedding, CodedEmbedding):
        floats = model.embedding.floats
        trained = {k: stored(v, floats, f"the trained {k}") for k, v in weights.items() if k.startswith("embedding.")}
        weights |= trained
    with write_bundle(out, "model", parents=parents, config=config) as draft:
        save_file(weights, draft.path / WEIGHTS_FILE)
        draft.extra = {
            "embedding": embedding,
            "backbone": backbone,
            "settings": model.backbone.settings.model_dump(mode="json"),
            "space": space,
            "codebook": codebook,
            "layout": model.layout.to_json(),
            "embedding_dim": model.backbone.embedding_dim,
            "fit": dict(fit),
        }


def load_ctr_model(model: Bundle, codebook: Bundle | None, codes: Bundle | None) -> CtrModel:
    """Load a trained model, ready to score.

    Args:
        model: Model bundle.
        codebook: A codebook bundle of the model's space (the very one, for trained codewords); None for full tables.
        codes: Codes of that codebook; None for full tables, or where rows are decoded elsewhere.

    Raises:
        SpaceError: The codebook is of another space than the model, or not the one whose codewords the model
            trained on, or the codes are of another codebook.
        BundleError: The weights do not fit the model that the bundle states.
    """
    extra = model.extra
    layout = FieldLayout.from_json(extra["layout"])
    if extra["embedding"] == "full":
        embedding: torch.nn.Module = FullEmbedding(layout, extra["embedding_dim"])
    else:
        if codebook is None:
            raise BundleError(
                f"the model {model.path} scores codes and needs a codebook", fix="pass a codebook of its space"
            )
        embedding = _coded(model, codebook, codes)
    backbone = build_backbone(extra["backbone"], layout.num_fields, extra["embedding_dim"], extra["settings"])
    weights = load_file(model.file(WEIGHTS_FILE))
    scaled = any(name.startswith("scales.") for name in weights)
    result = CtrModel(layout, embedding, backbone, field_scales=scaled)
    if codebook is not None and extra["codebook"] != codebook.uuid and any(n.startswith("embedding.") for n in weights):
        raise SpaceError(
            f"the model {model.uuid} trained its codewords on: they fit codes of codebook {extra['codebook']} only",
            found=codebook.uuid,
            fix="pass the codebook that the model was trained with, or train with train.codewords=frozen",
        )
    frozen = {name for name, _ in result.named_parameters() if name.startswith("embedding.")}
    missing, unexpected = result.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - frozen:
        raise BundleError(
            f"the weights of {model.path} do not fit the backbone {extra['backbone']!r}",
            found=f"missing {sorted(missing)}, unexpected {sorted(unexpected)}",
            fix="run the train step again with this version of mec",
        )
    result.eval()
    return result


def _coded(model: Bundle, codebook: Bundle, codes: Bundle | None) -> CodedEmbedding:
    extra = model.extra
    if codebook.extra["space"] != extra["space"]:
        raise SpaceError(
            f"the codebook {codebook.uuid} is not of the space {extra['space']} "
            f"that the model {model.uuid} was trained in",
            found=codebook.extra["space"],
            fix="pass a codebook of the model's space, or train a model in the codebook's space",
        )
    books = Codebooks.open(codebook)
    return CodedEmbedding(books, Codes.open(codes, books) if codes is not None else None)

"""What the champion answers to requests, through MLflow and Feast, and by hand from its bundles."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from mec.bundle import Bundle
from mec.config import TrackingConfig
from mec.data.vocabulary import Vocabularies
from mec.evaluation.metrics import sigmoid
from mec.model_bundle import load_ctr_model
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import EXACT_FILE
from mec.quantize.packing import unpack
from mec.tracking.kept import tagged_bundle
from mec.tracking.registry import ModelRegistry
from mec.tracking.runs import connected
from tests.pipelines.periods import FIELDS

TRACKING = TrackingConfig()


def request_rows(directory: Path) -> pd.DataFrame:
    """Rows of all periods, so that values of each generation are among them, and values of none."""
    frames = [pd.read_parquet(file)[FIELDS].tail(300) for file in sorted(directory.glob("period-*.parquet"))]
    strange = pd.DataFrame({name: [10**9, 7] for name in FIELDS})
    return pd.concat([*frames, strange], ignore_index=True)


def served(directory: Path, rows: pd.DataFrame) -> np.ndarray:
    """What the champion answers, loaded from MLflow, with codes from Feast."""
    with connected(TRACKING, store=directory / ".mec") as server:
        folder = server.client.get_model_version_by_alias("shop", "champion").source
    return np.asarray(mlflow.pyfunc.load_model(folder).predict(rows))


def champion_tags(directory: Path) -> tuple[str, dict[str, str]]:
    with connected(TRACKING, store=directory / ".mec") as server:
        champion = ModelRegistry(server, "shop", create=False).champion()
    assert champion is not None
    return champion.number, champion.tags


def computed(directory: Path, rows: pd.DataFrame) -> np.ndarray:
    """The same by hand from the champion's bundles: a dictionary for ids, sums of codewords, the backbone."""
    number, tags = champion_tags(directory)
    roles = ("vocabulary", "codebook", "codes", "model", "evaluation")
    bundles: dict[str, Bundle] = {role: tagged_bundle(tags, role, owner=f"version {number}") for role in roles}
    vocabularies, books = Vocabularies(bundles["vocabulary"]), Codebooks.open(bundles["codebook"])
    codes = bundles["codes"]
    packed = {name: array.numpy() for name, array in load_file(codes.file("codes.safetensors")).items()}
    exact = load_file(codes.file(EXACT_FILE)) if "exact" in codes.extra else books.exact
    slots = []
    for name in FIELDS:
        ids = {value: i for i, value in enumerate(vocabularies.values(name).to_pylist()) if i}
        wanted = [ids.get(value, 0) for value in rows[name].tolist()]
        if name in packed:
            facts = codes.extra["vocabularies"][name]
            assert facts["head"] == 0
            assert facts["coded"] == facts["size"]
            stream = unpack(packed[name], facts["coded"], facts["num_codes"], facts["bits_per_code"])[wanted]
            words = books.coded[name].codewords.float()
            slots.append(sum(words[m][stream[:, m].astype(np.int64)] for m in range(facts["num_codes"])))
        else:
            slots.append(exact[name].float()[wanted])
    model = load_ctr_model(bundles["model"], bundles["codebook"], None).eval()
    with torch.inference_mode():
        logits = model.logits_from_rows(torch.stack(slots, 1), None).numpy()
    fit = json.loads(bundles["evaluation"].file("evaluation.json").read_text())["calibration"]
    return np.asarray(sigmoid(fit["scale"] * logits.astype(np.float64) + fit["bias"]))

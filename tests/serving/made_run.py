"""The bundles of a small train run with every kind of field, made without training.

Ids, weights and buckets are worked out here in plain Python, so that the scorer is compared with
something that shares none of its code.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch import Tensor

from mec.bundle import Bundle, open_bundle, write_bundle, write_json
from mec.config import PublishConfig, parse_config
from mec.ctr_model import CtrModel, predict_split
from mec.data.counting import count_step
from mec.data.dataset import EncodedDataset
from mec.data.encoding import encode_step
from mec.data.layout import PAD_ID, FieldLayout, FieldSlots
from mec.data.shards import DatasetWriter
from mec.data.vocabulary import vocabulary_step
from mec.embeddings.coded import CodedEmbedding, Codewords
from mec.evaluation.metrics import auc, logloss, sigmoid
from mec.model_bundle import load_ctr_model, write_model
from mec.models import build_backbone
from mec.publish.publishing import publish_step
from mec.quantize.codebook import Codebooks
from mec.quantize.codes import Codes
from mec.quantize.packing import pack
from mec.quantize.residual import ResidualCodebook
from mec.quantize.storage import DTYPES, Floats

DIM, NUM_CODES, NUM_CODEWORDS = 4, 2, 16
MAX_LENGTH = 3
CALIBRATION = {"scale": 0.8, "bias": -0.3}
CONFIG: dict[str, Any] = {
    "name": "shop",
    "data": {
        "path": "rows.parquet",
        "categorical": ["user", {"name": "item", "vocabulary": "item"}, "city"],
        "numeric": ["price", {"name": "age", "transform": "linear"}],
        "sequence": [
            {"name": "history", "vocabulary": "item", "max_length": MAX_LENGTH},
            {"name": "tags", "pooling": "sum", "max_length": MAX_LENGTH, "separator": ";"},
        ],
        "split": {"kind": "column"},
    },
}


@dataclass(frozen=True)
class MadeRun:
    """Bundle directories, the raw test rows, and the probabilities the model in this process gives them."""

    root: Path
    test: pd.DataFrame
    expected: np.ndarray[Any, np.dtype[np.float64]]

    def __getattr__(self, name: str) -> Path:
        path = self.root / name
        if not path.is_dir():
            raise AttributeError(name)
        return path

    def bundle(self, name: str) -> Bundle:
        return open_bundle(self.root / name)

    def steps(self) -> dict[str, Path]:
        """The bundles as ``register_step`` takes them."""
        roles = ("dataset", "vocabulary", "pretrained", "codebook", "codes", "model", "publication", "evaluation")
        return {role: self.root / role for role in roles}


def make_run(
    root: Path,
    store: Path,
    *,
    seed: int = 0,
    rows_seed: int = 0,
    num_rows: int = 1200,
    known_rows: int = 400,
    publish: bool = True,
    codewords: Codewords = "frozen",
    encoded_by: Literal["hand", "steps"] = "hand",
    head: int = 0,
    tail: int = 0,
    floats: Floats = "float32",
) -> MadeRun:
    """Make every bundle of a train run.

    Args:
        root: Directory of the bundles.
        store: Of the embedded Feast store.
        seed: Of codebooks, codes and weights.
        rows_seed: Of the raw rows; the same seed gives the same rows and data version.
        num_rows: Of all splits.
        known_rows: First rows; values that are not in them are out of vocabulary.
        publish: Whether codes go to Feast.
        codewords: Other than frozen: the model's own, not those of the codebook.
        encoded_by: ``steps``: vocabulary and dataset come from the library's own steps.
        head: Most popular values of coded vocabularies that keep exact rows.
        tail: Least popular ones that share a code.
        floats: How codewords and exact rows are stored.
    """
    frame = make_rows(num_rows, rows_seed)
    if encoded_by == "steps":
        layout, vocabulary = _encode_by_steps(root, frame)
    else:
        layout, vocabulary = _encode_by_hand(root, frame, known_rows, f"rows-{rows_seed}-{num_rows}")
    _write_pretrained(root, layout, vocabulary, seed)
    _write_model(root, layout, vocabulary, seed, codewords, head, tail, floats)
    expected = _write_evaluation(root)
    publish_step(
        publish=PublishConfig(enabled=publish),
        store=store,
        vocabulary=root / "vocabulary",
        codebook=root / "codebook",
        codes=root / "codes",
        out=root / "publication",
    )
    test = frame[frame["split"] == "test"].drop(columns=["split", "label"]).reset_index(drop=True)
    return MadeRun(root, test, expected)


def _encode_by_steps(root: Path, frame: pd.DataFrame) -> tuple[FieldLayout, Bundle]:
    file = root / "rows.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), file)
    config = parse_config({**CONFIG, "data": {**CONFIG["data"], "path": str(file)}})
    count_step(data=config.data, count=config.count, seed=0, out=root / "counts")
    vocabulary_step(counts=root / "counts", count=config.count, out=root / "vocabulary")
    encode_step(data=config.data, vocabulary=root / "vocabulary", seed=0, out=root / "dataset")
    return EncodedDataset.open(root / "dataset").layout, open_bundle(root / "vocabulary")


def _encode_by_hand(root: Path, frame: pd.DataFrame, known_rows: int, data_version: str) -> tuple[FieldLayout, Bundle]:
    values = {
        "user": _vocabulary(frame["user"][:known_rows]),
        "item": _vocabulary([*frame["item"][:known_rows], *_flat(frame["history"][:known_rows])]),
        "city": _vocabulary(frame["city"][:known_rows]),
        "price": _vocabulary([_bucket(x) for x in frame["price"][:known_rows]]),
        "tags": _vocabulary(_flat(frame["tags"][:known_rows])),
    }
    ages = [x for x in frame["age"][:known_rows] if not _null(x)]
    stats = {"mean": float(np.mean(ages)), "std": float(np.std(ages))}
    layout = _layout({name: len(v) + 1 for name, v in values.items()})
    vocabulary = _write_vocabulary(root / "vocabulary", values, stats, data_version)
    _write_dataset(root / "dataset", frame, layout, values, stats, vocabulary, data_version)
    return layout, vocabulary


def _write_evaluation(root: Path) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The evaluation bundle; the probabilities (N,) that the model gives the test rows."""
    dataset = EncodedDataset.open(root / "dataset")
    model = load_ctr_model(open_bundle(root / "model"), open_bundle(root / "codebook"), open_bundle(root / "codes"))
    logits, labels = predict_split(model, dataset, "test", 256)
    served = CALIBRATION["scale"] * logits.astype(np.float64) + CALIBRATION["bias"]
    parents = {name: open_bundle(root / name) for name in ("dataset", "model", "codebook", "codes")}
    with write_bundle(root / "evaluation", "evaluation", parents=parents) as draft:
        numbers = {"auc": auc(labels, logits), "logloss": logloss(labels, served), "num_test_rows": len(labels)}
        others = {"calibration": CALIBRATION, "bytes": {"codes": 7}, "roc": [0.5]}
        write_json(draft.path / "evaluation.json", numbers | others)
        (draft.path / "figures").mkdir()
        (draft.path / "figures" / "roc.png").write_bytes(b"png")
        (draft.path / "report.html").write_text("<html></html>", encoding="utf-8")
    return sigmoid(served)


def make_rows(num_rows: int, seed: int) -> pd.DataFrame:
    """Raw rows with nulls, long and empty lists, and values that only later rows hold."""
    rng = np.random.default_rng(seed)

    def some(values: list[Any], null_share: float = 0.0) -> list[Any]:
        return [None if rng.random() < null_share else v for v in values]

    def lists(draw: Any) -> list[Any]:
        return some([[draw() for _ in range(rng.integers(0, 6))] for _ in range(num_rows)], 0.05)

    return pd.DataFrame(
        {
            "user": some([f"u={n}|é" for n in rng.zipf(1.3, num_rows) % 300], 0.1),
            "item": (rng.zipf(1.2, num_rows) % 400 - 5).astype(np.int64),
            "city": [f"city {n}" for n in rng.integers(0, 9, num_rows)],
            "price": some([round(float(x), 2) for x in rng.lognormal(2, 2, num_rows) - 3], 0.1),
            "age": some([float(x) for x in rng.integers(18, 80, num_rows)], 0.1),
            "history": lists(lambda: int(rng.zipf(1.2) % 400 - 5)),
            "tags": lists(lambda: f"t{rng.integers(0, 12)}"),
            "label": rng.integers(0, 2, num_rows),
            "split": rng.choice(["train", "valid", "test"], num_rows, p=[0.5, 0.1, 0.4]),
        }
    )


def _layout(sizes: dict[str, int]) -> FieldLayout:
    fields, slot = [], 0
    for name, kind, vocabulary, num_slots, pooling in (
        ("user", "categorical", "user", 1, "none"),
        ("item", "categorical", "item", 1, "none"),
        ("city", "categorical", "city", 1, "none"),
        ("price", "bucketed", "price", 1, "none"),
        ("age", "linear", "age", 1, "none"),
        ("history", "sequence", "item", MAX_LENGTH, "mean"),
        ("tags", "sequence", "tags", MAX_LENGTH, "sum"),
    ):
        fields.append(FieldSlots(name, kind, vocabulary, slot, num_slots, pooling))  # type: ignore[arg-type]
        slot += num_slots
    return FieldLayout(tuple(fields), (*sizes.items(), ("age", 2)))


def _vocabulary(values: Any) -> list[Any]:
    """Values of ids 1, 2, ...: by count, then value; null last among equals."""
    counts = Counter(None if _null(v) else v for v in values)
    return sorted(counts, key=lambda v: (-counts[v], v is None, v if v is not None else 0))


def _bucket(x: Any) -> int | None:
    return None if _null(x) else math.floor(math.log(x) ** 2) + 3 if x > 2 else math.floor(x)


def _null(x: Any) -> bool:
    return x is None or (isinstance(x, float) and math.isnan(x))


def _flat(lists: Any) -> list[Any]:
    return [v for values in lists for v in (values or [])]


def _write_vocabulary(path: Path, values: dict[str, list[Any]], stats: dict[str, float], data_version: str) -> Bundle:
    facts = {}
    with write_bundle(path, "vocabulary", data_version=data_version) as draft:
        for name, known in values.items():
            kind = pa.int64() if name in ("item", "price") else pa.string()
            size = len(known) + 1
            table = {
                "id": pa.array(range(size), pa.uint32()),
                "value": pa.array([None, *known], kind),
                "count": pa.array(range(size, 0, -1), pa.int64()),
                "first_generation": pa.array([0] * size, pa.int32()),
            }
            pq.write_table(pa.table(table), draft.path / f"{name}.parquet")
            facts[name] = {"size": size, "type": str(kind)}
        rows = {"train": 1, "valid": 1, "test": 1}
        draft.extra |= {"vocabularies": facts, "generation": 0, "rows": rows, "numeric": {"age": stats}}
    return open_bundle(path)


def _write_dataset(
    path: Path,
    frame: pd.DataFrame,
    layout: FieldLayout,
    values: dict[str, list[Any]],
    stats: dict[str, float],
    vocabulary: Bundle,
    data_version: str,
) -> None:
    ids = {name: {v: i + 1 for i, v in enumerate(known)} for name, known in values.items()}
    with write_bundle(path, "dataset", parents={"vocabulary": vocabulary}, data_version=data_version) as draft:
        with DatasetWriter(draft.path, layout) as writer:
            for split in ("train", "valid", "test"):
                rows = frame[frame["split"] == split]
                encoded, numerics = [], []
                for row in rows.to_dict("records"):
                    plain = ("user", "item", "city")
                    one = [ids[name].get(None if _null(row[name]) else row[name], 0) for name in plain]
                    one += [ids["price"].get(_bucket(row["price"]), 0), 0 if _null(row["age"]) else 1]
                    for name, table in (("history", "item"), ("tags", "tags")):
                        kept = [ids[table].get(v, 0) for v in (row[name] or [])][-MAX_LENGTH:]
                        one += kept + [PAD_ID] * (MAX_LENGTH - len(kept))
                    encoded.append(one)
                    numerics.append([1.0 if _null(row["age"]) else (row["age"] - stats["mean"]) / stats["std"]])
                label = rows["label"].to_numpy(np.uint8)
                writer.append(split, np.array(encoded, np.uint32), label, numerics=np.array(numerics, np.float32))
        draft.extra |= writer.extra()


def _write_pretrained(root: Path, layout: FieldLayout, vocabulary: Bundle, seed: int) -> None:
    """Tables of random numbers: nothing but a refresh reads them."""
    generator = torch.Generator().manual_seed(seed + 1)
    parents = {"dataset": open_bundle(root / "dataset"), "vocabulary": vocabulary}
    with write_bundle(root / "pretrained", "pretrained", parents=parents) as draft:
        tables = {name: torch.randn(size, DIM + 1, generator=generator) for name, size in layout.vocabularies}
        save_file(tables, draft.path / "tables.safetensors")
        draft.extra |= {"space": f"00000000-0000-4000-8000-{seed:012d}", "embedding_dim": DIM}


def _write_model(
    root: Path,
    layout: FieldLayout,
    vocabulary: Bundle,
    seed: int,
    codewords: Codewords,
    head: int,
    tail: int,
    floats: Floats,
) -> None:
    """Codebook, codes and model bundles of random numbers; ``user`` and ``item`` are coded."""
    generator = torch.Generator().manual_seed(seed)
    space = f"00000000-0000-4000-8000-{seed:012d}"
    sizes = dict(layout.vocabularies)
    shape = (NUM_CODES, NUM_CODEWORDS, DIM + 1)

    def draw(*shape: int) -> Tensor:
        return (0.4 * torch.randn(*shape, generator=generator)).to(DTYPES[floats])

    coded = {n: ResidualCodebook(draw(*shape).float()) for n in ("user", "item")}
    exact = {n: draw(v, DIM + 1) for n, v in sizes.items() if n not in coded}
    books = Codebooks(space, layout, DIM, coded, exact, floats)  # type: ignore[arg-type]
    streams = {n: (sizes[n] - head - tail, NUM_CODES) for n in coded}
    drawn = {n: torch.randint(NUM_CODEWORDS, s, generator=generator).numpy() for n, s in streams.items()}
    head_rows = {n: draw(head, DIM + 1) for n in coded} if head else {}
    tail_start = {n: sizes[n] - tail for n in coded} if tail else {}
    with write_bundle(root / "codebook", "codebook", parents={"vocabulary": vocabulary}) as draft:
        books.write(draft, {n: c[0].tolist() for n, c in drawn.items()}, {})
    codebook = open_bundle(root / "codebook")
    parents = {"codebook": codebook, "vocabulary": vocabulary}
    with write_bundle(root / "codes", "codes", parents=parents) as draft:
        packed = {n: pack(c, 4) for n, c in drawn.items()}
        Codes(replace(books, uuid=codebook.uuid), packed, head=head_rows, tail_start=tail_start).write(draft)
    torch.manual_seed(seed)
    opened = Codebooks.open(codebook)
    embedding = CodedEmbedding(opened, Codes.open(root / "codes", opened), codewords)
    model = CtrModel(layout, embedding, build_backbone("deepfm", layout.num_fields, DIM, {"hidden_units": [8]}))
    write_model(
        root / "model",
        model,
        embedding="codes",
        backbone="deepfm",
        space=space,
        codebook=codebook.uuid,
        parents={"dataset": open_bundle(root / "dataset"), **parents},
        config={},
        fit={},
    )


def config_json() -> str:
    """The config that the run could have had."""
    return json.dumps(CONFIG)

"""The scorer: raw columns to p(click), with codes from a source, codebooks and backbone of its own.

Shapes: B rows, S slots, N values, U distinct values, D dimensions, M codes per value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from mec.bundle import Bundle, open_bundle
from mec.data.layout import FieldLayout
from mec.data.value_index import ValueIndex
from mec.data.vocabulary import online_keys, oov_key
from mec.embeddings.coded import CodedEmbedding
from mec.errors import BundleError, DataError, SpaceError
from mec.evaluation.calibration import Calibration
from mec.evaluation.metrics import sigmoid
from mec.model_bundle import load_ctr_model
from mec.publish.online_value import HeadRow
from mec.quantize import packing
from mec.quantize.codes import EXACT_FILE
from mec.quantize.storage import DTYPES
from mec.serving.schema import FORMAT, InputField
from mec.serving.sources import BundleCodes, CodesSource, FeastCodes, open_source

if TYPE_CHECKING:
    import pandas as pd

_CHUNK_ROWS = 8_192  # rows scored at a time


@dataclass(frozen=True)
class _CodedVocabulary:
    """What the codebook's manifest says of one coded vocabulary."""

    structure: str
    num_codes: int
    num_codewords: int
    bits_per_code: int
    oov_code: list[int]


class Scorer:
    """Scores raw rows; opened from a scorer bundle.

    Args:
        bundle: The scorer bundle.
        source: Codes by online key, of the scorer's codebook.
    """

    def __init__(self, bundle: Bundle, source: CodesSource) -> None:
        if bundle.extra.get("format") != FORMAT:
            raise BundleError(
                f"{bundle.path} is a scorer of another format than this version of mec reads ({FORMAT})",
                found=bundle.extra.get("format"),
                fix=f"use mec {bundle.manifest.mec_version}, which wrote it, or register the model again",
            )
        model = open_bundle(bundle.path / "model", "model")
        codebook = open_bundle(bundle.path / "codebook", "codebook")
        self.bundle = bundle
        self.layout = FieldLayout.from_json(bundle.extra["layout"])
        self.fields = tuple(InputField(**f) for f in bundle.extra["fields"])
        self._source = source
        self._model = load_ctr_model(model, codebook, None).eval()
        assert isinstance(self._model.embedding, CodedEmbedding)
        self._embedding = self._model.embedding
        if "exact" in bundle.extra:
            self._renew_exact(load_file(bundle.file(EXACT_FILE)))
        self._coded = {name: _CodedVocabulary(**facts) for name, facts in codebook.extra["coded"].items()}
        self._dtype = DTYPES[codebook.extra["floats"]]
        self._calibration = Calibration(**bundle.extra["calibration"])
        self._width = int(bundle.extra["embedding_dim"]) + 1
        self._exact = {name: _read_index(bundle.file(file)) for name, file in bundle.extra["values"].items()}

    @classmethod
    def open(cls, path: Path | str, codes: FeastCodes | BundleCodes) -> Scorer:
        """Open a scorer bundle, and the source of its codes.

        Raises:
            BundleError: No such bundle, or a file of it is corrupt (it is named).
            SpaceError: The model and the codebook in it, or the source's codes, do not belong together.
            PublishError: The online store cannot be opened.
        """
        bundle = open_bundle(path, "scorer")
        return cls(bundle, open_source(codes, bundle.extra["codebook"]))

    def score(self, frame: pd.DataFrame) -> NDArray[np.float64]:
        """Click probabilities of raw rows.

        Args:
            frame: One column per field; others are ignored. Values that training never saw are scored as
                out of vocabulary, null as the value it was in training.

        Returns:
            (B,) calibrated probabilities.

        Raises:
            DataError: A column is missing, or holds a value that its field cannot.
            SpaceError: The source's codes were written for another codebook.
        """
        missing = [f.name for f in self.fields if f.name not in frame.columns]
        if missing:
            raise DataError(
                f"the request misses columns: {', '.join(missing)}",
                found=list(map(str, frame.columns)),
                fix="send a column for every field",
            )
        return self.score_columns({f.name: f.canonical(_to_arrow(f.name, frame[f.name])) for f in self.fields})

    def score_columns(self, columns: Mapping[str, pa.Array]) -> NDArray[np.float64]:
        """Click probabilities of canonical columns, see ``InputField.canonical``; (B,)."""
        return sigmoid(self.logits_of_columns(columns))

    def logits_of_columns(self, columns: Mapping[str, pa.Array]) -> NDArray[np.float64]:
        """Calibrated logits (B,) of canonical columns."""
        num_rows = len(columns[self.fields[0].name])
        logits = np.empty(num_rows, dtype=np.float64)
        for start in range(0, num_rows, _CHUNK_ROWS):
            chunk = {f.name: columns[f.name].slice(start, _CHUNK_ROWS) for f in self.fields}
            logits[start : start + _CHUNK_ROWS] = self._calibration.apply(self._logits(chunk))
        return logits

    def _renew_exact(self, rows: Mapping[str, Tensor]) -> None:
        """Put a refresh's rows in the place of the codebook's."""
        for place, name in enumerate(self._embedding.exact_names):
            self._embedding.exact[place] = torch.nn.Parameter(rows[name], requires_grad=False)

    @torch.inference_mode()
    def _logits(self, columns: Mapping[str, pa.Array]) -> NDArray[np.float32]:
        num_rows = len(columns[self.fields[0].name])
        rows = torch.zeros(num_rows, self.layout.num_slots, self._width)
        filled = np.ones((num_rows, self.layout.num_slots), dtype=np.bool_)
        values: dict[str, list[pa.Array]] = {}
        places: dict[str, list[Tensor]] = {}  # vocabulary -> flat (row, slot) numbers of its values
        for field, slots in zip(self.fields, self.layout.fields, strict=True):
            if field.kind == "linear":
                continue
            array, place = columns[field.name], np.arange(num_rows) * self.layout.num_slots + slots.first_slot
            if field.kind == "sequence":
                lengths = np.asarray(pc.list_value_length(array), dtype=np.int64)
                taken = np.arange(slots.num_slots) < lengths[:, None]  # (B, slots of the field)
                filled[:, slots.first_slot : slots.first_slot + slots.num_slots] = taken
                place = (place[:, None] + np.arange(slots.num_slots))[taken]
                array = array.flatten()
            values.setdefault(field.vocabulary, []).append(array)
            places.setdefault(field.vocabulary, []).append(torch.from_numpy(place))
        flat = rows.view(-1, self._width)
        for name, found in self._look_up({n: pa.concat_arrays(a) for n, a in values.items()}).items():
            flat[torch.cat(places[name])] = found
        self._fill_linear(rows, columns)
        return np.asarray(self._model.logits_from_rows(rows, self._weights(filled, columns)).numpy())

    def _look_up(self, values: Mapping[str, pa.Array]) -> dict[str, Tensor]:
        """Vocabulary -> values (N,) to vocabulary -> rows (N, D + 1); one read from the source for all."""
        distinct = {name: _distinct(array) for name, array in values.items()}
        coded = {n: found for n, (found, _) in distinct.items() if n not in self._exact}
        # id 0 comes along: what an unknown value is scored as changes with the codes
        keys = {n: [*online_keys(n, found).to_pylist(), oov_key(n)] for n, found in coded.items()}
        packed = iter(self._source.fetch([key for name in keys for key in keys[name]]) if keys else ())
        rows = {}
        for name, (found, index) in distinct.items():
            if name in self._exact:
                ids = self._exact[name].ids(found).view(np.int32)  # (U,) 0 for values that it does not have
                table = self._embedding.rows(name, torch.from_numpy(ids))
            else:
                table = self._decode(name, [next(packed) for _ in range(len(found) + 1)])
            rows[name] = table[index]
        return rows

    def _decode(self, vocabulary: str, values: list[bytes | HeadRow | None]) -> Tensor:
        """Rows (U, D + 1) of packed codes and of the head; a value without either gets that of out of vocabulary.

        The last of the U values is out of vocabulary itself; the codebook knows what it was at training.
        """
        facts = self._coded[vocabulary]
        codes = np.tile(np.array(facts.oov_code, dtype=np.int64), (len(values), 1))  # (U, M)
        unknown = values[-1]
        known = {place: value for place, value in enumerate(values) if isinstance(value, bytes)}
        if isinstance(unknown, bytes):
            known |= {place: unknown for place, value in enumerate(values) if value is None}
        if known:
            try:
                found = packing.codes_from_row_bytes(list(known.values()), facts.num_codes, facts.bits_per_code)
            except ValueError as error:
                raise self._foreign(vocabulary, error) from None
            codes[list(known)] = found
        if codes.size and int(codes.max()) >= facts.num_codewords:
            raise self._foreign(vocabulary, f"code {codes.max()} where there are {facts.num_codewords} codewords")
        rows = self._embedding.codebook(vocabulary).decode(torch.from_numpy(codes))
        head = {place: value.data for place, value in enumerate(values) if isinstance(value, HeadRow)}
        if head:
            rows[list(head)] = self._head_rows(vocabulary, list(head.values()))
        return rows

    def _head_rows(self, vocabulary: str, values: list[bytes]) -> Tensor:
        """(H, D + 1) rows from their bytes."""
        num_bytes = self._width * self._dtype.itemsize
        wrong = next((value for value in values if len(value) != num_bytes), None)
        if wrong is not None:
            raise self._foreign(vocabulary, f"an exact row of {len(wrong)} bytes where rows have {num_bytes}")
        return torch.frombuffer(bytearray(b"".join(values)), dtype=self._dtype).view(-1, self._width).float()

    def _foreign(self, vocabulary: str, found: object) -> SpaceError:
        return SpaceError(
            f"the codes of vocabulary {vocabulary!r} are not those of codebook {self.bundle.extra['codebook']}",
            found=found,
            fix="publish this codebook's codes again",
        )

    def _fill_linear(self, rows: Tensor, columns: Mapping[str, pa.Array]) -> None:
        """Put each linear field's direction, or its null's, into its slot."""
        for field, slots in zip(self.fields, self.layout.fields, strict=True):
            if field.kind == "linear":
                known = torch.from_numpy(np.asarray(pc.is_valid(columns[field.name])).astype(np.int64))
                rows[:, slots.first_slot] = self._embedding.rows(field.vocabulary, known)

    def _weights(self, filled: NDArray[np.bool_], columns: Mapping[str, pa.Array]) -> Tensor | None:
        """(B, S) what slots are multiplied by; None where the layout is plain."""
        if self.layout.is_plain:
            return None
        numerics = [f.weight(columns[f.name]) for f in self.fields if f.kind == "linear"]
        return torch.from_numpy(self.layout.slot_weights(filled, numerics))


def _distinct(array: pa.Array) -> tuple[pa.Array, Tensor]:
    """Distinct values (U,), null among them, and the place of each value (N,) in them."""
    encoded = array.dictionary_encode(null_encoding="encode")
    return encoded.dictionary, torch.from_numpy(np.asarray(encoded.indices, dtype=np.int64))


def _read_index(file: Path) -> ValueIndex:
    """Ids of an exact vocabulary's values; the file holds those of ids 1, 2, ..."""
    values = pq.read_table(file)["value"].combine_chunks()
    return ValueIndex(pa.concat_arrays([pa.nulls(1, values.type), values]))


def _to_arrow(name: str, column: pd.Series[Any]) -> pa.Array:
    try:
        array = pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(
            f"column {name!r} of the request mixes types", found=str(error)[:200], fix="send one type per column"
        ) from None
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array

"""The online rows of a codes bundle, and those of a change from one generation to another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mec.bundle import Bundle
from mec.data.vocabulary import Vocabularies
from mec.errors import BundleError, SpaceError
from mec.publish.difference import differences
from mec.publish.online_value import encode, encode_head
from mec.publish.value_rows import CodesFiles, ValueRows

_VERIFY_SEED = 0x6D6563


@dataclass(frozen=True)
class OnlineRow:
    """One sampled row, as it must stand in the store."""

    key: str
    value: bytes


class OnlineRows:
    """The online rows of a codes bundle, made one vocabulary at a time.

    Raises:
        SpaceError: The codes index another codebook, or belong to another vocabulary.
        BundleError: Vocabulary and codes differ in size.
    """

    def __init__(self, codes: Bundle, codebook: Bundle, vocabulary: Bundle) -> None:
        if codes.extra["codebook"] != codebook.uuid:
            raise SpaceError(
                f"the codes in {codes.path} index another codebook than {codebook.uuid}",
                found=codes.extra["codebook"],
                fix="pass the codebook that these codes were made with",
            )
        parent = codes.manifest.parents.get("vocabulary", vocabulary.uuid)
        if parent != vocabulary.uuid:
            raise SpaceError(
                f"the codes in {codes.path} were made for another vocabulary than {vocabulary.uuid}",
                found=parent,
                fix="pass the vocabulary that these codes were made for",
            )
        self.bundle = codes
        self.codebook = codebook.uuid
        self.codes = codes.uuid
        self.generation = int(codes.extra["generation"])
        self._files = CodesFiles(codes)
        self.sizes = self._files.sizes
        self._vocabularies = Vocabularies(vocabulary)
        for name, size in self.sizes.items():
            if self._vocabularies.sizes.get(name) != size:
                raise BundleError(
                    f"{codes.path} holds codes of {size} values of vocabulary {name!r}",
                    found=f"{self._vocabularies.sizes.get(name, 'no')} values in {vocabulary.path}",
                    fix="run the quantize step again for this vocabulary",
                )

    def __len__(self) -> int:
        return sum(self.sizes.values())

    def batches(
        self, batch_rows: int, only: Mapping[str, NDArray[np.int64]] | None = None
    ) -> Iterator[tuple[list[str], list[bytes]]]:
        """Keys and values, each vocabulary's keys in the order of the store's index.

        Args:
            batch_rows: Rows of a batch at most.
            only: Vocabulary -> (n,) ids to take; None: all.
        """
        for name, size in self.sizes.items():
            chosen = np.arange(size) if only is None else only[name]
            keys = self._vocabularies.keys(name)
            rows = self._files.rows(name)
            order = chosen[_index_order(keys.take(pa.array(chosen)))]
            for start in range(0, len(order), batch_rows):
                ids = order[start : start + batch_rows]
                yield keys.take(pa.array(ids)).to_pylist(), self._values(rows, ids)

    def rare_values(self) -> dict[str, bytes]:
        """Vocabulary -> online value of id 0."""
        return {name: self._values(self._files.rows(name), np.zeros(1, np.int64))[0] for name in self.sizes}

    def keys(self, name: str) -> pa.StringArray:
        """(V,) online keys of one coded vocabulary, by id."""
        return self._vocabularies.keys(name)

    def sample(self, num_rows: int) -> list[OnlineRow]:
        """At most ``num_rows`` rows drawn with a fixed seed."""
        total = len(self)
        drawn = np.sort(
            np.random.default_rng(_VERIFY_SEED).choice(total, min(num_rows, total), replace=False, shuffle=False)
        )
        rows: list[OnlineRow] = []
        offset = 0
        for name, size in self.sizes.items():
            ids = drawn[(drawn >= offset) & (drawn < offset + size)] - offset
            offset += size
            if len(ids):
                keys = self._vocabularies.keys(name).take(pa.array(ids)).to_pylist()
                rows += map(OnlineRow, keys, self._values(self._files.rows(name), ids))
        return rows

    def _values(self, rows: ValueRows, ids: NDArray[np.int64]) -> list[bytes]:
        """Online values of ids (N,) of one vocabulary."""
        values = encode(self.codebook, rows.codes[rows.places(ids)])
        of_head = np.flatnonzero(rows.in_head(ids))
        for place, value in zip(of_head, encode_head(self.codebook, rows.head[ids[of_head] - 1]), strict=True):
            values[place] = value
        return values


class Change:
    """From the generation that is online to another one of the same vocabulary line.

    Args:
        codes: "codes" bundle that is online.
        vocabulary: Its "vocabulary" bundle.
        rows: What is to be online.

    Raises:
        SpaceError: The vocabularies are not generations of one another.
    """

    def __init__(self, codes: Bundle, vocabulary: Bundle, rows: OnlineRows) -> None:
        self.online = codes.uuid
        self.differences = differences(codes, rows.bundle)
        self.in_place = codes.extra["codebook"] == rows.codebook
        self._rows = rows
        self._known = Vocabularies(vocabulary)
        for name in self.differences:
            before, after = self._known.keys(name), rows.keys(name)
            common = min(len(before), len(after))
            if not before.slice(0, common).equals(after.slice(0, common)):
                raise SpaceError(
                    f"ids of vocabulary {name!r} mean other values in {vocabulary.path} than in the codes to publish",
                    found=f"vocabulary {vocabulary.uuid}",
                    fix="pass the vocabulary of the generation that is online",
                )

    def __len__(self) -> int:
        return sum(len(d.written) + len(d.retired) for d in self.differences.values())

    def batches(self, batch_rows: int) -> Iterator[tuple[list[str], list[bytes]]]:
        """Keys and values of all rows that differ."""
        yield from self._rows.batches(batch_rows, {name: d.written for name, d in self.differences.items()})
        yield from self.retired_batches(batch_rows)

    def retired_batches(self, batch_rows: int) -> Iterator[tuple[list[str], list[bytes]]]:
        """Keys that only the generation online knows, each with the value of id 0."""
        rare = self._rows.rare_values()
        for name, difference in self.differences.items():
            keys = self._known.keys(name).take(pa.array(difference.retired)).to_pylist()
            for start in range(0, len(keys), batch_rows):
                part = keys[start : start + batch_rows]
                yield part, [rare[name]] * len(part)


def _index_order(keys: pa.StringArray) -> NDArray[np.int64]:
    """(n,) places of the keys in the order of the store's index: by length, then bytes."""
    table = pa.table({"length": pc.binary_length(keys), "key": keys})
    order: NDArray[np.int64] = pc.sort_indices(
        table, sort_keys=[("length", "ascending"), ("key", "ascending")]
    ).to_numpy()
    return order.astype(np.int64)

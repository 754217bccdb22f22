"""Where a scorer gets codes from: the online store, or bundles on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pandas as pd
from pydantic import Field, TypeAdapter, ValidationError

from mec.bundle import open_bundle
from mec.config import Settings
from mec.errors import ConfigError, SpaceError
from mec.publish.online_value import HeadRow


class CodesSource(Protocol):
    """Codes by online key."""

    def fetch(self, keys: Sequence[str]) -> list[bytes | HeadRow | None]:
        """Packed codes, or the head's exact rows, of N keys, in their order; None for a key that is not known."""
        ...


class FeastCodes(Settings):
    """Codes from the online store, as published."""

    kind: Literal["feast"] = "feast"
    repo: str = Field(min_length=1, description="directory with feature_store.yaml")
    feature_service: str = Field(min_length=1, description="feature service of the codebook")


class BundleCodes(Settings):
    """Codes from bundles, for scoring without a store."""

    kind: Literal["bundle"] = "bundle"
    codes: str = Field(min_length=1, description="directory of the codes bundle")
    vocabulary: str = Field(min_length=1, description="directory of the vocabulary bundle")


CodesSettings = Annotated[FeastCodes | BundleCodes, Field(discriminator="kind")]


def codes_settings(value: Mapping[str, Any]) -> FeastCodes | BundleCodes:
    """Check the ``codes`` entry of a registered model's config.

    Raises:
        ConfigError: Neither kind of source, or a key that it does not have.
    """
    try:
        checked: FeastCodes | BundleCodes = TypeAdapter(CodesSettings).validate_python(dict(value))
    except ValidationError as error:
        bad = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ConfigError(
            f"bad `codes` in the model's config: {bad}",
            found=dict(value),
            fix="use {kind: feast, repo, feature_service} or {kind: bundle, codes, vocabulary}",
        ) from None
    return checked


def open_source(settings: FeastCodes | BundleCodes, codebook: str) -> CodesSource:
    """Open a source of codes.

    Args:
        settings: Which one.
        codebook: uuid of the codebook that the scorer decodes with.

    Raises:
        PublishError: The feature repo or service is not there.
        BundleError: A bundle is not there, or is corrupt.
        SpaceError: The source holds codes of another codebook.
    """
    if isinstance(settings, FeastCodes):
        from mec.publish.reader import CodesReader

        return CodesReader(Path(settings.repo), settings.feature_service, codebook)
    return CodesInBundle(Path(settings.codes), Path(settings.vocabulary), codebook)


class CodesInBundle:
    """Codes of a codes bundle, by the online keys of its vocabulary bundle.

    Args:
        codes: Directory of the codes bundle.
        vocabulary: Directory of the vocabulary bundle that the codes were made with.
        codebook: uuid of the codebook that the scorer decodes with.

    Raises:
        BundleError: A bundle is not there, or is corrupt.
        SpaceError: The codes are of another codebook, or the vocabulary is another one.
    """

    def __init__(self, codes: Path, vocabulary: Path, codebook: str) -> None:
        from mec.data.vocabulary import Vocabularies
        from mec.publish.value_rows import CodesFiles

        bundle = open_bundle(codes, "codes")
        if bundle.extra["codebook"] != codebook:
            raise SpaceError(
                f"{codes} does not hold codes of codebook {codebook}",
                found=f"codes of codebook {bundle.extra['codebook']}",
                fix="pass the codes bundle that was made with the scorer's codebook",
            )
        made_with = bundle.manifest.parents["vocabulary"]
        found = open_bundle(vocabulary, "vocabulary", verify=False).uuid
        if found != made_with:
            raise SpaceError(
                f"{codes} was not made with the vocabulary {vocabulary}",
                found=found,
                fix=f"pass the vocabulary bundle {made_with}",
            )
        vocabularies = Vocabularies.open(vocabulary)
        files = CodesFiles(bundle)
        keys: list[str] = []
        self._rows: list[bytes | HeadRow] = []
        for name, size in files.sizes.items():
            rows = files.rows(name)
            stream = [row.tobytes() for row in rows.codes]
            self._rows += [stream[place] for place in rows.places(np.arange(size))]
            first = len(self._rows) - size + 1
            self._rows[first : first + len(rows.head)] = [HeadRow(row.tobytes()) for row in rows.head]
            keys += vocabularies.keys(name).to_pylist()
        self._place = pd.Index(keys, dtype=object)

    def fetch(self, keys: Sequence[str]) -> list[bytes | HeadRow | None]:
        """See ``CodesSource.fetch``."""
        return [
            None if place < 0 else self._rows[place]
            for place in self._place.get_indexer(pd.Index(list(keys), dtype=object))
        ]

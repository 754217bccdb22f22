"""Codes read from the online store, by key."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mec.errors import PublishError, SpaceError
from mec.publish.definitions import FEATURE, JOIN_KEY
from mec.publish.online_value import HeadRow, decode
from mec.publish.store import feast_errors, open_store, retry_while_locked

MAX_KEYS = 4_000  # per read; sqlite refuses some hundred thousand variables


class CodesReader:
    """Reads one codebook's codes through its feature service.

    Args:
        repo: Feature repo, a directory with ``feature_store.yaml``.
        feature_service: Name of the service, as in ``publication.json``.
        codebook: uuid of the codebook the reader decodes with.

    Raises:
        PublishError: The repo cannot be opened, or has no such service (the known ones are listed).
        SpaceError: The service serves another codebook's codes.
    """

    def __init__(self, repo: Path | str, feature_service: str, codebook: str) -> None:
        self.repo = Path(repo)
        self.codebook = codebook
        self._store = open_store(self.repo)
        from feast.errors import FeatureServiceNotFoundException

        with feast_errors(f"cannot read the Feast registry of {self.repo}", fix="check registry in feature_store.yaml"):
            try:
                self._service = self._store.get_feature_service(feature_service)
            except FeatureServiceNotFoundException:
                known = sorted(service.name for service in self._store.list_feature_services())
                raise PublishError(
                    f"the feature repo {self.repo} has no feature service {feature_service!r}",
                    found=", ".join(known) or "none at all",
                    fix="publish the codes of this codebook to this repo first",
                ) from None
        served = self._service.tags.get("codebook")
        if served != codebook:
            raise SpaceError(
                f"feature service {feature_service} does not serve codes of codebook {codebook}",
                found=f"codebook {served}",
                fix="use the feature service that the scorer's publication names",
            )

    def fetch(self, keys: Sequence[str]) -> list[bytes | HeadRow | None]:
        """Packed codes, or exact rows, of online keys, in their order.

        Args:
            keys: N online keys; repeated ones are read once.

        Returns:
            N entries: the packed codes, as ``packing.codes_from_row_bytes`` takes them, or a value of the head's row;
            None for a key that the store does not hold.

        Raises:
            PublishError: The store does not answer.
            SpaceError: A value was written for another codebook.
        """
        values = self.fetch_values(keys)
        return [
            None if value is None else decode(self.codebook, value, key)
            for key, value in zip(keys, values, strict=True)
        ]

    def fetch_values(self, keys: Sequence[str]) -> list[bytes | None]:
        """Online values as the store holds them, tags neither checked nor removed."""
        distinct = list(dict.fromkeys(keys))
        found: dict[str, bytes | None] = {}
        with feast_errors(
            f"cannot read codes from the online store of {self.repo}", fix="check that the store is up, then try again"
        ):
            for start in range(0, len(distinct), MAX_KEYS):
                chunk = distinct[start : start + MAX_KEYS]
                found.update(zip(chunk, retry_while_locked(partial(self._read, chunk)), strict=True))
        return [found[key] for key in keys]

    def _read(self, keys: list[str]) -> list[bytes | None]:
        answer = self._store.get_online_features(features=self._service, entity_rows={JOIN_KEY: keys})
        values: list[bytes | None] = answer.to_dict()[FEATURE]
        return values

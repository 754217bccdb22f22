"""The publish step as it runs for service: Feast's registry in Postgres, codes in Redis."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from mec.bundle import open_bundle, write_bundle
from mec.config import PublishConfig
from mec.data.vocabulary import Vocabularies
from mec.errors import PublishError
from mec.publish.publishing import publish_step
from mec.publish.reader import CodesReader
from mec.quantize import packing
from tests.publish.bundles import BITS, Made, Make
from tests.servers import free_port

_YAML = """\
project: mec
provider: local
registry:
  registry_type: sql
  path: postgresql+psycopg:{registry}
  cache_ttl_seconds: 60
online_store:
  type: redis
  connection_string: localhost:{port}
entity_key_serialization_version: 3
"""


def publish(made: Made, root: Path, repo: Path, online: Made | None = None, **options: Any) -> dict[str, Any]:
    """Run the step, over what is online if that is known; its ``publication.json``."""
    if online is not None:
        options |= {"online_codes": online.codes, "online_vocabulary": online.vocabulary}
    publish_step(
        publish=PublishConfig(feature_repo=str(repo)),
        store=root / "unused",
        vocabulary=made.vocabulary,
        codebook=made.codebook,
        codes=made.codes,
        out=root / "publication",
        **options,
    )
    facts: dict[str, Any] = json.loads(open_bundle(root / "publication").file("publication.json").read_text())
    return facts


def item_rows(made: Made, repo: Path) -> tuple[list[bytes | Any], list[bytes]]:
    """What the store holds of the items, and what it should."""
    keys = [str(key) for key in Vocabularies.open(made.vocabulary).keys("item")]
    expected = [bytes(row) for row in packing.row_bytes(made.expected["item"], BITS)]
    return CodesReader(repo, f"codes_{made.uuid[:8]}", made.uuid).fetch(keys), expected


def next_generation(made: Made, path: Path, changed: list[int]) -> Made:
    """The next generation of ``made``, in which the items of some ids have other codes."""
    bundle = open_bundle(made.codes)
    expected = {name: codes.copy() for name, codes in made.expected.items()}
    expected["item"][changed] = (expected["item"][changed] + 1) % (1 << BITS)
    with write_bundle(path, "codes", parents=bundle.manifest.parents) as draft:
        save_file(
            {name: packing.pack(codes, BITS) for name, codes in expected.items()}, draft.path / "codes.safetensors"
        )
        save_file({}, draft.path / "head.safetensors")
        draft.extra |= bundle.extra | {"generation": 1, "parent_generation": 0}
    return replace(made, codes=path, expected=expected)


def test_generations_in_postgres_and_redis(make: Make, tmp_path: Path, postgres: str, redis_port: int) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(_YAML.format(registry=postgres, port=redis_port))
    old = make()
    new = next_generation(old, tmp_path / "next", changed=[3, 17, 41])
    assert publish(old, tmp_path, repo)["written_rows"] == 55
    found, expected = item_rows(old, repo)
    assert found == expected
    facts = publish(new, tmp_path, repo, online=old)
    assert facts["online_store"] == "redis"
    assert facts["written_rows"] == 3
    found, expected = item_rows(new, repo)
    assert found == expected
    assert publish(new, tmp_path, repo, online=new)["written_rows"] == 0
    with pytest.raises(PublishError, match="older must not overwrite"):
        publish(old, tmp_path, repo, online=new)
    assert publish(old, tmp_path, repo, online=new, rollback=True)["written_rows"] == 3
    other = make(codebook=2, seed=2)  # a codebook of its own view, beside the first
    publish(other, tmp_path, repo)
    for made in (old, other):
        found, expected = item_rows(made, repo)
        assert found == expected
    assert not list(repo.rglob("*.db"))


def test_a_registry_that_is_down_is_named(make: Make, tmp_path: Path, redis_port: int) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    nowhere = f"//mec@127.0.0.1:{free_port()}/feast"
    (repo / "feature_store.yaml").write_text(_YAML.format(registry=nowhere, port=redis_port))
    with pytest.raises(PublishError, match=r"cannot read the Feast registry of .*OperationalError"):
        publish(make(), tmp_path, repo)

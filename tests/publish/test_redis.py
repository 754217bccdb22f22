"""The publish step against a Redis online store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mec.bundle import open_bundle
from mec.config import PublishConfig
from mec.data.vocabulary import Vocabularies
from mec.errors import PublishError
from mec.publish.publishing import publish_step
from mec.publish.reader import CodesReader
from mec.quantize import packing
from tests.publish.bundles import BITS, Made, Make
from tests.servers import free_port

redis = pytest.importorskip("redis", reason="the redis package is not installed")


def redis_repo(root: Path, port: int) -> Path:
    repo = root / "repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(
        "project: mec\nprovider: local\nregistry: {path: data/registry.db, cache_ttl_seconds: 0}\n"
        f"online_store: {{type: redis, connection_string: 'localhost:{port}'}}\n"
        "entity_key_serialization_version: 3\n"
    )
    return repo


def publish(made: Made, root: Path, repo: Path) -> dict[str, object]:
    publish_step(
        publish=PublishConfig(feature_repo=str(repo)),
        store=root / "unused",
        vocabulary=made.vocabulary,
        codebook=made.codebook,
        codes=made.codes,
        out=root / "publication",
    )
    result: dict[str, object] = json.loads(open_bundle(root / "publication").file("publication.json").read_text())
    return result


def test_round_trip_new_generation_and_repair(make: Make, tmp_path: Path, redis_port: int) -> None:
    repo = redis_repo(tmp_path, redis_port)
    old, new = make(), make(seed=1, generation=1)
    assert publish(old, tmp_path, repo)["online_store"] == "redis"
    assert publish(new, tmp_path, repo)["written_rows"] == 55
    keys = [str(key) for key in Vocabularies.open(new.vocabulary).keys("item")]
    reader = CodesReader(repo, f"codes_{new.uuid[:8]}", new.uuid)
    rows = [bytes(row) for row in packing.row_bytes(new.expected["item"], BITS)]
    assert reader.fetch([*keys, "item=-1"]) == [*rows, None]
    with pytest.raises(PublishError, match="older must not overwrite"):
        publish(old, tmp_path, repo)
    assert publish(new, tmp_path, repo)["written_rows"] == 0
    with redis.Redis(port=redis_port) as client:  # every value spoilt, timestamps left as they are
        for key in client.scan_iter():
            fields = client.hgetall(key)
            client.hset(key, mapping={name: b"" for name in fields if not name.startswith(b"_ts")})
    assert publish(new, tmp_path, repo)["written_rows"] == 55
    assert CodesReader(repo, f"codes_{new.uuid[:8]}", new.uuid).fetch(keys) == rows


def test_server_that_is_down(make: Make, tmp_path: Path) -> None:
    repo = redis_repo(tmp_path, free_port())
    with pytest.raises(PublishError, match=r"cannot write codes .*ConnectionError"):
        publish(make(), tmp_path, repo)

"""Codes that are taken out of a feature repo leave nothing behind, and nothing of the others goes with them."""

from __future__ import annotations

import shutil
import sqlite3
import uuid
from pathlib import Path

import pytest
from feast import FeatureStore

from mec.bundle import open_bundle
from mec.config import PublishConfig
from mec.errors import PublishError
from mec.publish.embedded import embedded_repo
from mec.publish.locking import lock_path, publisher_lock
from mec.publish.publishing import publish_step
from mec.publish.reader import CodesReader
from mec.publish.retiring import find_published, retire
from mec.publish.store import open_store
from tests.publish.bundles import Made, Make

KEYS = ["item=100", "item=101", "city=a=b"]


def publish(made: Made, repo: Path, out: Path) -> None:
    some = {"vocabulary": made.vocabulary, "codebook": made.codebook, "codes": made.codes}
    publish_step(publish=PublishConfig(feature_repo=str(repo)), store=repo / "unused", **some, out=out)


def fetched(repo: Path, made: Made) -> list[object]:
    return list(CodesReader(repo, f"codes_{made.uuid[:8]}", made.uuid).fetch(KEYS))


def names(repo: Path) -> tuple[list[str], list[str], list[str], list[str]]:
    store = open_store(repo)
    found = (
        store.list_feature_views(),
        store.list_feature_services(),
        store.list_data_sources(),
        store.list_entities(),
    )
    views, services, sources, entities = (sorted(item.name for item in listed) for listed in found)
    return views, services, sources, entities


def sqlite_tables(repo: Path) -> set[str]:
    with sqlite3.connect(repo / "data" / "online.db") as connection:
        return {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}


def check_retired(repo: Path, old: Made, new: Made, out: Path) -> None:
    publish(old, repo, out)
    publish(new, repo, out)
    expected = fetched(repo, new)
    assert None not in expected
    assert find_published(repo, [old.uuid, new.uuid, str(uuid.UUID(int=0))]) == {old.uuid: 55, new.uuid: 55}
    for _ in range(2):  # the second time there is nothing left, as after an attempt that was cut off
        retire(repo, old.uuid)
        name = f"codes_{new.uuid[:8]}"
        assert names(repo) == ([name], [name], [name], ["value"])
        assert find_published(repo, [old.uuid, new.uuid]) == {new.uuid: 55}
    assert fetched(repo, new) == expected
    with pytest.raises(PublishError, match="has no feature service"):
        fetched(repo, old)


def test_sqlite(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, old, new = embedded_repo(tmp_path / "store"), make(), make(codebook=1, seed=1)
    check_retired(repo, old, new, tmp_path / "out")
    assert sqlite_tables(repo) == {f"mec_codes_{new.uuid[:8]}"}

    publish(old, repo, tmp_path / "out")  # in service again: whatever was deleted is written anew
    assert None not in fetched(repo, old)

    def cut_off(self: FeatureStore, objects: list[object], objects_to_delete: object = None, **_: object) -> None:
        if objects_to_delete is None:
            apply(self, objects)
            return
        self.delete_feature_view(f"codes_{old.uuid[:8]}")
        raise KeyboardInterrupt

    apply = FeatureStore.apply
    with monkeypatch.context() as patch:
        patch.setattr(FeatureStore, "apply", cut_off)
        with pytest.raises(KeyboardInterrupt):
            retire(repo, old.uuid)
    assert f"mec_codes_{old.uuid[:8]}" in sqlite_tables(repo)
    assert find_published(repo, [old.uuid]) == {}  # known to nobody, and still there
    retire(repo, old.uuid)
    assert sqlite_tables(repo) == {f"mec_codes_{new.uuid[:8]}"}


def test_redis(make: Make, tmp_path: Path, redis_port: int) -> None:
    import redis

    repo = tmp_path / "repo"
    repo.mkdir()
    (repo / "feature_store.yaml").write_text(
        "project: mec\nprovider: local\nregistry: {path: data/registry.db, cache_ttl_seconds: 0}\n"
        f"online_store: {{type: redis, connection_string: 'localhost:{redis_port}'}}\n"
        "entity_key_serialization_version: 3\n"
    )
    old, new = make(), make(codebook=1, seed=1)
    check_retired(repo, old, new, tmp_path / "out")
    with redis.Redis(port=redis_port) as client:
        held = {field for key in client.scan_iter() for field in client.hgetall(key)}
    assert {field for field in held if field.startswith(b"_ts:")} == {f"_ts:codes_{new.uuid[:8]}".encode()}
    assert len(held) == 2  # one value, one time


def test_not_while_codes_are_published(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mec.publish.locking.LOCK_WAIT_S", 0.0)
    repo, made = embedded_repo(tmp_path / "store"), make()
    publish(made, repo, tmp_path / "out")
    with publisher_lock(lock_path(open_store(repo).config)), pytest.raises(PublishError, match="another publisher"):
        retire(repo, made.uuid)
    assert find_published(repo, [made.uuid]) == {made.uuid: 55}


def test_another_codebook_whose_uuid_begins_alike_stays(make: Make, tmp_path: Path) -> None:
    repo, made = embedded_repo(tmp_path / "store"), make()
    publish(made, repo, tmp_path / "out")
    alike = made.uuid[:8] + str(uuid.UUID(int=0))[8:]
    assert find_published(repo, [alike]) == {}
    retire(repo, alike)
    assert None not in fetched(repo, made)
    shutil.rmtree(repo)
    with pytest.raises(PublishError, match=r"no feature_store.yaml"):
        retire(repo, open_bundle(made.codebook).uuid)

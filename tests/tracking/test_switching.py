"""A version is put in service though what is in service is damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from mec.bundle import open_bundle
from mec.cli import main
from mec.config import PublishConfig, TrackingConfig
from mec.data.vocabulary import Vocabularies
from mec.errors import BundleError
from mec.publish.definitions import read_published
from mec.publish.publishing import publish_step
from mec.publish.reader import CodesReader
from mec.publish.store import open_store
from mec.quantize import packing
from mec.tracking.kept import bundle_tags, keep_bundles
from mec.tracking.registry import ModelRegistry
from mec.tracking.runs import open_run
from mec.tracking.switching import promote, rollback
from tests.publish.bundles import BITS, make_codebook, make_codes, make_vocabulary

TRACKING = TrackingConfig()


@pytest.fixture
def kept(store: Path) -> Path:
    """Two generations of 30 and 40 items, the second in service and online, its kept codes damaged; their folder."""
    folder, repo = store.parent / "made", store / "feast"
    codebook = make_codebook(folder / "codebook")
    with open_run(TRACKING, store=store, run_name="shop", run_id="run-1") as run:
        registry = ModelRegistry(run, "shop")
        for generation, num_items in enumerate((30, 40)):
            at = folder / str(generation)
            vocabulary = make_vocabulary(at / "vocabulary", num_items)
            make_codes(at / "codes", vocabulary, codebook, seed=generation, generation=generation)
            some = {"vocabulary": vocabulary, "codebook": codebook, "codes": at / "codes"}
            publish_step(publish=PublishConfig(writer="bulk"), store=store, **some, out=at / "publication")
            bundles = {role: open_bundle(path, role) for role, path in some.items()}
            tags = bundle_tags(bundles, keep_bundles(bundles, store))
            tags |= {"feature_repo": str(repo), "codes_generation": str(generation)}
            uri = run.client.get_run(run.run_id).info.artifact_uri
            number = str(run.client.create_model_version("shop", uri, run.run_id, tags=tags).version)
            registry.promote(registry.version(number), over=registry.champion())
    (store / "bundles" / f"codes-{bundles['codes'].uuid}" / "codes.safetensors").write_text("rots")
    return folder


def online(store: Path, kept: Path) -> dict[str, object]:
    """Item -> packed codes, of all items of the second generation."""
    keys = list(rows_of(kept, 1))
    codebook = open_bundle(kept / "codebook").uuid
    return dict(zip(keys, CodesReader(store / "feast", f"codes_{codebook[:8]}", codebook).fetch(keys), strict=True))


def rows_of(kept: Path, generation: int) -> dict[str, object]:
    """Item -> packed codes, as they were made."""
    vocabulary = kept / str(generation) / "vocabulary"
    codes = make_codes(kept / f"again-{generation}", vocabulary, kept / "codebook", seed=generation)["item"]
    keys = Vocabularies.open(vocabulary).keys("item").to_pylist()
    return dict(zip(keys, map(bytes, packing.row_bytes(codes, BITS)), strict=True))


def test_a_damaged_version_in_service_is_left_with_a_full_write(kept: Path, store: Path) -> None:
    with pytest.raises(BundleError, match=r"codes bundle .* of shop version 2 is gone or damaged.*; fix: .* --full"):
        rollback("shop", None, tracking=TRACKING, store=store)
    before, after = rows_of(kept, 0), rows_of(kept, 1)
    assert (len(before), len(after), online(store, kept) == after) == (30, 40, True)
    done = rollback("shop", None, tracking=TRACKING, store=store, full=True)
    assert (done.version, done.replaced, done.written_rows) == ("1", "2", 35)
    assert online(store, kept) == after | before  # values of the damaged version keep their codes
    published = read_published(open_store(store / "feast"), open_bundle(kept / "codebook").uuid)
    assert published is not None
    assert (published.generation, published.state) == (0, "complete")
    assert rollback("shop", "v1", tracking=TRACKING, store=store).written_rows == 0

    with pytest.raises(BundleError, match="version 2 is gone or damaged") as caught:  # nothing helps without its codes
        promote("shop", "v2", tracking=TRACKING, store=store, full=True)
    assert "--full" not in str(caught.value)


def test_the_command(kept: Path, store: Path) -> None:
    arguments = ["rollback", "shop", "--store", str(store)]
    refused = CliRunner().invoke(main, arguments)
    assert (refused.exit_code, "--full" in refused.stderr) == (2, True)
    done = CliRunner().invoke(main, [*arguments, "--full"])
    assert "shop v1 (generation 0) is in service, in place of v2; 35 rows written" in done.stdout, done.output

"""Fixtures of the publish tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from mec.bundle import open_bundle
from tests.publish.bundles import Made, Make, make_codebook, make_codes, make_vocabulary


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Make the three bundles; other ``seed``: other codes; other ``codebook``: another codebook."""

    def build(num_items: int = 50, *, seed: int = 0, generation: int = 0, codebook: int = 0) -> Made:
        root = tmp_path / f"bundles-{num_items}-{seed}-{generation}-{codebook}"
        vocabulary = make_vocabulary(root / "vocabulary", num_items)
        book = make_codebook(root / "codebook", codebook)
        expected = make_codes(root / "codes", vocabulary, book, seed=seed, generation=generation)
        return Made(vocabulary, book, root / "codes", expected, open_bundle(book).uuid)

    return build

"""What the Kubeflow UI shows of artifacts: a name, and for bundles where they come from.

Artifacts are Kubeflow's objects, with ``path`` and ``metadata``; Kubeflow itself is not imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mec.bundle import open_bundle


def paths(**artifacts: Any) -> dict[str, Path]:
    """Where artifacts are, by the names given."""
    return {name: Path(artifact.path) for name, artifact in artifacts.items()}


def label(*artifacts: Any) -> None:
    """Put a bundle's name, uuid, parents' uuids and versions into the metadata of the artifact that holds it.

    Args:
        artifacts: Artifacts whose ``path`` is a complete bundle.

    Raises:
        BundleError: One is none.
    """
    for artifact in artifacts:
        manifest = open_bundle(artifact.path, verify=False).manifest  # the step that just ended wrote it
        facts = {"display_name": manifest.kind.replace("_", " ").capitalize(), "uuid": manifest.uuid}
        facts |= {f"parent_{role}": uuid for role, uuid in manifest.parents.items()}
        facts |= {"data_version": manifest.data_version, "mec_version": manifest.mec_version}
        artifact.metadata.update(facts | {"code_hash": manifest.code_hash, "config_hash": manifest.config_hash})


def show(**views: tuple[Any, str]) -> None:
    """Write what the UI draws, under the names given: ``Report=(artifact, text)``."""
    for name, (view, text) in views.items():
        view.metadata["display_name"] = name
        Path(view.path).write_text(text, encoding="utf-8")

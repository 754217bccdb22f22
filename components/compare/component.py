"""Compare the backbones of a run on the same test rows, and show it in the Kubeflow UI."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def compare(
    name: str,
    seed: int,
    store: str,
    tracking: str,
    run_id: str,
    models: dsl.Input[list[dsl.Model]],
    references: dsl.Input[list[dsl.Model]],
    evaluations: dsl.Input[list[dsl.Artifact]],
    registrations: dsl.Input[list[dsl.Artifact]],
    comparison: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    from pathlib import Path
    from typing import Any

    from mec.artifacts import label, show
    from mec.comparison import compare_step
    from mec.config import TrackingConfig, section

    roles = {"models": models, "references": references, "evaluations": evaluations, "registrations": registrations}
    given: dict[str, Any] = {role: [Path(bundle.path) for bundle in bundles] for role, bundles in roles.items()}
    given |= {"name": name, "seed": seed, "store": Path(store), "run_id": run_id}
    compare_step(tracking=section(TrackingConfig, tracking), **given, out=Path(comparison.path))
    out = Path(comparison.path)
    show(Report=(report, (out / "comparison.html").read_text("utf-8")))
    show(Summary=(summary, (out / "comparison.md").read_text("utf-8")))
    label(comparison)

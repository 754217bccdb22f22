"""Measure the compressed model on the test rows, and show it in the Kubeflow UI."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def evaluate(
    evaluate: str,
    seed: int,
    code_hash: str,
    dataset: dsl.Input[dsl.Dataset],
    vocabulary: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    codebook: dsl.Input[dsl.Model],
    codes: dsl.Input[dsl.Artifact],
    reference: dsl.Input[dsl.Model],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    roc: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    import json
    from pathlib import Path

    from mec.artifacts import label, show
    from mec.config import EvaluateConfig, section
    from mec.evaluation import evaluating

    roles = {"dataset": dataset, "vocabulary": vocabulary, "model": model, "codebook": codebook, "codes": codes}
    bundles = {role: Path(bundle.path) for role, bundle in (roles | {"reference": reference}).items()}
    out = Path(evaluation.path)
    evaluating.evaluate_step(evaluate=section(EvaluateConfig, evaluate), seed=seed, **bundles, out=out)
    result, page = json.loads((out / "evaluation.json").read_bytes()), (out / "report.html").read_text("utf-8")
    metrics.metadata.update(evaluating.kfp_metrics(result))
    roc.log_roc_curve(*evaluating.kfp_roc(result))
    show(Metrics=(metrics, json.dumps(metrics.metadata)), ROC=(roc, json.dumps(roc.metadata)))
    show(Report=(report, page), Summary=(summary, evaluating.markdown_summary(result)))
    label(evaluation)

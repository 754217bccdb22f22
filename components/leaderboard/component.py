"""Put the cells of a bake-off together, and show the leaderboard in the Kubeflow UI."""

from kfp import dsl


@dsl.component(base_image="mec-python", packages_to_install=[], install_kfp_package=False)
def leaderboard(
    name: str,
    store: str,
    tracking: str,
    run_id: str,
    cells: dsl.Input[list[dsl.Artifact]],
    leaderboard: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    summary: dsl.Output[dsl.Markdown],
) -> None:
    from pathlib import Path

    from mec.artifacts import label, show
    from mec.bakeoff.leaderboard_step import leaderboard_step
    from mec.config import TrackingConfig, section

    leaderboard_step(
        tracking=section(TrackingConfig, tracking),
        name=name,
        store=Path(store),
        cells=[Path(cell.path) for cell in cells],
        run_id=run_id,
        out=Path(leaderboard.path),
    )
    out = Path(leaderboard.path)
    show(Report=(report, (out / "leaderboard.html").read_text("utf-8")))
    show(Summary=(summary, (out / "leaderboard.md").read_text("utf-8")))
    label(leaderboard)

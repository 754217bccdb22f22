"""Tables on the compression itself: codewords in use, what is kept of popular and rare values, why bytes went where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mec.evaluation import formatting as fmt
from mec.evaluation.coverage import WAYS
from mec.evaluation.slices import POPULARITY
from mec.evaluation.table import ABSENT, Row, Summary, Table
from mec.quantize.allocation_report import plan_text
from mec.quantize.plan import VocabularyPlan
from mec.quantize.reliability import LEAST

_MOST_READ = 4  # vocabularies whose neighbours are listed
_LISTED = 3  # values of each
_MOST_RANGES = 8  # vocabularies whose popularity ranges are listed


def codewords_table(summary: Summary) -> Table | None:
    """Live codewords and perplexity of every codebook."""
    vocabularies = _coded(summary)
    if not vocabularies:
        return None
    rows = []
    for name, facts in vocabularies.items():
        num_codewords, perplexity = facts["num_codewords"], facts["perplexity"]
        least = min(perplexity) / num_codewords
        shape = f"{facts['structure']}\N{NO-BREAK SPACE}{len(perplexity)}x{num_codewords}"
        live = ", ".join(fmt.count(num) for num in facts["live_codewords"])
        used = ", ".join(f"{value:.1f}" for value in perplexity)
        rows.append(Row([name, shape, live, used, fmt.percent(least), fmt.percent(facts["explained_variance"])]))
    note = (
        "One number per codebook, in order. A codeword is live if a value has it for its code. Perplexity is exp of "
        "the entropy of a code over values: a codebook whose K codewords are used evenly has K. Variance explained is "
        "weighted as the codebook was fitted."
    )
    heads = ["vocabulary", "codes", "live codewords", "perplexity", "least perplexity / K", "variance explained"]
    return Table("Codebook usage", heads, rows, note, text_columns=4)


def distortion_table(summary: Summary) -> Table | None:
    """Variance explained by popularity slice."""
    rows = []
    for name, facts in _coded(summary).items():
        slices = facts.get("slices", {})
        total = {key: sum(part[key] for part in slices.values()) for key in ("values", "impressions", "distortion")}
        present = [slice_name for slice_name in reversed(POPULARITY) if slice_name in slices]
        for place, slice_name in enumerate(present):
            part = slices[slice_name]
            explained = part["explained_variance"]
            cells = [name if place == 0 else "", slice_name]
            cells += [fmt.count(part["values"]), _share(part["impressions"], total["impressions"])]
            cells += [ABSENT if explained is None else _percent(explained)]
            cells += [_share(part["distortion"], total["distortion"])]
            rows.append(Row(cells, "first" if place == 0 else ""))
    if not rows:
        return None
    note = (
        "Head, torso and tail as in the popularity slices; unseen holds the unknown values' row. Variance is counted "
        "from the weighted mean of the whole vocabulary, so a slice far from it explains more, and one that is coded "
        "worse than by that mean has less than nothing. The last column says where the remaining error lies."
    )
    heads = ["vocabulary", "slice", "values", "training impressions", "variance explained", "share of distortion"]
    return Table("Distortion by popularity", heads, rows, note, text_columns=2)


def coverage_table(summary: Summary) -> Table | None:
    """Share of values and of training impressions by the way they are stored."""
    found = _compression(summary).get("coverage")
    if not found:
        return None
    coded = [row for row in found if not row["values"]["exact"]]
    exact = [row for row in found if row["values"]["exact"]]
    lines = [(str(row["vocabulary"]), [row]) for row in coded]
    if exact:
        lines.append((f"{fmt.count(len(exact))} exact" if len(exact) > 1 else str(exact[0]["vocabulary"]), exact))
    rows = []
    for name, members in lines:
        rows += _coverage_rows(name, members)
    if len(lines) > 1:
        rows += _coverage_rows("all", found, "total")
    note = (
        "An impression is one value in one training row. Exact head rows, own codes and the tail's shared code "
        "divide a coded vocabulary; an exact one has a row for each value. Unknown values read the shared code "
        "where there is a tail, else a code of their own."
    )
    heads = ["vocabulary", "of its", "number", *WAYS.values(), "unknown"]
    return Table("How values are stored", heads, rows, note, text_columns=2)


def budget_table(summary: Summary) -> Table | None:
    """What a byte budget gave to whom, and why not more."""
    allocation = _compression(summary).get("allocation")
    if not allocation:
        return None
    budget = allocation["budget_bytes"]
    given = sorted(allocation["vocabularies"].items(), key=lambda item: -sum(item[1]["bytes"].values()))
    rows = []
    for name, share in given:
        size = sum(share["bytes"].values())
        cells = [str(name), _plan(share["plan"], share["size"]), *_next_plan(share, allocation["distortion"])]
        rows.append(
            Row([*cells, fmt.human_bytes(size), fmt.percent(size / budget), fmt.percent(share["distortion_share"])])
        )
    used = allocation["used_bytes"]
    all_cells = ["all", "", "", ABSENT, ABSENT, fmt.human_bytes(used), fmt.percent(used / budget), fmt.percent(1.0)]
    rows.append(Row(all_cells, "total"))
    note = (
        f"The budget of {fmt.human_bytes(budget)} ({allocation['budget']}) goes, step by step, where the next byte "
        "takes away most distortion (weighted squared error, as measured on a sample of each vocabulary). The plan not "
        "taken is the larger one that gains most per byte: other vocabularies gained more per byte than it would have, "
        "or it took more bytes than were left. Shares of distortion are of what is left in all vocabularies."
    )
    heads = ["vocabulary", "given", "larger, not taken", "extra bytes", "distortion", "bytes", "of the budget"]
    return Table("Where the budget went", [*heads, "distortion left"], rows, note, text_columns=3)


def reliability_table(summary: Summary) -> Table | None:
    """How far the vectors of values as popular are signal; only where folds were compared."""
    found = _compression(summary).get("reliability")
    if not found:
        return None
    largest = sorted(found, key=lambda name: (-sum(part["values"] for part in found[name]), name))
    rows = []
    for name in largest[:_MOST_RANGES]:
        for place, part in enumerate(reversed(found[name])):
            cells = [name if place == 0 else "", fmt.count(part["count_from"]), fmt.count(part["values"])]
            rows.append(Row([*cells, _percent(part["reliability"])], "first" if place == 0 else ""))
    note = (
        "Reliability is the signal's share of the variance of vectors trained on all rows, from how far the models "
        "of different folds agree on values about as popular; values that never occur are in no range. A value's "
        "squared error counts its weight by popularity times its reliability, so bytes go last to values whose vectors "
        f"are memory of their few rows. {fmt.percent(LEAST)} is the least, also where folds do not agree at all."
    )
    if len(largest) > _MOST_RANGES:
        note += f" {fmt.count(len(largest) - _MOST_RANGES)} smaller vocabularies are not listed."
    heads = ["vocabulary", "training rows, from", "values", "reliability"]
    return Table("How far vectors can be trusted", heads, rows, note)


def overlap_table(summary: Summary) -> Table | None:
    """How many of the nearest neighbours are kept."""
    rows, nearest = [], set()
    for name, facts in _coded(summary).items():
        found = facts.get("neighbours")
        if not found:
            continue
        nearest.add(found["nearest"])
        cells = [name, fmt.count(found["sample"]), fmt.percent(found["overlap"]), fmt.percent(found["chance"])]
        parts = found["by_slice"]
        cells += [
            fmt.percent(parts[part]["overlap"]) if part in parts else ABSENT for part in ("head", "torso", "tail")
        ]
        rows.append(Row([*cells, f"{found['same_vector']:,.1f}"]))
    if not rows:
        return None
    title = f"overlap@{'/'.join(str(num) for num in sorted(nearest))}"
    note = (
        "Of a value's nearest neighbours by cosine of the pre-trained vectors, the share that is nearest by decoded "
        "vectors too, among the sampled values. Values with one code have one vector and are equally near: such ties "
        "are broken at random, so the last column (other sampled values with a value's decoded vector, mean) is what "
        "keeps short codes from a high overlap. First-order weights are part of the variance, but not of the cosines."
    )
    heads = ["vocabulary", "sampled values", title, "by chance", "head", "torso", "tail", "same vector"]
    return Table("Neighbours kept", heads, rows, note)


def neighbours_table(summary: Summary) -> Table | None:
    """The neighbours of popular values, by name."""
    rows = []
    listed = [(name, facts["neighbours"]) for name, facts in _coded(summary).items() if facts.get("neighbours")]
    for name, found in listed[:_MOST_READ]:
        for place, shown in enumerate(found["shown"][:_LISTED]):
            more = f" and {fmt.count(shown['as_near'])} more as near" if shown["as_near"] else ""
            cells = [name if place == 0 else "", str(shown["value"]), _named(shown["before"])]
            cells += [_named(shown["after"]) + more, fmt.count(shown["count"]), fmt.percent(shown["overlap"])]
            rows.append(Row(cells, "first" if place == 0 else ""))
    if not rows:
        return None
    rest = len(listed) - _MOST_READ
    note = "The most popular values, and their nearest by cosine. Of equally near values the most popular are named."
    if rest > 0:
        note += f" {fmt.count(rest)} smaller vocabularies are not listed."
    heads = ["vocabulary", "value", "nearest as pre-trained", "nearest as decoded", "training rows", "overlap"]
    return Table("Nearest values", heads, rows, note, text_columns=4)


def folds_table(summary: Summary) -> Table | None:
    """Out-of-fold pre-training: each model's quality and its agreement with the space."""
    folds = _compression(summary).get("folds")
    if not folds or not folds["num"]:
        return None
    rows = []
    for fold, fact in enumerate(folds["fits"]):
        alignment = fact["alignment"]["overall"]
        cells = [f"without fold {fold}", fmt.metric(fact["fit"]["best_auc"]), f"{fact['fit']['best_epoch']:g}"]
        rows.append(Row([*cells, _percent(alignment["explained_before"]), _percent(alignment["explained_after"])]))
    note = (
        f"{folds['num']} more models were pre-trained, each without one fold of the training rows, and rotated into "
        "the space. The backbone is trained on the codes of their vectors, which have not seen the row's label."
    )
    heads = ["pre-trained", "validation AUC", "epochs", "agreement before rotation", "after"]
    return Table("Out-of-fold pre-training", heads, rows, note)


def _compression(summary: Summary) -> Mapping[str, Any]:
    found: Mapping[str, Any] = summary.get("compression_diagnostics", {})
    return found


def _coded(summary: Summary) -> dict[str, Mapping[str, Any]]:
    """Coded vocabularies, the largest first."""
    found = _compression(summary).get("vocabularies", {})
    return dict(sorted(found.items(), key=lambda item: (-item[1]["size"], item[0])))


def _coverage_rows(name: str, members: list[Mapping[str, Any]], css: str = "first") -> list[Row]:
    rows = []
    for place, (what, text) in enumerate((("values", "values"), ("impressions", "training impressions"))):
        parts = {way: sum(row[what][way] for row in members) for way in WAYS}
        total = sum(parts.values())
        unknown = _share(sum(row["unknown"] for row in members), total) if what == "impressions" else ABSENT
        shares = [_share(part, total) if part else ABSENT for part in parts.values()]
        rows.append(
            Row([name if place == 0 else "", text, fmt.count(total), *shares, unknown], css if place == 0 else "")
        )
    return rows


def _named(neighbours: list[list[Any]]) -> str:
    return ", ".join(
        f"{name}\N{NO-BREAK SPACE}({fmt.MINUS if cosine < 0 else ''}{abs(cosine):.2f})" for name, cosine in neighbours
    )


def _plan(plan: Mapping[str, Any] | None, size: int) -> str:
    return plan_text(None if plan is None else VocabularyPlan(**plan), size)


def _next_plan(share: Mapping[str, Any], distortion: float) -> list[str]:
    """The larger plan that was not taken, what it adds in bytes, and what it takes off the distortion."""
    above = share["above"]
    if above is None:
        return ["none distorts less", ABSENT, ABSENT]
    gained = (share["distortion"] - above["distortion"]) / distortion if distortion > 0 else 0.0
    added = above["bytes"] - sum(share["bytes"].values())
    return [_plan(above["plan"], share["size"]), f"+{fmt.human_bytes(added)}", fmt.MINUS + fmt.percent(gained)]


def _share(part: float, total: float) -> str:
    return fmt.percent(part / total) if total else ABSENT


def _percent(share: float) -> str:
    return fmt.percent(share).replace("-", fmt.MINUS)

"""Made-up diagnostics of a compression: two coded vocabularies and two exact ones, under a budget."""

from __future__ import annotations

from typing import Any


def make_diagnostics(names: tuple[str, str] = ("item", "user")) -> dict[str, Any]:
    """What ``evaluation.json`` holds under ``compression_diagnostics``."""
    plan = {"structure": "product", "num_codes": 2, "num_codewords": 64, "head": 30, "tail_start": 600}
    larger = plan | {"num_codes": 3, "head": 0}
    shares = {
        names[0]: _share(800, plan, [2000, 1000, 500], 20.0, {"plan": larger, "bytes": 4524, "distortion": 17.5}),
        names[1]: _share(900, plan | {"head": 0, "tail_start": 900}, [900, 90, 0], 30.0, None),
        "colour": _share(5, None, [0, 0, 10], 0.0, None),
        "size": _share(4, None, [0, 0, 8], 0.0, None),
    }
    vocabularies = {names[0]: _coded(800, [64, 61], [50.25, 12.8]), names[1]: _coded(900, [64, 64], [60.0, 59.0])}
    return {
        "vocabularies": vocabularies,
        "coverage": [
            _covered(names[1], {"head": 0, "coded": 900, "tail": 0, "exact": 0}, 4),
            _covered(names[0], {"head": 30, "coded": 570, "tail": 200, "exact": 0}, 50),
            _covered("colour", {"head": 0, "coded": 0, "tail": 0, "exact": 5}, 0),
            _covered("size", {"head": 0, "coded": 0, "tail": 0, "exact": 4}, 0),
        ],
        "allocation": {
            "budget": "5%",
            "full_bytes": 90_160,
            "budget_bytes": 4508,
            "used_bytes": 4508,
            "parts": {"codes": 2900, "codebooks": 1090, "rows": 518},
            "distortion": 50.0,
            "vocabularies": shares,
        },
        "reliability": {
            names[0]: [{"count_from": 4, "values": 300, "reliability": 0.625}],
            names[1]: [
                {"count_from": 1, "values": 499, "reliability": 0.01},
                {"count_from": 16, "values": 400, "reliability": 1.0},
            ],
        },
        "folds": {
            "num": 2,
            "seed": 0,
            "fits": [
                {
                    "fit": {"best_auc": 0.7 + fold / 100, "best_epoch": 2.5},
                    "alignment": {"overall": {"explained_before": -0.25, "explained_after": 0.375}},
                }
                for fold in range(2)
            ],
        },
    }


def _share(size: int, plan: Any, sizes: list[int], distortion: float, above: Any) -> dict[str, Any]:
    return {
        "size": size,
        "plan": plan,
        "bytes": dict(zip(("codes", "codebooks", "rows"), sizes, strict=True)),
        "distortion": distortion,
        "distortion_share": distortion / 50,
        "above": above,
        "reason": "",
    }


def _coded(size: int, live: list[int], perplexity: list[float]) -> dict[str, Any]:
    names = ("head", "tail", "torso", "unseen")  # as JSON sorts them
    kept = dict(zip(names, (0.9, 0.25, 0.5, None), strict=True))
    slices = {
        name: {
            "values": place + 1,
            "impressions": 100 * place,
            "distortion": 0.0 if kept[name] is None else 8 * (1 - kept[name]),
            "variance": 0.0 if kept[name] is None else 8.0,
            "explained_variance": kept[name],
        }
        for place, name in enumerate(names)
    }
    shown = {
        "value": "<Cafe>",
        "count": 4321,
        "overlap": 0.35,
        "before": [["Bar", 0.876], ["Zoo", -0.125]],
        "after": [["Inn", 1.0]],
        "as_near": 1234,
    }
    return {
        "size": size,
        "structure": "product",
        "num_codewords": 64,
        "live_codewords": live,
        "perplexity": perplexity,
        "explained_variance": 0.625,
        "slices": slices,
        "neighbours": {
            "sample": 700,
            "nearest": 10,
            "queries": 256,
            "overlap": 0.123,
            "chance": 0.0143,
            "same_vector": 21.26,
            "by_slice": {"head": {"queries": 9, "overlap": 0.45}},
            "shown": [shown],
        },
    }


def _covered(name: str, values: dict[str, int], unknown: int) -> dict[str, Any]:
    impressions = {way: 10 * num for way, num in values.items()}
    return {"vocabulary": name, "unknown": unknown, "values": values, "impressions": impressions}

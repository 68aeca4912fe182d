"""What memory buys on one H200: the planned frontier of a training step, and the runs that were measured on it.

    python benchmarks/frontier.py     # -> docs/frontier-h200.svg, anywhere

48 Evoformer blocks at (512, 384), bf16, dropout, CUDA graphs. Measured: benchmarks/results/side_by_side_h200.json and ranks_h200.json.
Peers: OpenFold3 in the same run, and benchmarks/results/peers_h200.json, on another H200.
"""

import json
from pathlib import Path
from typing import Any

from foldfit.cost.devices import find_device
from foldfit.planner.api import frontier
from foldfit.plans import write_text
from foldfit.problem import Problem, Stack
from foldfit.report.curves import plain_ticks
from foldfit.report.draw import BLUE, GREY, ORANGE, alone, drawn

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def planned() -> list[tuple[int, float, float]]:
    """(bytes, seconds, bound)"""
    card = find_device("H200")
    problem = Problem(
        stacks=(Stack("evoformer", 48, 512),), n_res=384, mode="train", precision="bf16", parameters="bf16", dropout=True,
        memory=card.memory - card.reserved, device=card.name, device_type="cuda", launch="graph",
    )  # fmt: skip
    return frontier(problem, card, points=40).points


def measured() -> list[tuple[float, float]]:
    """(GB, seconds)"""
    of = [(r["peak"] / 1e9, r["ms"] / 1e3) for r in steps() if r["who"] == "foldfit"]
    more = json.loads((RESULTS / "ranks_h200.json").read_text())["rows"]
    here = {"mode": "train", "precision": "bf16", "n_seq": 512, "n_res": 384, "policy": "auto", "launch": "graph", "ranks": 1}
    return of + [(r["peak"] / 1e9, r["seconds"]) for r in more if here.items() <= r.items()]


def steps() -> list[dict]:
    """Those that ran."""
    rows = json.loads((RESULTS / "side_by_side_h200.json").read_text())["rows"]
    return [r for r in rows if r["what"] in ("step", "frontier") and (r["n_seq"], r["n_res"]) == (512, 384) and "ms" in r]


def peers() -> dict[str, tuple[float, float]]:
    """Who: (GB, seconds)."""
    rows = json.loads((RESULTS / "peers_h200.json").read_text())["rows"]
    (beside,) = (r for r in steps() if r["who"] == "OpenFold")
    found = {"OpenFold3 in the same run": beside}
    found |= {f"{r['who']}, another H200": r for r in rows if (r["n_seq"], r["n_res"]) == (512, 384)}
    return {who: (r["peak"] / 1e9, r["ms"] / 1e3) for who, r in found.items()}


def draw(axes: Any) -> None:
    curve = planned()
    limits = [b / 1e9 for b, _, _ in curve]
    axes.step(limits, [s for _, s, _ in curve], where="post", color=BLUE, label="planned, costs measured")
    axes.step(limits, [low for _, _, low in curve], where="pre", color=GREY, linestyle=":", label="certificate: no plan is below")
    axes.plot(*zip(*measured(), strict=True), "x", color="black", markersize=8, label="measured")
    for marker, (who, at) in zip("oPXd", peers().items(), strict=True):
        axes.plot(*at, marker, color=ORANGE, markersize=8, linestyle="none", label=who)
    axes.set(xlabel="memory, GB", ylabel="seconds a step", xscale="log", yscale="log", ylim=(0.6, 6))
    plain_ticks(axes)
    axes.legend(frameon=False)


if __name__ == "__main__":
    write_text(ROOT / "docs" / "frontier-h200.svg", alone(drawn(draw, (8, 3.6))))

"""The picture of memory over time: what was promised, what was measured, and the limit."""

import os
from pathlib import Path
from typing import Any

from foldfit.errors import MissingEnvironment
from foldfit.plans import Plan, replacing
from foldfit.units import format_bytes

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"
"""Okabe and Ito's colours, safe for colour-blind readers."""


def memory_picture(plan: Plan, measured: dict[str, Any], path: "str | os.PathLike[str]") -> None:
    """Writes an SVG or PNG, by the name's ending. `measured`: a Measured, as builtins. Raises MissingEnvironment without
    matplotlib, BadInput where the file cannot be written."""
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot as plt
    except ImportError:
        raise MissingEnvironment("pictures need matplotlib: pip install foldfit[viz]") from None
    peaks = [step["peak_bytes"] / 2**20 for step in measured["steps"]]
    promised = plan.promised.peak_bytes / 2**20
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    axes.fill_between(range(len(peaks)), peaks, step="mid", color=BLUE, alpha=0.25, linewidth=0)
    axes.step(
        range(len(peaks)), peaks, where="mid", color=BLUE, linewidth=1, label=f"measured, peak {format_bytes(measured['peak_bytes'])}"
    )
    axes.axhline(promised, color=ORANGE, linestyle="--", linewidth=1.2, label=f"promised, {format_bytes(plan.promised.peak_bytes)}")
    axes.axhline(plan.problem.memory / 2**20, color=GREY, linewidth=1.2, label=f"limit, {format_bytes(plan.problem.memory)}")
    turn = next((i for i, step in enumerate(measured["steps"]) if step["step"].startswith("backward")), None)
    if turn is not None:
        axes.axvline(turn - 0.5, color=GREY, linewidth=0.8, linestyle=":")
        axes.annotate("backward begins", (turn, 0), xytext=(4, 4), textcoords="offset points", fontsize=8, color=GREY)
    axes.set(xlabel="sub-modules run, in order", ylabel="MiB", ylim=(0, 1.12 * max(promised, *peaks, 1)), xlim=(0, max(1, len(peaks) - 1)))
    if plan.problem.memory / 2**20 <= axes.get_ylim()[1]:
        axes.set_ylim(0, 1.12 * plan.problem.memory / 2**20)
    stacks = " + ".join(f"{s.blocks} x {s.name}" for s in plan.problem.stacks)
    axes.set_title(
        f"{stacks}, {plan.problem.n_res} residues, {plan.problem.mode}, {plan.problem.precision}, policy {plan.policy}", fontsize=10
    )
    axes.legend(loc="lower right", fontsize=8, framealpha=0.9)
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, format=Path(path).suffix[1:] or "svg", dpi=120)
    finally:
        plt.close(figure)

"""The pictures of a report, as SVG text. Colours are Okabe and Ito's, safe for colour-blind readers."""

import io
from collections.abc import Callable
from typing import Any

from foldfit.errors import MissingEnvironment
from foldfit.report.run import Run

BLUE, SKY, ORANGE, GREEN, GREY = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#555555"
MIB = 2**20


def drawn(draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    """The SVG element of what `draw` puts on the axes. Raises MissingEnvironment without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot as plt
    except ImportError:
        raise MissingEnvironment("reports need matplotlib and jinja2: pip install foldfit[viz]") from None
    with plt.rc_context({"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "foldfit"}):
        figure, axes = plt.subplots(figsize=size, layout="constrained")
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    svg = text.getvalue()
    return svg[svg.index("<svg") :]


def memory(run: Run) -> str:
    """Memory over time: what stays, what runs, promised and measured, and the limit."""

    def draw(axes: Any) -> None:
        x = range(len(run.peaks))
        resident = run.plan.resident.values()
        alive = [p.alive / MIB for p in run.peaks]
        axes.fill_between(
            x, 0, alive, step="mid", color=BLUE, alpha=0.45, linewidth=0, label="stays: parameters, state, what backward needs"
        )
        promised = [p.promised / MIB for p in run.peaks]
        axes.fill_between(x, alive, promised, step="mid", color=SKY, alpha=0.45, linewidth=0, label="while a sub-module runs, promised")
        if any(p.measured for p in run.peaks):
            axes.step(x, [p.measured / MIB for p in run.peaks], where="mid", color="black", linewidth=0.9, label="measured")
        axes.axhline(run.plan.promised.peak_bytes / MIB, color=ORANGE, linestyle="--", linewidth=1.2, label="promised peak")
        axes.axhline(run.plan.problem.memory / MIB, color=GREY, linewidth=1.2, label="limit")
        turn = next((i for i, p in enumerate(run.peaks) if p.step.startswith("backward")), None)
        if turn is not None:
            axes.axvline(turn - 0.5, color=GREY, linewidth=0.8, linestyle=":")
            axes.annotate("backward begins", (turn, 0), xytext=(4, 4), textcoords="offset points", color=GREY)
        top = max(run.plan.promised.peak_bytes, min(run.plan.problem.memory, 1.3 * run.plan.promised.peak_bytes), sum(resident))
        axes.set(xlabel="sub-modules run, in order", ylabel="MiB", xlim=(0, max(1, len(run.peaks) - 1)), ylim=(0, 1.25 * top / MIB))
        axes.legend(loc="upper left", ncols=3, frameon=False, fontsize=8)

    return drawn(draw, (9, 3.6))


def frontier(run: Run) -> str:
    """What a limit buys: seconds against memory, the bound, the policies, and this run."""

    def draw(axes: Any) -> None:
        limits = [b / 2**30 for b, _, _ in run.frontier]
        axes.step(limits, [s for _, s, _ in run.frontier], where="post", color=BLUE, label="auto")
        axes.step(limits, [low for _, _, low in run.frontier], where="post", color=GREY, linestyle=":", label="no plan is below")
        for marker, candidate in zip("sD^vPX*", [c for c in run.candidates if c.seconds is not None and c.policy != "auto"], strict=False):
            axes.plot(candidate.peak / 2**30, candidate.seconds, marker, color=GREEN, label=candidate.policy, markersize=7)
        promised, measured = run.plan.promised, run.measured
        axes.plot(promised.peak_bytes / 2**30, promised.seconds, "o", color=ORANGE, markersize=8, label="this plan, promised")
        axes.plot(measured["peak_bytes"] / 2**30, measured["seconds"], "x", color="black", markersize=8, label="this run, measured")
        axes.set(xlabel="memory, GiB", ylabel="seconds", xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("{x:g}")
        axes.tick_params(which="minor", labelsize=7)
        axes.legend(frameon=False, fontsize=8)

    return drawn(draw, (9, 3.6))


def schedule(run: Run) -> str:
    """The schedule: which block each step works on, in order."""

    def draw(axes: Any) -> None:
        colours = {"run": (SKY, "run, nothing kept"), "record": (BLUE, "record for backward"), "backward": (ORANGE, "backward")}
        steps = [s.split() for s in run.plan.schedule if s.split()[0] in colours]
        for verb, (colour, label) in colours.items():
            at = [(i, int(words[1])) for i, words in enumerate(steps) if words[0] == verb]
            if at:
                axes.scatter([i for i, _ in at], [b for _, b in at], marker="s", s=14, color=colour, label=label, linewidths=0)
        axes.set(xlabel="steps, in order", ylabel="block")
        axes.legend(frameon=False, fontsize=8)

    return drawn(draw, (9, 3.0))

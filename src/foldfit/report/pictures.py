"""The pictures of one run, as SVG text."""

from typing import Any

from foldfit.report.draw import BLUE, GREEN, GREY, ORANGE, PINK, SKY, YELLOW, drawn, shades, unit
from foldfit.report.run import BETWEEN_RANKS, FROM_HOST, TO_HOST, Peak, Run

COLUMNS = 300
"""Sub-modules that a picture of memory shows one by one; of more, the largest of each group."""
FIXED = {
    "parameters": "#444444", "parameter gradients": "#888888", "inputs, outputs, workspaces": "#BBBBBB", "state": GREEN,
    "block inputs kept": BLUE, "gradients of the state": YELLOW,
}  # fmt: skip
RUNNING = "while a sub-module runs"
LANES = {TO_HOST: GREEN, FROM_HOST: PINK, BETWEEN_RANKS: SKY}
PHASES = {"forward": BLUE, "recompute": YELLOW, "backward": ORANGE}


def memory(run: Run) -> str:
    """Memory over time, stacked by what it is; the promise, what was measured, the limit."""

    def draw(axes: Any) -> None:
        peaks = grouped(run.peaks)
        x = range(len(peaks))
        below = [0.0] * len(peaks)
        size, name = unit(run.plan.promised.peak_bytes)
        for part, colour in colours(run).items():
            above = [
                b + (p.parts.get(part, 0) if part != RUNNING else p.promised - sum(p.parts.values())) / size
                for b, p in zip(below, peaks, strict=True)
            ]
            if above != below:
                axes.fill_between(x, below, above, step="mid", color=colour, linewidth=0, label=part)
            below = above
        if any(p.measured for p in peaks):
            axes.step(x, [p.measured / size for p in peaks], where="mid", color="black", linewidth=0.9, label="measured")
        axes.axhline(run.plan.promised.peak_bytes / size, color=ORANGE, linestyle="--", linewidth=1.3, label="promised peak")
        limit, top = run.plan.problem.memory / size, run.plan.promised.peak_bytes / size
        if limit <= 1.5 * top:
            axes.axhline(limit, color="black", linestyle=":", linewidth=1.3, label="limit")
        turn = next((i for i, p in enumerate(peaks) if p.phase == "backward"), None)
        if turn is not None:
            axes.axvline(turn - 0.5, color=GREY, linewidth=0.8, linestyle=":")
            axes.annotate(
                "backward begins", (turn, 1), xycoords=("data", "axes fraction"), xytext=(4, -9), textcoords="offset points", color=GREY
            )
        axes.set(
            xlabel="sub-modules run, in order",
            ylabel=name,
            xlim=(0, max(1, len(peaks) - 1)),
            ylim=(0, 1.12 * max(top, limit if limit <= 1.5 * top else 0)),
        )
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)

    return drawn(draw, (10, 4.2))


def grouped(peaks: list[Peak]) -> list[Peak]:
    """At most COLUMNS, each the largest of its group."""
    width = -(-len(peaks) // COLUMNS)
    return [max(peaks[i : i + width], key=lambda p: (p.promised, p.measured)) for i in range(0, len(peaks), width)] if peaks else []


def colours(run: Run) -> dict[str, str]:
    """Of every part, from the ground up."""
    found = list(dict.fromkeys(part for p in run.peaks for part in p.parts))
    order = list(dict.fromkeys(p.sub_module for p in run.peaks))
    kept = sorted((part for part in found if part.startswith("kept by")), key=lambda part: order.index(part.removeprefix("kept by ")))
    versions = [part for part in found if part.startswith("versions of")]
    fixed = {part: colour for part, colour in FIXED.items() if part in found}
    return (
        fixed
        | dict(zip(versions, (PINK, "#882255", "#AA4499"), strict=False))
        | dict(zip(kept, shades(len(kept)), strict=True))
        | {RUNNING: SKY}
    )


def schedule(run: Run) -> str:
    """The schedule: which block each step works on, when, and what for; copies and collectives on lanes of their own below."""

    def draw(axes: Any) -> None:
        steps = run.by_step()
        for phase, colour in PHASES.items():
            of = [(begin, seconds, int(step.split()[1])) for step, phase_of, begin, seconds, *_ in steps if phase_of == phase]
            if of:
                axes.barh([b for *_, b in of], [s for _, s, _ in of], left=[b for b, *_ in of], height=0.9, color=colour, label=phase)
        tracks = [track for track, *_ in run.by_track()]
        thick = max(1.0, run.plan.problem.blocks / 20)
        for i, track in enumerate(tracks):  # below the blocks, a lane each
            of_track = [(t.begin, t.seconds) for t in run.transfers() if t.track == track]
            lane = -1.5 * thick * (i + 1)
            lanes, colour = [lane] * len(of_track), LANES[track]
            axes.barh(
                lanes, [s for _, s in of_track], left=[b for b, _ in of_track], height=thick, color=colour, edgecolor=colour,
                linewidth=0.6, label=track,
            )  # fmt: skip
        axes.set(xlabel=f"seconds, planned on {run.plan.costs} costs", ylabel="block")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick < run.plan.problem.blocks])
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)

    return drawn(draw, (10, 3.2))


def sub_modules(run: Run) -> str:
    """Promised against measured, sub-module by sub-module: peak, and seconds over all steps."""
    rows = run.by_sub_module()

    def draw(pair: Any) -> None:
        y = range(len(rows))
        size, name = unit(run.plan.promised.peak_bytes)
        for axes, planned, got, label in (
            (pair[0], [r[1] / size for r in rows], [r[2] / size for r in rows], f"peak, {name}"),
            (pair[1], [r[3] for r in rows], [r[4] for r in rows], f"seconds over all steps ({run.plan.costs})"),
        ):
            axes.barh(y, planned, color=SKY, height=0.7, label="promised")
            if any(got):
                axes.plot(got, y, "D", color="black", markersize=5, linestyle="none", label="measured")
            axes.set(xlabel=label, yticks=y, yticklabels=[r[0] for r in rows] if axes is pair[0] else [], ylim=(len(rows) - 0.5, -0.5))
        pair[0].legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2, frameon=False, fontsize=8)

    return drawn(draw, (10, 0.6 + 0.28 * max(4, len(rows))), columns=2)


def share(run: Run) -> list[tuple[str, int]]:
    """What the promised peak is made of."""
    peak = run.at_peak
    if peak is None:
        return []
    parts = [(part, peak.parts[part]) for part in colours(run) if peak.parts.get(part)]
    return [*parts, (f"while {peak.sub_module} runs", peak.promised - sum(peak.parts.values()))]

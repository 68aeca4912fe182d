"""The pictures that set a run among others: what memory buys, longer proteins, other policies, other runs."""

from collections.abc import Sequence
from math import log
from typing import Any

from foldfit.report.draw import BLUE, GREEN, GREY, ORANGE, PINK, SKY, YELLOW, drawn, unit
from foldfit.report.run import Run, Series

MARKERS = dict(zip(("none", "small", "large", "chunk", "auto"), "sD^vo", strict=True))
COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GREY)
NEAR, LETTER = 0.045, 0.0085
"""Of a picture's height, the least distance of two lines of small letters; of its width, such a letter."""
LINES = dict(zip(("none", "small", "large", "chunk", "auto"), (ORANGE, YELLOW, GREEN, PINK, BLUE), strict=True))


def frontier(run: Run) -> str:
    """What a limit buys: seconds against memory, the bound, the policies, and this run."""

    def draw(axes: Any) -> None:
        promised, measured = run.plan.promised, run.measured
        size, name = unit(promised.peak_bytes)
        limits = [b / size for b, _, _ in run.frontier]
        axes.step(limits, [s for _, s, _ in run.frontier], where="post", color=BLUE, label="auto at every limit")
        # Between two limits: the plan of the lower one, the bound of the higher one.
        axes.step(
            limits, [low for _, _, low in run.frontier], where="pre", color=GREY, linestyle=":", label="certificate: no plan is below"
        )
        for i, c in enumerate(c for c in run.candidates if c.policy != "auto"):
            axes.plot(
                c.peak / size, c.seconds, MARKERS.get(c.policy, "PX*"[i % 3]), color=LINES.get(c.policy, GREY), markersize=7,
                linestyle="none", fillstyle="full" if c.fits else "none", label=c.policy + ("" if c.fits else ", does not fit"),
            )  # fmt: skip
        axes.plot(
            promised.peak_bytes / size, promised.seconds, "o", color=BLUE, markersize=8, label="this plan, promised", linestyle="none"
        )
        x, y = measured["peak_bytes"] / size, measured["seconds"]
        axes.plot(x, y, "x", color="black", markersize=8, label="this run, measured", linestyle="none")
        for i, who in enumerate(dict.fromkeys(peer.policy for peer in run.peers)):
            of = [(peer.peak / size, peer.seconds) for peer in run.peers if peer.policy == who]
            axes.plot(*zip(*of, strict=True), "P*Xdh"[i % 5], color=GREY, markersize=8, label=f"{who}, measured", linestyle="none")
        if run.plan.problem.memory < 4 * promised.peak_bytes:
            axes.axvline(run.plan.problem.memory / size, color="black", linestyle=":", linewidth=1, label="limit")
        axes.set(xlabel=f"memory, {name}", ylabel="seconds", xscale="log", yscale="log")
        plain_ticks(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)

    return drawn(draw, (10, 3.6))


def lengths(run: Run) -> str:
    """Peak against n_res for every policy, with the limit and the cards'."""

    def draw(axes: Any) -> None:
        largest = max(need for row in run.needs.values() for need in row.values())
        size, name = unit(run.plan.promised.peak_bytes)
        for policy in run.needs[max(run.needs)]:
            points = [(n, row[policy] / size) for n, row in run.needs.items() if policy in row]
            label = "auto, the least of any plan" if policy == "auto" else policy
            axes.plot(*zip(*points, strict=True), marker=MARKERS.get(policy, "."), color=LINES.get(policy, GREY), markersize=4, label=label)
        cards = [(limit / size, names) for limit, names in cards_within(run, largest)]
        span = log(largest / min(need for row in run.needs.values() for need in row.values()))
        for (limit, names), right in zip(cards, places(cards, NEAR * span), strict=True):
            axes.axhline(limit, color=GREY, linewidth=0.6)
            axes.annotate(
                names, (right, limit), xycoords=("axes fraction", "data"), xytext=(-2, 1), textcoords="offset points", fontsize=7,
                color=GREY, ha="right",
            )  # fmt: skip
        axes.axhline(run.plan.problem.memory / size, color="black", linestyle=":", linewidth=1.3, label="this plan's limit")
        x, y = run.plan.problem.n_res, run.measured["peak_bytes"] / size
        axes.plot(x, y, "x", color="black", markersize=8, label="this run, measured", linestyle="none")
        axes.set(xlabel="n_res", ylabel=name, xscale="log", yscale="log")
        plain_ticks(axes)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)

    return drawn(draw, (10, 4))


def places(cards: list[tuple[float, str]], near: float) -> list[float]:
    """Where the labels of these lines end, as a part of the width: to the left of those that they would lie on. `near`: of logarithms."""
    out: list[float] = []
    for i, (limit, _) in enumerate(cards):
        close = [out[j] - LETTER * (len(cards[j][1]) + 2) for j in range(i) if log(limit / cards[j][0]) < near]
        out.append(min([1.0, *close[-1:]]) if not close or close[-1] > 0.3 else 1.0)
    return out


def cards_within(run: Run, largest: int) -> list[tuple[int, str]]:
    """Memories that one of the policies reaches at one of the lengths, with the cards that have them."""
    smallest = min(need for row in run.needs.values() for need in row.values())
    by_memory: dict[int, list[str]] = {}
    for name, memory in run.cards.items():
        if smallest <= memory <= largest:
            by_memory.setdefault(memory, []).append(name)
    return [(memory, ", ".join(names)) for memory, names in sorted(by_memory.items())]


def plans(runs: list[Run]) -> str:
    """Promised, measured and limit of every run: memory, and time."""

    def draw(pair: Any) -> None:
        y = range(len(runs))
        size, name = unit(max(r.plan.promised.peak_bytes for r in runs))
        pair[0].barh(y, [r.plan.promised.peak_bytes / size for r in runs], color=SKY, height=0.6, label="promised")
        pair[0].plot(
            [r.measured["peak_bytes"] / size for r in runs], y, "D", color="black", markersize=5, linestyle="none", label="measured"
        )
        far = 3 * max(r.plan.promised.peak_bytes for r in runs)
        near = [(r.plan.problem.memory / size, i) for i, r in enumerate(runs) if r.plan.problem.memory <= far]
        if near:
            pair[0].plot(*zip(*near, strict=True), "|", color=ORANGE, markersize=14, markeredgewidth=2, linestyle="none", label="limit")
        pair[0].set(xlabel=f"peak, {name}")
        pair[1].barh(y, [r.plan.promised.seconds for r in runs], color=SKY, height=0.6)
        pair[1].plot([r.measured["seconds"] for r in runs], y, "D", color="black", markersize=5, linestyle="none")
        pair[1].set(xlabel="seconds")
        for axes in pair:
            axes.set(yticks=y, yticklabels=[r.name for r in runs] if axes is pair[0] else [], ylim=(len(runs) - 0.5, -0.5))
        pair[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=8)

    return drawn(draw, (10, 1.1 + 0.32 * len(runs)), columns=2)


def scaling(series: Sequence[Series]) -> str:
    """Of every problem: seconds against ranks, as planned and as measured, beside ideal scaling; and the part of them that collectives
    are waited for."""
    problems = list(dict.fromkeys(one.problem for one in series))
    names = list(dict.fromkeys(one.policy for one in series))
    free = iter(c for c in COLOURS if c not in {LINES.get(name) for name in names})
    colours = {name: LINES.get(name) or next(free, GREY) for name in names}

    def draw(grid: Any) -> None:
        for pair, problem in zip(grid if len(problems) > 1 else [grid], problems, strict=True):
            of = [one for one in series if one.problem == problem]
            for one in of:
                scaled(pair, one, colours[one.policy])
            pair[0].set(ylabel="seconds", xscale="log", yscale="log")
            pair[0].set_title(problem, loc="left", fontsize=9)
            pair[1].set(ylabel="% waited for others", xscale="log")
            plain_ticks(pair[0], (pair[0].yaxis,))
            every = sorted({p.ranks for one in of for p in one.points})
            for axes in pair:
                axes.set_xticks(every, [str(n) for n in every], minor=False)
                axes.set_xticks([], minor=True)
                axes.set_xlim(every[0] * 0.92, every[-1] * 1.09)
        for axes in pair:
            axes.set(xlabel="GPUs that share the sample")
        axes.figure.legend(handles=key_of(colours), loc="outside right center", frameon=False, fontsize=8)

    return drawn(draw, (10, 0.7 + 2.3 * len(problems)), columns=2, rows=len(problems))


def scaled(pair: Any, one: Series, colour: str) -> None:
    """One series, on the axes of seconds and of the part waited for."""
    points = sorted(one.points, key=lambda p: p.ranks)
    took = [p for p in points if p.took]
    timed = [p for p in took if p.ranks == 1 or p.exposed]
    first = (took[0].ranks, took[0].took) if took else (points[0].ranks, points[0].promised)
    pair[0].plot([p.ranks for p in points], [first[1] * first[0] / p.ranks for p in points], color=colour, linewidth=0.8, linestyle=":")
    planned = {"color": colour, "marker": "D", "linestyle": "--", "linewidth": 1, "fillstyle": "none", "markersize": 5}
    measured = {"color": colour, "marker": "o", "linestyle": "-", "linewidth": 1.4}
    pair[0].plot([p.ranks for p in points], [p.promised for p in points], **planned)
    pair[1].plot([p.ranks for p in points], [100 * p.promised_exposed / p.promised for p in points], **planned)
    pair[0].plot([p.ranks for p in took], [p.took for p in took], **measured)
    pair[1].plot([p.ranks for p in timed], [100 * p.exposed / p.took for p in timed], **measured)


def key_of(colours: dict[str, str]) -> list[Any]:
    """The legend: what a colour and what a line means."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=colour, linewidth=2.5, label=name) for name, colour in colours.items()]
    for name, marker, line, fill in (
        ("measured", "o", "-", "full"),
        ("planned", "D", "--", "none"),
        ("ideal, from the first", "", ":", "none"),
    ):
        lines.append(Line2D([], [], color=GREY, linewidth=1.2, marker=marker, linestyle=line, fillstyle=fill, label=name))  # type: ignore[arg-type]
    return lines


def plain_ticks(axes: Any, which: Sequence[Any] = ()) -> None:
    """Plain numbers at 1, 2 and 5; at more of them where the axis is short."""
    from matplotlib.ticker import LogLocator, NullFormatter

    for axis in which or (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > 8 * low else (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())

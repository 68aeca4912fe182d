"""A plan as a person reads it: a table for a terminal, and for a notebook."""

from html import escape
from itertools import groupby
from typing import TYPE_CHECKING

from foldfit.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from foldfit.plans import Choice, Plan

Row = tuple[str, str]


def plan_rows(plan: "Plan") -> list[Row]:
    p = plan.problem
    stacks = " + ".join(f"{s.blocks} x {s.name}" + (f" ({s.rows} rows)" if s.rows else "") for s in p.stacks)
    passes = sum(step.startswith(("run", "record")) for step in plan.schedule) / p.blocks
    rows = [
        ("trunk", f"{stacks}, {p.n_res} residues" + (f", batch {p.batch}" if p.batch > 1 else "")),
        ("run", f"{p.mode}, {p.precision}, on {p.device}"),
    ]
    if p.world > 1:
        samples = f", {p.world // p.axial} samples" if p.axial < p.world else ""
        rows.append(("ranks", f"{p.world}, {p.axial} to a sample{samples}; limit and peak are a rank's"))
    rows += [
        ("policy", plan.policy + (f" (solver {plan.solver})" if plan.policy == "auto" else "")),
        ("limit", format_bytes(p.memory)),
        ("promised peak", f"{format_bytes(plan.promised.peak_bytes)}, at {plan.promised.at}"),
        ("promised time", f"{format_seconds(plan.promised.seconds)} ({plan.costs} costs{stated_error(plan)})"),
    ]
    if p.axial > 1:
        rows.append(("collectives", f"{format_seconds(plan.promised.exposed)} of the time, which nothing hides"))
        rows.append(("layouts", layouts(plan)))
    if plan.promised.host_bytes:
        moved = f"{sum(step.startswith('offload') for step in plan.schedule)} block inputs"
        exposed = format_seconds(plan.promised.exposed) if plan.promised.exposed else "nothing"
        what = " and ".join(plan.hosted) or moved
        rows.append(("on the host", f"{format_bytes(plan.promised.host_bytes)}: {what}, {exposed} of copies exposed"))
    if plan.bound:
        rows.append(
            (
                "lower bound",
                f"{format_seconds(plan.bound.seconds)}: at most {100 * plan.bound.gap:.2f} % from the best persistent nested schedule"
                + (" if copies to the host took no time" if p.host_memory and p.mode == "train" else ""),
            )
        )
    rows.append(("forward passes", f"{passes:.2f} a block, {len(plan.schedule)} steps"))
    rows += [("resident", f"{name}: {format_bytes(size)}") for name, size in plan.resident.items() if size]
    return rows


def stated_error(plan: "Plan") -> str:
    error = plan.promised.seconds_error
    if plan.costs == "modelled":
        return ""
    return ", error unknown" if error is None else f", ± {100 * error:.1f} %" if error else " of just these options"


def layouts(plan: "Plan") -> str:
    """Of a block's sub-modules: the axis that each tensor is sharded over, and from when on."""
    lines = []
    for choices in {tuple(c.layout for c in choices): 0 for choices in plan.choices.values()}:
        lines.append(" > ".join(f"{layout} x {len(list(same))}" for layout, same in groupby(choices)))
    return "; ".join(lines)


def choice_rows(plan: "Plan") -> list[tuple[str, str, str]]:
    """(name of the choice, how often the schedule uses it, its sub-modules in short)."""
    used: dict[str, dict[str, int]] = {}
    for step in plan.schedule:
        words = step.split()
        if len(words) == 3:
            count = used.setdefault(words[2], {})
            count[words[0]] = count.get(words[0], 0) + 1
    out = []
    for name, choices in plan.choices.items():
        uses = ", ".join(f"{verb} x {n}" for verb, n in used.get(name, {}).items())
        out.append((name, uses, " ".join(short(c) for c in choices)))
    return out


def short(choice: "Choice") -> str:
    """Rows a slice, r: recomputed, / rows of a piece, x: channels exchanged, : kernel, < tensors on the host."""
    kernel = "" if choice.kernel == "reference" else f":{choice.kernel}"
    piece, away = f"/{choice.piece_rows}" if choice.piece_rows else "", "<" + "".join(choice.host.split()) if choice.host else ""
    return f"{choice.rows}{'r' if choice.recompute else ''}{'x' * choice.channels}{piece}{kernel}{away}"


def plan_table(plan: "Plan") -> str:
    width = max(len(name) for name, _ in plan_rows(plan))
    lines = [f"{name:<{width}}  {text}" for name, text in plan_rows(plan)]
    pieces = ", / and rows of the pieces that go around" if any(c.piece_rows for chosen in plan.choices.values() for c in chosen) else ""
    pieces += ", x where ranks exchange channels" * any(c.channels for chosen in plan.choices.values() for c in chosen)
    away = ", < of tensors on the host" if plan.hosted else ""
    lines.append(f"choices: rows a slice of each sub-module, r where backward recomputes it{pieces}{away}")
    lines += [f"  {name}: {uses}: {text}" for name, uses, text in choice_rows(plan)]
    return "\n".join(lines)


def plan_html(plan: "Plan") -> str:
    rows = "".join(f"<tr><th>{escape(a)}</th><td>{escape(b)}</td></tr>" for a, b in plan_rows(plan))
    choices = "".join(f"<tr><th>choice {escape(a)}</th><td>{escape(b)}: {escape(c)}</td></tr>" for a, b, c in choice_rows(plan))
    return f"<table>{rows}{choices}</table>"

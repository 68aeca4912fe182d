"""One self-contained HTML file of runs and benches: it opens offline, light and dark, on paper and on a phone."""

from collections.abc import Sequence
from importlib import resources

from foldfit._version import __version__
from foldfit.errors import MissingEnvironment
from foldfit.plans_text import choice_rows, plan_rows
from foldfit.report import curves, pictures
from foldfit.report.run import Run, Sheet
from foldfit.units import format_bytes, format_seconds

Pictures = dict[str, str]


def pictures_of(run: Run) -> Pictures:
    """By name, as SVG. Raises MissingEnvironment without matplotlib."""
    out = {"memory": pictures.memory(run), "schedule": pictures.schedule(run), "sub_modules": pictures.sub_modules(run)}
    if run.frontier:
        out["frontier"] = curves.frontier(run)
    if run.needs:
        out["lengths"] = curves.lengths(run)
    return out


def render(runs: list[Run], sheets: Sequence[Sheet] = ()) -> str:
    """Raises MissingEnvironment without jinja2 or matplotlib."""
    return page(runs, [pictures_of(run) for run in runs], curves.plans(runs) if runs else "", sheets)


def page(runs: list[Run], drawn: list[Pictures], overview: str, sheets: Sequence[Sheet] = ()) -> str:
    """The page of pictures that are drawn already. Raises MissingEnvironment without jinja2."""
    try:
        import jinja2
        import markupsafe
    except ImportError:
        raise MissingEnvironment("reports need matplotlib and jinja2: pip install foldfit[viz]") from None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(lambda name: (resources.files("foldfit.report") / name).read_text()),
    )  # fmt: skip
    # Long names may break after an underscore.
    environment.filters |= {
        "bytes": format_bytes, "seconds": format_seconds,
        "words": lambda text: markupsafe.escape(text).replace("_", markupsafe.Markup("_<wbr>")),
    }  # fmt: skip
    shown = [
        {"run": run, "rows": plan_rows(run.plan), "choices": choice_rows(run.plan), "share": pictures.share(run), "pictures": svg,
         "cards": curves.cards_within(run, max(n for row in run.needs.values() for n in row.values())) if run.needs else []}
        for run, svg in zip(runs, drawn, strict=True)
    ]  # fmt: skip
    pair = side_by_side(*runs) if len(runs) == 2 else []
    template = environment.get_template("report.html.j2")
    scaled = [curves.scaling(sheet.series) if sheet.series else "" for sheet in sheets]
    return template.render(runs=shown, overview=overview, pair=pair, sheets=sheets, scaled=scaled, version=__version__)


def side_by_side(a: Run, b: Run) -> list[tuple[str, str, str, str]]:
    """(what, in a, in b, change) of two runs."""

    def change(x: float, y: float) -> str:
        return f"{100 * (y / x - 1):+.1f} %" if x and y else ""

    p, q = a.plan, b.plan
    out = [(name, x, y, "" if x == y else "differs") for (name, x), (_, y) in zip(plan_rows(p)[:3], plan_rows(q)[:3], strict=True)]
    for name, text, x, y in (
        ("limit", format_bytes, p.problem.memory, q.problem.memory),
        ("promised peak", format_bytes, p.promised.peak_bytes, q.promised.peak_bytes),
        ("measured peak", format_bytes, a.measured["peak_bytes"], b.measured["peak_bytes"]),
        ("promised time", format_seconds, p.promised.seconds, q.promised.seconds),
        ("measured time", format_seconds, a.measured["seconds"], b.measured["seconds"]),
    ):
        out.append((name, text(x), text(y), change(x, y)))
    other = {name: row for name, *row in b.by_sub_module()}
    for name, _, x, *_ in a.by_sub_module():
        if name in other:
            y = other[name][1]
            out.append((f"measured peak of {name}", format_bytes(x) if x else "", format_bytes(y) if y else "", change(x, y)))
    return out

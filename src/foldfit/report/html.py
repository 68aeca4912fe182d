"""One self-contained HTML file of runs: it opens offline, light and dark, on paper and on a phone."""

from importlib import resources

from foldfit._version import __version__
from foldfit.errors import MissingEnvironment
from foldfit.plans_text import choice_rows, plan_rows
from foldfit.report import pictures
from foldfit.report.run import Run
from foldfit.units import format_bytes, format_seconds


def render(runs: list[Run]) -> str:
    """Raises MissingEnvironment without jinja2 or matplotlib."""
    try:
        import jinja2
    except ImportError:
        raise MissingEnvironment("reports need matplotlib and jinja2: pip install foldfit[viz]") from None
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"bytes": format_bytes, "seconds": format_seconds}
    template = environment.from_string((resources.files("foldfit.report") / "report.html.j2").read_text())
    shown = [
        {
            "run": run,
            "rows": plan_rows(run.plan),
            "choices": choice_rows(run.plan),
            "memory": pictures.memory(run),
            "frontier": pictures.frontier(run) if run.frontier else "",
            "schedule": pictures.schedule(run),
        }
        for run in runs
    ]
    return template.render(runs=shown, version=__version__)

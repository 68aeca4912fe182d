"""How pictures are drawn: SVG text from matplotlib, in colours that are safe for colour-blind readers."""

import io
import re
from collections.abc import Callable
from typing import Any

from foldfit.errors import MissingEnvironment

BLUE, SKY, ORANGE, GREEN, YELLOW, PINK, GREY = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#666666"
"""Okabe and Ito's."""
MIB, GIB = 2**20, 2**30
PATH, NUMBER = re.compile(r' d="[^"]*"'), re.compile(r"\d+\.\d{3,}")
"""Where a hundredth of a point is enough."""


def drawn(draw: Callable[[Any], None], size: tuple[float, float], columns: int = 1, rows: int = 1) -> str:
    """The SVG element of what `draw` puts on the axes, one of them or an array. Raises MissingEnvironment without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib import pyplot as plt
    except ImportError:
        raise MissingEnvironment("reports need matplotlib and jinja2: pip install foldfit[viz]") from None
    with plt.rc_context(
        {"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "foldfit", "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained")
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    svg = text.getvalue()
    return PATH.sub(lambda path: NUMBER.sub(lambda n: f"{float(n[0]):.2f}", path[0]), svg[svg.index("<svg") :])


def alone(svg: str) -> str:
    """As a file of its own, on white."""
    return '<?xml version="1.0" encoding="utf-8"?>\n' + svg.replace("<svg ", '<svg style="background: #fff" ', 1)


def unit(largest: float) -> tuple[int, str]:
    """Bytes of the unit that reads best."""
    return (GIB, "GiB") if largest >= 2 * GIB else (MIB, "MiB")


def shades(count: int) -> list[str]:
    """As many steps of cividis, which reads the same to everyone, from dark to light."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["cividis"](i / max(1, count - 1))) for i in range(count)]

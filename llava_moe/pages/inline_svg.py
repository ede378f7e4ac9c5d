"""matplotlib's drawings as SVG for our pages: text takes the page's colour, so one drawing serves light and dark.

What matplotlib drew is taken over element by element, without all that points outside the page (namespaces, metadata,
doctype). Names come from data: none is read as a formula, and whatever stands in one, it stays text.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from typing import Any
from xml.etree import ElementTree

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from llava_moe.text.escape_control import visible

INK = "#010203"
"""Stands for the page's text colour; no drawing uses it otherwise."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "llava-moe",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.14,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}
"""To be drawn under: ``with rc_context(STYLE): ...``."""


def inline_svg(figure: Figure, label: str) -> str:
    """The drawing as one element of a page, with a label for those who cannot see it."""
    stream = io.StringIO()
    with warnings.catch_warnings():
        # The reader's browser has the letters that the font which lays out the drawing lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        _lay_out(figure)
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = ElementTree.fromstring(stream.getvalue())
    # Every chart of the page numbers its parts from 1; a reference must find its own chart's.
    prefix = f"c{hashlib.sha256(label.encode('utf-8', 'replace')).hexdigest()[:8]}-"
    for parent in [*drawing.iter()]:
        for child in [*parent]:
            if _bare(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in drawing.iter():
        element.tag = _bare(element.tag)
        for name in [*element.attrib]:
            value = re.sub(r"(?<=url\(#)", prefix, element.attrib.pop(name).replace(INK, "currentColor"))
            bare = _bare(name)
            if bare == "id":
                value = prefix + value
            elif bare == "href":
                value = f"#{prefix}{value[1:]}"
            element.set(bare, value)
    del drawing.attrib["width"], drawing.attrib["height"]
    drawing.attrib = {"role": "img", "aria-label": visible(label), **drawing.attrib}
    return ElementTree.tostring(drawing, encoding="unicode")


def _lay_out(figure: Figure) -> None:
    """Place what is drawn. Left to ``savefig``, the layout would cost a whole drawing that nobody sees."""
    engine = figure.get_layout_engine()
    if engine is not None:
        FigureCanvasSVG(figure)  # whose letters have the widths of the drawing
        engine.execute(figure)
        figure.set_layout_engine("none")


def _bare(name: str) -> str:
    """The name of an element or attribute without its namespace."""
    return name.rpartition("}")[2]


def standalone_svg(drawing: str) -> str:
    """What :func:`inline_svg` gave, as a file of its own; its text is black."""
    # Trap: what is marked as safe for a page (``Markup``) escapes what ``replace`` puts into it.
    return str(drawing).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" style="background: white" ', 1) + "\n"

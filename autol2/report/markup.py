"""Embeds figures in a page as SVG, with searchable text and colours that adapt to a dark page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

from .colours import WHITE, on_dark
from .plot import Drawing

COLOUR = re.compile(r"(?<=: )#[0-9a-f]{6}\b")
SHORTER = (
    (re.compile(r" font-family: [^;\"]+;?"), ""),  # The font of the page is used.
    (re.compile(r' transform="rotate\(-0 [^"]*"'), ""),
    (re.compile(r"\s+(?=[MLQCz]\s)\s*([MLQCz])\s+"), r"\1"),
    (re.compile(r"\s*\n\s*|\s+(?=/?>)"), " "),
)
"""Replacements that make the page smaller without changing its appearance."""


def markup(drawing: Drawing) -> str:
    """Return the SVG of a drawing as an element of a page.

    Its colours are CSS variables, whose values come from `variables`. Its IDs are prefixed with the
    name of the drawing, so that they are unique in the page.
    """
    svg = drawing.svg.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\n?|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = svg.replace(f"fill: {WHITE}", "fill: none")
    used = set(re.findall(r"#([\w-]+)", svg))
    svg = re.sub(
        r' id="([\w.-]+)"',
        lambda found: f' id="{drawing.name}-{found[1]}"' if found[1] in used else "",
        svg,
    )
    svg = re.sub(r'(url\(#|href="#)', rf"\1{drawing.name}-", svg)
    svg = COLOUR.sub(lambda found: f"var(--c{found[0][1:]})", svg)
    box = re.search(r'viewBox="[^"]+"', svg)
    assert box is not None, f"{drawing.svg} has no viewBox"
    head = f'<svg {box[0]} role="img" aria-label="{html.escape(drawing.alt)}">'
    svg = head + svg[svg.index(">") + 1 :]
    for found, instead in SHORTER:
        svg = found.sub(instead, svg)
    return svg.strip()


def variables(drawings: Iterable[Drawing]) -> dict[str, tuple[str, str]]:
    """Return the colour variables of drawings, each with its values on a light and a dark page."""
    found = {
        colour
        for drawing in drawings
        for colour in COLOUR.findall(drawing.svg.read_text(encoding="utf-8"))
    }
    return {f"--c{colour[1:]}": (colour, on_dark(colour)) for colour in sorted(found)}

"""Bars as a small SVG, which reads well on a light and on a dark page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_WIDTH = 760
_MARGIN = 20
_LABELS = 160
_VALUES = 80
_BAR, _ROW = 18, 28

#: Colours by theme; the card has its own ground, so that the page's does not matter.
_STYLE = """
  .card { fill: #ffffff; stroke: #d0d7de }
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .title { font-weight: 600; font-size: 15px }
  .dim { fill: #59636e }
  .c0 { fill: #2563c9 } .c1 { fill: #d9822b } .c2 { fill: #8a94a0 } .c3 { fill: #b9c2cc }
  @media (prefers-color-scheme: dark) {
    .card { fill: #161b22; stroke: #3d444d }
    text { fill: #e6edf3 }
    .dim { fill: #9da7b1 }
    .c0 { fill: #5b9bf8 } .c1 { fill: #f0a35a } .c2 { fill: #7d8792 } .c3 { fill: #545d68 }
  }
"""


@dataclass(frozen=True, slots=True)
class Bar:
    """A row: one value, or several that are stacked."""

    label: str
    values: Sequence[float]


@dataclass(frozen=True, slots=True)
class Panel:
    """Bars on one scale, which begins at 0. parts: names of what is stacked."""

    title: str
    bars: Sequence[Bar]
    form: Callable[[float], str]
    parts: Sequence[str] = ()


def draw(title: str, panels: Sequence[Panel]) -> str:
    """The panels one above the other."""
    shapes: list[str] = [_text(_MARGIN, 32, title, "title")]
    y = 50
    for panel in panels:
        shapes.append(_text(_MARGIN, y + 16, panel.title, "dim"))
        x = _WIDTH - _MARGIN
        for number, name in reversed(list(enumerate(panel.parts))):
            x -= 7 * len(name) + 26
            shapes.append(_rect(x, y + 6, 11, 11, f"c{number}"))
            shapes.append(_text(x + 16, y + 16, name, "dim"))
        y += 28
        longest = max((sum(bar.values) for bar in panel.bars), default=0) or 1
        scale = (_WIDTH - 2 * _MARGIN - _LABELS - _VALUES) / longest
        for bar in panel.bars:
            shapes.append(_text(_MARGIN, y + 14, bar.label))
            at: float = _MARGIN + _LABELS
            for number, value in enumerate(bar.values):
                shapes.append(_rect(at, y, value * scale, _BAR, f"c{number}"))
                at += value * scale
            shapes.append(_text(at + 8, y + 14, panel.form(sum(bar.values))))
            y += _ROW
        y += 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 6}" '
        f'width="{_WIDTH}" height="{y + 6}" role="img">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n"
        f'<rect class="card" x="0.5" y="0.5" width="{_WIDTH - 1}" height="{y + 5}" rx="8"/>\n'
        + "\n".join(shapes)
        + "\n</svg>\n"
    )


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text{attribute} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'

"""Small charts as inline SVG. Coordinates are in percent, so that charts fit any width and text keeps its size.

Functions that draw return Markup; they escape all text that they get.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

Domain = tuple[float, float]

PLOT_HEIGHT = 180


@dataclass(frozen=True)
class Series:
    """A line of a chart; `points` are (x, y) in the order of x, `css` is the CSS class of the line."""

    name: str
    css: str
    points: list[tuple[float, float]]


def domain(values: Sequence[float], margin: float = 0.06) -> Domain:
    """The range of `values` with a margin on both sides, never empty."""
    low, high = min(values), max(values)
    pad = (high - low) * margin or abs(high) * 0.05 or 1.0
    return low - pad, high + pad


def ticks(within: Domain, wanted: int = 4) -> list[float]:
    """About `wanted` round numbers (1, 2 or 5 times a power of ten apart) inside a domain."""
    low, high = within
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def place(value: float, within: Domain) -> float:
    """The position of a value in a domain, in percent."""
    low, high = within
    return round(100 * (value - low) / (high - low), 2)


def _svg(body: Markup, height: int, name: str, css: str = "chart") -> Markup:
    """An SVG as wide as its container and `height` pixels high; screen readers read out `name`."""
    return Markup('<svg class="{}" width="100%" height="{}" role="img" aria-label="{}">{}</svg>').format(
        css, height, name, body
    )


def _join(parts: Sequence[Markup]) -> Markup:
    return Markup("").join(parts)


def dots(values: Sequence[float], mean: float, within: Domain, name: str) -> Markup:
    """A dot for each seed and a vertical stroke at the mean."""
    line = Markup('<line class="grid" x1="0" x2="100%" y1="14" y2="14"/>')
    marks = [Markup('<circle class="dot" cx="{}%" cy="14" r="5"/>').format(place(v, within)) for v in values]
    stroke = Markup('<line class="mean" x1="{0}%" x2="{0}%" y1="3" y2="25"/>').format(place(mean, within))
    return _svg(line + _join(marks) + stroke, 28, name)


def interval(mean: float, low: float, high: float, within: Domain, name: str) -> Markup:
    """An interval with its mean, and a vertical line at zero."""
    body = Markup(
        '<line class="zero" x1="{zero}%" x2="{zero}%" y1="0" y2="28"/>'
        '<line class="interval" x1="{low}%" x2="{high}%" y1="14" y2="14"/>'
        '<circle class="point" cx="{mean}%" cy="14" r="5.5"/>'
    ).format(
        zero=place(0, within), low=place(low, within), high=place(high, within), mean=place(mean, within)
    )
    return _svg(body, 28, name)


def axis(within: Domain, write: Callable[[float], str]) -> Markup:
    """Tick labels below dots or intervals."""
    labels = [
        Markup('<text x="{}%" y="12" text-anchor="middle">{}</text>').format(place(tick, within), write(tick))
        for tick in ticks(within)
    ]
    return _svg(_join(labels), 16, "scale")


def bar(share: float, name: str = "") -> Markup:
    """A short horizontal bar on a track; `share` is in 0..1."""
    body = Markup('<rect class="track" width="100%" height="6" rx="3"/>')
    width = 100 * min(1, max(0, share))
    body += Markup('<rect class="fill" width="{:.1f}%" height="6" rx="3"/>').format(width)
    return _svg(body, 6, name, "bar")


def stack(parts: Sequence[tuple[str, str, float]], name: str) -> Markup:
    """One bar with parts from left to right; a part is (CSS class, tooltip, share)."""
    body, at = Markup(""), 0.0
    for css, said, share in parts:
        body += Markup(
            '<rect class="{}" x="{:.2f}%" width="{:.2f}%" height="14"><title>{}</title></rect>'
        ).format(css, 100 * at, 100 * share, said)
        at += share
    return _svg(body, 14, name, "chart stack")


def histogram(bins: Sequence[Sequence[tuple[str, int]]], write: Callable[[int], str], name: str) -> Markup:
    """Stacked columns over equal parts of [0, 1]; a bin is a list of (CSS class, rows) from the bottom up."""
    tallest = max((sum(rows for _, rows in column) for column in bins), default=0) or 1
    top = 1.05 * tallest
    body = _rules((0, top), lambda tick: write(round(tick)))
    width = 100 / len(bins)
    for place_in_row, column in enumerate(bins):
        below = 0
        for css, rows in column:
            if rows:
                body += Markup(
                    '<rect class="{}" x="{:.2f}%" y="{:.2f}%" width="{:.2f}%" height="{:.2f}%"/>'
                ).format(
                    css,
                    place_in_row * width,
                    100 * (1 - (below + rows) / top),
                    0.86 * width,
                    100 * rows / top,
                )
            below += rows
    for tick in (0, 0.25, 0.5, 0.75, 1):
        body += _foot(100 * tick, f"{tick:g}")
    return _svg(body, PLOT_HEIGHT, name)


def curves(
    series: Sequence[Series],
    mark: tuple[float, str] | None,
    write: Callable[[float], str],
    name: str = "training curve",
) -> Markup:
    """Lines over epochs or other whole numbers, with a vertical line at `mark` (epoch, text)."""
    across = domain([x for line in series for x, _ in line.points], 0.02)
    up = domain([y for line in series for _, y in line.points])
    body = _rules(up, write)
    for tick in ticks(across, 5):
        if tick == round(tick):
            body += _foot(place(tick, across), f"{tick:g}")
    if mark is not None:
        x = place(mark[0], across)
        body += Markup('<line class="mark" x1="{0}%" x2="{0}%" y1="0" y2="100%"/>').format(x)
        anchor, shift = ("start", 5) if x < 60 else ("end", -5)
        body += Markup('<text class="said" x="{}%" dx="{}" y="11" text-anchor="{}">{}</text>').format(
            x, shift, anchor, mark[1]
        )
    return _svg(body + _join([path(line, across, up) for line in series]), PLOT_HEIGHT, name)


def scatter(
    points: Sequence[tuple[float, float]], slope: float, write: Callable[[float], str], name: str
) -> Markup:
    """A dot for each (x, y), and a line with this slope through their mean, over the range of x."""
    across, up = (domain([point[axis] for point in points], 0.1) for axis in (0, 1))
    body = _rules(up, write)
    for tick in ticks(across, 5):
        body += _foot(place(tick, across), write(tick))
    center = [sum(point[axis] for point in points) / len(points) for axis in (0, 1)]
    ends = [(x, center[1] + slope * (x - center[0])) for x in (min(points)[0], max(points)[0])]
    body += path(Series("slope", "fit", ends), across, up)
    dots = [
        Markup('<circle class="point" cx="{}%" cy="{:.2f}%" r="5"/>').format(
            place(x, across), 100 - place(y, up)
        )
        for x, y in points
    ]
    return _svg(body + _join(dots), PLOT_HEIGHT, name)


def path(line: Series, across: Domain, up: Domain) -> Markup:
    """A polyline in a nested SVG that is stretched to the plot; the width of the stroke does not change."""
    points = " ".join(f"{place(x, across)},{100 - place(y, up):.2f}" for x, y in line.points)
    return Markup(
        '<svg class="layer" width="100%" height="100%" viewBox="0 0 100 100" preserveAspectRatio="none">'
        '<polyline class="{}" points="{}"/></svg>'
    ).format(line.css, points)


def _rules(up: Domain, write: Callable[[float], str]) -> Markup:
    """Thin horizontal lines with their values to the left of the plot."""
    body = Markup("")
    for tick in ticks(up):
        y = 100 - place(tick, up)
        body += Markup(
            '<line class="grid" x1="0" x2="100%" y1="{0:.2f}%" y2="{0:.2f}%"/>'
            '<text x="0" dx="-6" dy="4" y="{0:.2f}%" text-anchor="end">{1}</text>'
        ).format(y, write(tick))
    return body


def _foot(x: float, text: str) -> Markup:
    return Markup('<text x="{}%" y="100%" dy="16" text-anchor="middle">{}</text>').format(x, text)

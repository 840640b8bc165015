"""The frame of an SVG plot: data to pixels, grid lines, ticks and labels. It knows no statistic."""

from __future__ import annotations

import math
from collections.abc import Sequence

from train_lm.plain_text import in_html


class Axes:
    """A plot's frame: data to pixels, grid lines, labels.

    Args:
        x, y: Ends of the data range.
        labels: What x and y are.
    """

    WIDTH, HEIGHT = 500, 290
    LEFT, RIGHT, TOP, BOTTOM = 66, 14, 10, 44

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        labels: tuple[str, str],
        percent: tuple[bool, bool] = (False, False),
    ) -> None:
        self.x_range, self.y_range = x, y
        self.labels = labels
        self.percent = percent

    def x(self, value: float) -> float:
        low, high = self.x_range
        share = (value - low) / (high - low)
        return self.LEFT + share * (self.WIDTH - self.LEFT - self.RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        share = (value - low) / (high - low)
        return self.HEIGHT - self.BOTTOM - share * (self.HEIGHT - self.TOP - self.BOTTOM)

    def points(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        return " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(xs, ys, strict=True))

    def svg(self, marks: str, x_ticks: dict[float, str] | None = None) -> str:
        right, bottom = self.WIDTH - self.RIGHT, self.HEIGHT - self.BOTTOM
        parts = []
        for tick in _ticks(*self.y_range):
            at = self.y(tick)
            parts.append(
                f'<line x1="{self.LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}" '
                'stroke="#e9edf1"/>'
                f'<text x="{self.LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">'
                f"{_tick_label(tick, self.percent[1])}</text>"
            )
        if x_ticks is None:
            x_ticks = {t: _tick_label(t, self.percent[0]) for t in _ticks(*self.x_range)}
        for tick, label in x_ticks.items():
            parts.append(
                f'<text x="{self.x(tick):.1f}" y="{bottom + 18}" text-anchor="middle">'
                f"{in_html(label)}</text>"
            )
        middle = (self.TOP + bottom) / 2
        parts.append(
            f'<line x1="{self.LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}" stroke="#aab4c0"/>'
            f'<text x="{(self.LEFT + right) / 2}" y="{self.HEIGHT - 6}" text-anchor="middle">'
            f"{in_html(self.labels[0])}</text>"
            f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">'
            f"{in_html(self.labels[1])}</text>"
        )
        return (
            f'<svg viewBox="0 0 {self.WIDTH} {self.HEIGHT}" role="img" '
            f'aria-label="{in_html(self.labels[1])} by {in_html(self.labels[0])}">'
            f"{''.join(parts)}{marks}</svg>"
        )


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between two ends."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 2.5, 5, 10) if (high - low) / (step * m) <= 5)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _tick_label(value: float, percent: bool) -> str:
    return f"{100 * value:.4g} %" if percent else f"{value:.4g}"

"""Small charts of one case as SVG: they need no script, and take their colours from the page's style."""

__all__ = ["histogram_svg", "reliability_svg"]

import html
from collections.abc import Sequence

import numpy as np

from segcal.measure.calibration import Reliability

WIDTH, HEIGHT = 330, 210
LEFT, RIGHT, TOP, BOTTOM = 38, 8, 10, 32
BARS = 20  # of a histogram; the sums have 60 bins


def reliability_svg(bins: Reliability, title: str) -> str:
    """Accuracy against confidence, a bar a bin with its gap to the diagonal; below, how many voxels each bin has."""
    floor, base = 140.0, HEIGHT - BOTTOM  # of the diagram, and of the counts
    across, up, most = WIDTH - LEFT - RIGHT, floor - TOP, max(1.0, float(bins.count.max(initial=0)))
    parts = _frame(title, "confidence", base)
    for tick in (0.0, 0.5, 1.0):
        y = floor - tick * up
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + across}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 3:.1f}" text-anchor="end">{tick:g}</text>')
    for low, high, count, confidence, accuracy in zip(
        bins.edges[:-1], bins.edges[1:], bins.count, bins.confidence, bins.accuracy, strict=True
    ):
        x, wide = LEFT + low * across, (high - low) * across
        known = f"confidence {low:g} to {high:g}: {int(count):,} voxels"
        if count:
            known += f", mean confidence {confidence:.3f}, accuracy {accuracy:.3f}"
            tall, gap = accuracy * up, abs(accuracy - confidence) * up
            parts.append(_bar("accuracy", x + 1, floor - tall, wide - 2, tall))
            parts.append(_bar("gap", x + 1, floor - max(accuracy, confidence) * up, wide - 2, gap))
            share = 0.06 + 0.94 * np.log10(1 + count) / np.log10(1 + most)
            parts.append(_bar("count", x + 1, base - share * 22, wide - 2, share * 22))
            at = f'x="{x + wide / 2:.1f}" y="{base - share * 22 - 2:.1f}"'
            parts.append(f'<text class="n" {at} text-anchor="middle">{_short(int(count))}</text>')
        tip = f"<title>{known}</title>"
        parts.append(f'<rect class="hit" x="{x:.1f}" y="{TOP}" width="{wide:.1f}" height="{base - TOP}">{tip}</rect>')
    parts.append(f'<line class="ideal" x1="{LEFT}" x2="{LEFT + across}" y1="{floor}" y2="{TOP}"/>')
    parts.append(f'<text transform="translate(10 {TOP + up / 2:.0f}) rotate(-90)" text-anchor="middle">accuracy</text>')
    parts.append(f'<text x="{LEFT - 4}" y="{base - 20}" text-anchor="end">voxels</text>')
    return _svg(parts)


def histogram_svg(segments: np.ndarray, names: Sequence[str], title: str) -> str:
    """How probable the voxels of each predicted segment are; segments (F, bins of [0, 1]), a line a structure.

    Each is drawn as shares of its own segment: structures differ in size by far.
    """
    base, across = HEIGHT - BOTTOM, WIDTH - LEFT - RIGHT
    up = base - TOP
    parts = _frame(title, "probability of the predicted structure", base)
    joined = segments.reshape(len(segments), BARS, -1).sum(axis=2)
    totals = joined.sum(axis=1, keepdims=True)
    shares = np.divide(joined, totals, out=np.zeros(joined.shape), where=totals > 0)
    most = max(0.1, float(np.ceil(shares.max(initial=0) * 10) / 10))
    for tick in (0.0, most / 2, most):
        y = base - tick / most * up
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{LEFT + across}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 4}" y="{y + 3:.1f}" text-anchor="end">{100 * tick:.0f}%</text>')
    for at, (share, total) in enumerate(zip(shares, totals[:, 0], strict=True)):
        if not total:
            continue
        points = []
        for bar, value in enumerate(share):
            y = base - value / most * up
            points += [f"{LEFT + bar / BARS * across:.1f},{y:.1f}", f"{LEFT + (bar + 1) / BARS * across:.1f},{y:.1f}"]
        tip = f"<title>{html.escape(names[at])}: {int(total):,} voxels</title>"
        parts.append(f'<polyline class="s{at % 6}" points="{" ".join(points)}">{tip}</polyline>')
    return _svg(parts)


def _frame(title: str, axis: str, base: float) -> list[str]:
    across = WIDTH - LEFT - RIGHT
    parts = [f"<title>{html.escape(title)}</title>"]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<text x="{LEFT + tick * across:.1f}" y="{base + 12}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{LEFT + across / 2:.0f}" y="{base + 26}" text-anchor="middle">{axis}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{LEFT + across}" y1="{base}" y2="{base}"/>')
    return parts


def _short(count: int) -> str:
    """A count in at most four signs.

    >>> [_short(n) for n in (950, 9_540, 96_300, 2_400_000)]
    ['950', '9.5k', '96k', '2.4M']
    """
    for size, sign in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.1f}{sign}" if count < 9.95 * size else f"{count / size:.0f}{sign}"
    return str(count)


def _bar(kind: str, x: float, y: float, width: float, height: float) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"/>'


def _svg(parts: Sequence[str]) -> str:
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'

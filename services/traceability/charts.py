"""Drawings of an evidence pack as SVG: verdicts with their bounds, and what production did window by window.

Pure functions of plain values; the same values give the same text. Colours come from the page (`currentColor` and its variables).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, BAND, MARGIN = 420.0, 34.0, 8.0
SERIES_WIDTH, SERIES_HEIGHT = 300.0, 72.0
WINDOWS_MAX = 400


def interval(verdict: Mapping[str, Any]) -> str:
    """One verdict: a dot for the estimate, a whisker to the one-sided bound, a line for the threshold; empty without a value."""
    value, bound, threshold = verdict.get("value"), verdict.get("bound"), verdict.get("threshold")
    if value is None or threshold is None:
        return ""
    low, high = _range([value, threshold, *([bound] if bound is not None else [])])
    title = f"{verdict.get('metric')} on {verdict.get('slice')}: estimate {value:.4g}, threshold {threshold:.4g}"

    def at(number: float) -> float:
        return MARGIN + (number - low) / (high - low) * (WIDTH - 2 * MARGIN)

    parts = [
        f'<line x1="{MARGIN}" x2="{WIDTH - MARGIN}" y1="17" y2="17" class="axis"/>',
        f'<line x1="{at(threshold):.1f}" x2="{at(threshold):.1f}" y1="3" y2="31" class="threshold"/>',
    ]
    if bound is not None:
        parts.append(f'<line x1="{at(bound):.1f}" x2="{at(value):.1f}" y1="17" y2="17" class="whisker"/>')
        parts.append(f'<line x1="{at(bound):.1f}" x2="{at(bound):.1f}" y1="11" y2="23" class="whisker"/>')
        title += f", bound {bound:.4g}"
    parts.append(f'<circle cx="{at(value):.1f}" cy="17" r="4.5" class="{_class(verdict.get("outcome"))}"/>')
    return _svg(WIDTH, BAND, title, parts)


def series(
    points: Sequence[tuple[str, float | None]], *, name: str, limit: float | None, signals: Sequence[str]
) -> str:
    """One watched feature: the debiased PSI of each window, the tolerance as a line, a mark where a signal was raised."""
    shown = points[:: max(1, -(-len(points) // WINDOWS_MAX))]
    values = [value for _, value in shown if value is not None]
    if not values:
        return ""
    top = max([*values, limit or 0.0, 0.01])

    def x(index: int) -> float:
        return MARGIN + index * (SERIES_WIDTH - 2 * MARGIN) / max(1, len(shown) - 1)

    def y(value: float) -> float:
        return SERIES_HEIGHT - MARGIN - max(0.0, value) / top * (SERIES_HEIGHT - 2 * MARGIN)

    drawn = " ".join(f"{x(i):.1f},{y(v):.1f}" for i, (_, v) in enumerate(shown) if v is not None)
    parts = [f'<polyline points="{drawn}" class="series"/>']
    if limit is not None:
        parts.append(
            f'<line x1="{MARGIN}" x2="{SERIES_WIDTH - MARGIN}" y1="{y(limit):.1f}" y2="{y(limit):.1f}" class="threshold"/>'
        )
    for index, (end, value) in enumerate(shown):
        if end in signals:
            parts.append(f'<circle cx="{x(index):.1f}" cy="{y(value or 0.0):.1f}" r="4.5" class="bad"/>')
    title = f"{name}: debiased PSI in {len(points)} windows, highest {max(values):.3g}"
    return _svg(SERIES_WIDTH, SERIES_HEIGHT, title, parts)


def drift_charts(
    windows: Mapping[str, Sequence[Mapping[str, Any]]], signals: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For each plan its features in order of their highest value, each with a chart."""
    charts = []
    for plan, closed in sorted(windows.items()):
        marks = [str(signal.get("window_end")) for signal in signals if signal.get("plan") == plan]
        names = sorted({feature["name"] for window in closed for feature in window.get("features", ())})
        features = [_feature(closed, name, marks) for name in names]
        features.sort(key=lambda one: (-one["highest"], one["name"]))
        charts.append({"plan": plan, "windows": closed, "features": features, "signals": len(marks)})
    return charts


def _feature(closed: Sequence[Mapping[str, Any]], name: str, marks: Sequence[str]) -> dict[str, Any]:
    points: list[tuple[str, float | None]] = []
    limit: float | None = None
    for window in closed:
        found: Mapping[str, Any] = next((one for one in window.get("features", ()) if one["name"] == name), {})
        points.append((str(window.get("end")), found.get("psi_debiased", found.get("psi"))))
        limit = found.get("tolerance") or limit
    values = [value for _, value in points if value is not None]
    return {
        "name": name,
        "highest": max(values, default=0.0),
        "last": values[-1] if values else None,
        "svg": series(points, name=name, limit=limit, signals=marks),
    }


def _range(numbers: Sequence[float]) -> tuple[float, float]:
    low, high = min(numbers), max(numbers)
    room = (high - low) * 0.25 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _class(outcome: Any) -> str:
    return {"met": "good", "not met": "bad"}.get(outcome, "doubt")


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        + "".join(parts)
        + "</svg>"
    )

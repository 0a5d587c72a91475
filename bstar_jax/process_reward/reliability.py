"""The reliability diagram of a process reward model, as SVG text that any browser shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_SIZE, _MARGIN = 320, 48


def diagram(bins: Sequence[Mapping[str, float]]) -> str:
    """Draws predicted probability against observed share, with larger points for more steps.

    Args:
      bins: The table that `metrics.reliability` returns.
    """
    most = max((each["count"] for each in bins), default=1)
    points = "\n".join(
        f'<circle cx="{_x(each["predicted"]):.1f}" cy="{_y(each["observed"]):.1f}" '
        f'r="{2 + 8 * (each["count"] / most) ** 0.5:.1f}" fill="#3b6ea5" fill-opacity="0.7">'
        f"<title>{each['count']} steps: predicted {each['predicted']:.3f}, observed "
        f"{each['observed']:.3f}</title></circle>"
        for each in bins
    )
    ticks = "\n".join(
        f'<text x="{_x(value):.0f}" y="{_y(0) + 18:.0f}" text-anchor="middle">{value:g}</text>'
        f'<text x="{_x(0) - 8:.0f}" y="{_y(value) + 4:.0f}" text-anchor="end">{value:g}</text>'
        for value in (0, 0.5, 1)
    )
    side, middle = _SIZE + 2 * _MARGIN, _MARGIN + _SIZE / 2
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" \
font-family="sans-serif" font-size="12">
<rect width="{side}" height="{side}" fill="white"/>
<rect x="{_MARGIN}" y="{_MARGIN}" width="{_SIZE}" height="{_SIZE}" fill="none" stroke="#888"/>
<path d="M {_x(0)} {_y(0)} L {_x(1)} {_y(1)}" stroke="#bbb" stroke-dasharray="4"/>
{ticks}
<text x="{middle}" y="{side - 10}" text-anchor="middle">predicted: a continuation is right</text>
<text transform="translate(14 {middle}) rotate(-90)" text-anchor="middle">observed share</text>
{points}
</svg>
"""


def _x(value: float) -> float:
    return _MARGIN + value * _SIZE


def _y(value: float) -> float:
    return _MARGIN + (1 - value) * _SIZE

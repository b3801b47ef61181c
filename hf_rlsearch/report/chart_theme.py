"""Holds the colours of the page and its charts in light and dark, and the Vega-Lite config made from them."""

from __future__ import annotations

from typing import Any

# Role -> colour in light and in dark; the page has both schemes, exported files the light one.
_COLORS: dict[str, tuple[str, str]] = {
    "ink": ("#1b2330", "#e6ebf2"),
    "soft": ("#5d6878", "#9aa7b8"),
    "rule": ("#e3e7ee", "#2b3442"),
    "paper": ("#ffffff", "#12161d"),
    "accent": ("#3457d5", "#7d9bff"),
    "good": ("#16895f", "#45c08b"),
    "warn": ("#c77700", "#eba63c"),
    "bad": ("#c8373f", "#f0747b"),
    "mute": ("#a9b3c2", "#5b687a"),
    "second": ("#8a4fd0", "#b48cf0"),
}
PALETTES: dict[str, dict[str, str]] = {
    scheme: {role: shades[i] for role, shades in _COLORS.items()} for i, scheme in enumerate(("light", "dark"))
}
# Kind -> colour and shape, the same in every chart. Shape as well as colour: nobody has to tell red from green.
KINDS: dict[str, tuple[str, str]] = {
    "best": ("good", "circle"),
    "baseline": ("second", "square"),
    "complete": ("accent", "circle"),
    "pruned": ("warn", "diamond"),
    "failed": ("bad", "cross"),
    "running": ("mute", "circle"),
    "expected best": ("soft", "stroke"),
}


def theme(scheme: str) -> dict[str, Any]:
    """The Vega-Lite config of a colour scheme, "light" or "dark"."""
    colors = PALETTES[scheme]
    soft, mute = colors["soft"], colors["mute"]
    # Titles above the axis and level: nobody has to turn their head.
    title = {"titleAngle": 0, "titleAlign": "left", "titleAnchor": "end", "titleX": -40, "titleY": -12}
    return {
        "background": "transparent",
        "font": "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
        "view": {"stroke": None},
        "axis": {
            "labelColor": soft,
            "titleColor": soft,
            "domainColor": mute,
            "tickColor": mute,
            "gridColor": colors["rule"],
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelOverlap": True,
            "labelSeparation": 6,
        },
        "axisX": {"grid": False, "titlePadding": 6, "tickCount": {"expr": "max(3, ceil(width / 90))"}},
        "axisY": {**title, "domain": False},
        "legend": {
            "orient": "top",
            "title": None,
            "offset": 32,
            "labelFontSize": 12,
            "labelColor": soft,
            "symbolSize": 70,
        },
        "range": {
            "category": [colors[color] for color, _ in KINDS.values()],
            "ramp": [mute, colors["accent"]],
            "heatmap": {"scheme": "viridis"},
        },
        "bar": {"color": colors["accent"]},
        "rule": {"color": colors["ink"]},
        "text": {"color": colors["ink"], "fontSize": 11},
        "style": {
            "axis": {"stroke": soft},
            "on-bar": {"color": colors["paper"], "fontWeight": "bold"},
            "label": {"color": colors["ink"], "fontSize": 10.5},
            "halo": {"color": colors["paper"], "stroke": colors["paper"], "strokeWidth": 4, "fontSize": 10.5},
        },
    }

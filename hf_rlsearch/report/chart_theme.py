"""Holds the colours of the page and its charts in light and dark, and the Vega-Lite config made from them."""

from __future__ import annotations

from typing import Any

# Colours by role; the page has both schemes, exported files the light one.
PALETTES: dict[str, dict[str, str]] = {
    "light": {
        "ink": "#1b2330",
        "soft": "#5d6878",
        "rule": "#e3e7ee",
        "paper": "#ffffff",
        "accent": "#3457d5",
        "good": "#16895f",
        "warn": "#c77700",
        "bad": "#c8373f",
        "mute": "#a9b3c2",
        "second": "#8a4fd0",
    },
    "dark": {
        "ink": "#e6ebf2",
        "soft": "#9aa7b8",
        "rule": "#2b3442",
        "paper": "#12161d",
        "accent": "#7d9bff",
        "good": "#45c08b",
        "warn": "#eba63c",
        "bad": "#f0747b",
        "mute": "#5b687a",
        "second": "#b48cf0",
    },
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
    axis = {f"{part}Color": colors["soft"] for part in ("label", "title")}
    axis |= {f"{part}Color": colors["mute"] for part in ("domain", "tick")}
    return {
        "background": "transparent",
        "font": "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
        "view": {"stroke": None},
        "axis": {
            **axis,
            "gridColor": colors["rule"],
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelOverlap": True,
            "labelSeparation": 6,
        },
        "axisX": {"grid": False, "titlePadding": 6, "tickCount": {"expr": "max(3, ceil(width / 90))"}},
        # Above the axis and level: nobody has to turn their head.
        "axisY": {
            **{"titleAngle": 0, "titleAlign": "left", "titleAnchor": "end", "titleX": -40, "titleY": -12},
            "domain": False,
        },
        "legend": {
            **{"orient": "top", "title": None, "offset": 32, "labelFontSize": 12, "symbolSize": 70},
            "labelColor": colors["soft"],
        },
        "range": {
            "category": [colors[color] for color, _ in KINDS.values()],
            "ramp": [colors["mute"], colors["accent"]],
            "heatmap": {"scheme": "viridis"},
        },
        "bar": {"color": colors["accent"]},
        "rule": {"color": colors["ink"]},
        "text": {"color": colors["ink"], "fontSize": 11},
        "style": {
            "axis": {"stroke": colors["soft"]},
            "on-bar": {"color": colors["paper"], "fontWeight": "bold"},
            "label": {"color": colors["ink"], "fontSize": 10.5},
            "halo": {"color": colors["paper"], "stroke": colors["paper"], "strokeWidth": 4, "fontSize": 10.5},
        },
    }

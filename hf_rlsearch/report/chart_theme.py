"""Holds the colours of the page and its charts in light and dark, and the Vega-Lite config made from them."""

from __future__ import annotations

import json
from importlib.resources import files
from string import Template
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
    """The Vega-Lite config of a colour scheme, "light" or "dark": theme.json with colours in place of their roles."""
    text = files("hf_rlsearch.report").joinpath("theme.json").read_text(encoding="utf-8")
    config: dict[str, Any] = json.loads(Template(text).substitute(PALETTES[scheme]))
    config["range"]["category"] = [PALETTES[scheme][color] for color, _ in KINDS.values()]
    return config

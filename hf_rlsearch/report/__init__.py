"""What a search did, to be looked at: one HTML file, plots as SVG or PNG, tables as text or CSV.

Everything here is made from an Optuna study alone, in any storage, also while the search is still running.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_rlsearch.report.decisions import Explanation, explain
    from hf_rlsearch.report.html import write_report
    from hf_rlsearch.report.plots import PLOTS, write_plots
    from hf_rlsearch.report.records import SearchRecord, TrialRecord
    from hf_rlsearch.report.tables import to_csv, to_text
    from hf_rlsearch.storage import open_study

_HOME = {
    "Explanation": "decisions",
    "PLOTS": "plots",
    "SearchRecord": "records",
    "TrialRecord": "records",
    "explain": "decisions",
    "open_study": ".storage",
    "to_csv": "tables",
    "to_text": "tables",
    "write_plots": "plots",
    "write_report": "html",
}
__all__ = [
    "PLOTS",
    "Explanation",
    "SearchRecord",
    "TrialRecord",
    "explain",
    "open_study",
    "to_csv",
    "to_text",
    "write_plots",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that importing the package stays cheap."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value

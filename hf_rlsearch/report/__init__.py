"""Presents a search: one HTML page, charts as SVG or PNG, tables as text or CSV, explanations of single trials.

Everything is made from an Optuna study alone, in any storage, also while the search is still running. The page and the
charts need the extra ``report`` (``pip install 'hf-rlsearch[report]'``); tables and explanations do not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hf_rlsearch.optuna.storage import open_study
from hf_rlsearch.report.explanation import Explanation, explain
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.report.tables import to_csv, to_dataframe, to_html_table, to_text

if TYPE_CHECKING:
    from hf_rlsearch.report.charts import PLOTS, write_plots
    from hf_rlsearch.report.html import write_report

_OF_THE_EXTRA = {"PLOTS": "charts", "write_plots": "charts", "write_report": "html"}
__all__ = [
    "PLOTS",
    "Explanation",
    "SearchRecord",
    "TrialRecord",
    "explain",
    "open_study",
    "to_csv",
    "to_dataframe",
    "to_html_table",
    "to_text",
    "write_plots",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Loads on first use the names whose modules need the extra."""
    if name in _OF_THE_EXTRA:
        return getattr(import_module(f"{__name__}.{_OF_THE_EXTRA[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

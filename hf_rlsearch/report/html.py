"""Writes the report of a search as one self-contained HTML file: charts, tables, explanations, style and script."""

from __future__ import annotations

import json
from datetime import datetime
from functools import cache
from importlib.resources import files
from pathlib import Path

import jinja2
import optuna

from hf_rlsearch._version import __version__
from hf_rlsearch.observation.trial_attributes import ENDS, N_TRIALS, OUTLOOK, STOPPED_BY
from hf_rlsearch.optuna.storage import open_study, prepare_output
from hf_rlsearch.report.analysis import front, importances, knee, shown_trials, summarize
from hf_rlsearch.report.charts import PALETTES, all_charts, javascript, named_data, theme
from hf_rlsearch.report.explanation import explain
from hf_rlsearch.report.format import duration, ended_by, number, show, show_params, size
from hf_rlsearch.report.records import SearchRecord, TrialRecord, as_dict
from hf_rlsearch.report.tables import columns, rows

# Anchor, title and charts of each section.
_SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("progress", "Progress", ("best-so-far", "trade-off", "confirmations", "metrics")),
    ("allocation", "Where the compute went", ("allocation", "gantt", "learning-curves")),
    ("space", "What was searched", ("parallel", "importance", "heat-map", "slice-")),
    ("cost", "What it cost", ("time", "memory")),
)


def write_report(
    source: optuna.Study | str | Path, path: str | Path, *, study_name: str | None = None, refresh: int | None = None
) -> Path:
    """Writes the report of a search as one self-contained HTML file.

    The report can be written at any time, also while the search runs; then it shows what is known so far.

    Args:
        source: A study, the ``output_dir`` of a search, a storage URL such as ``sqlite:///search.db``, or the file of a
            storage.
        path: The file to write; its folder is made if it is not there.
        study_name: Which study of the storage; the newest one if left out.
        refresh: Seconds after which a browser that shows the page loads it again; None for a page that stays.

    Returns:
        The path of the file.

    Raises:
        ArgumentsError: `path` is a folder, or a storage.
        StorageError: There is no such storage or study.
        MissingExtraError: The extra ``report`` is not installed; raised when this function is imported.
    """
    study = open_study(source, study_name=study_name)
    path = Path(path)
    prepare_output(path)
    text = to_html(study, refresh=refresh)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(path)  # a browser that loads the page meanwhile never sees half of it
    return path


def to_html(study: optuna.Study, *, refresh: int | None = None) -> str:
    """The report of `study` as text; see `write_report`."""
    search = SearchRecord.from_study(study)
    best = search.best()
    shares = importances(study, search)
    charts, data = all_charts(search, shares)
    shown = sorted(shown_trials(search))
    # "slice-" stands for the charts of all hyperparameters, every other name for one chart.
    drawn = {key: [c for c in charts.values() if c.name.startswith(wanted)] for key, _, wanted in _SECTIONS}
    payload = {
        "themes": {scheme: theme(scheme) for scheme in PALETTES},
        "data": data,
        "charts": {c.name: {"spec": c.spec, "data": sorted(named_data(c.spec))} for c in charts.values()},
    }
    return _template().render(
        search=search,
        summary=summarize(search),
        best=best,
        baseline=search.baseline(),
        front=front(search),
        knee=knee(search),
        code=to_copy(best) if best else "",
        measured=len(shares) > 1,
        sections=[(key, title, drawn[key]) for key, title, _ in _SECTIONS if drawn[key]],
        ended=ended_by(str(search.attributes.get(STOPPED_BY) or ""), as_dict(search.attributes.get(ENDS))),
        outlook=str(search.attributes.get(OUTLOOK) or ""),
        reasons=[explain(search, number) for number in shown],
        columns=columns(search),
        rows=list(zip(search.trials, rows(search), strict=True)),
        # An HTML parser ends a script at the first "</script", wherever it stands.
        charts=json.dumps(payload, separators=(",", ":")).replace("<", "\\u003c"),
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
        refresh=refresh,
    )


@cache  # bundling the library takes seconds, and a watched report is written many times
def _template() -> jinja2.Template:
    def read(name: str) -> str:
        return files("hf_rlsearch.report").joinpath(name).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    environment.filters.update(number=number, show=show, show_params=show_params, duration=duration, size=size)
    environment.globals.update(
        library=javascript().replace("</script", "<\\/script"),
        script=read("page.js"),
        style=read("page.css"),
        palettes=PALETTES,
        version=__version__,
        n_trials_key=N_TRIALS,
    )
    return environment.from_string(read("page.html"))


# Group of values -> where they are pasted. The keys beside "args" and "suggested" are the prefixes of scoped names.
_GROUPS = {
    "args": "TrainingArguments(output_dir, **args)",
    "model": "AutoConfig.from_pretrained(checkpoint, **model)",
    "peft": "LoraConfig(**peft)",
    "gen": "model.generation_config.update(**gen)",
    "train": "no TrainingArguments: returned by hp_space",
    "suggested": "no TrainingArguments: used by model_init or hp_space",
}


def to_copy(trial: TrialRecord) -> str:
    """The values of a trial as Python code to paste: the fields of ``TrainingArguments``, then all other values.

    Args:
        trial: Of a search of this package or of any other study, in which every name without a prefix counts as a field
            of ``TrainingArguments``.
    """
    lines: dict[str, list[str]] = {group: [] for group in _GROUPS}
    for name, value in {**trial.params, **trial.returned}.items():
        prefix, dot, field = name.partition(".")
        if dot and prefix in _GROUPS:
            lines[prefix].append(f"    {name if prefix == 'train' else field!r}: {value!r},")
        else:
            is_argument = not trial.arguments or name in trial.arguments
            lines["args" if is_argument else "suggested"].append(f"    {name!r}: {value!r},")
    parts = ["\n".join([f"# {_GROUPS[group]}", f"{group} = {{", *own, "}"]) for group, own in lines.items() if own]
    return "\n\n".join(parts) or "# no hyperparameters"

"""Measures how much early values of learning curves tell, in recorded trainings and in uses of a bank of miniatures.

    python scripts/benchmarks/early_values.py --tables TABLES --bank runs/meta_train/bank

For a sixth, a quarter and a half of each training: the rank correlation of the best values so far with those at the
end, and the share of the trainings that the one which ends best is ahead of. Then the share of the tables whose
correlation at a quarter is so high that meta-training draws more of them. A row per family of tables, one for uses of
the bank as they come, and one for uses as meta-training draws them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import _benchmarking as bench
from hf_rlsearch._typing import FloatArray
from hf_rlsearch.observation.curve_features import mean_ranks, rank_correlation
from hf_rlsearch.tasks.bank import list_tables, read_tables
from hf_rlsearch.tasks.bank_tasks import MAX_EVALUATIONS, TELLING, TELLS, draw_from_bank, early_values_tell
from recorded_tasks import RecordedTask, load_tasks

FRACTIONS = (1 / 6, 1 / 4, 1 / 2)
_LEAST_REPORTS, _N_USES = 4, 400


def recorded_curves(task: RecordedTask) -> FloatArray | None:
    """R x S best values so far, larger is better, of the trainings of a table; None where curves are too short."""
    curves = [task.curve(levels) * (1 if task.maximize else -1) for levels in task.rows] if task.has_curves else []
    if not curves or np.median([len(curve) for curve in curves]) < _LEAST_REPORTS:
        return None
    fractions = np.arange(1, MAX_EVALUATIONS + 1) / MAX_EVALUATIONS
    shown = np.array([curve[np.ceil(fractions * len(curve) - 1e-9).astype(int) - 1] for curve in curves])
    worst = shown[np.isfinite(shown)].min()
    return np.maximum.accumulate(np.where(np.isfinite(shown), shown, worst), axis=1)


def early_and_late(curves: FloatArray) -> list[float]:
    """For each of the fractions the rank correlation with the ends, and the rank in [0, 1] of the best training.

    At last 1 where `early_values_tell`, else 0.
    """
    found = []
    for fraction in FRACTIONS:
        early, late = curves[None, :, round(fraction * curves.shape[1]) - 1], curves[None, :, -1]
        correlation = rank_correlation(early, late, np.ones_like(early, dtype=bool))[0]
        found += [float(correlation), float(mean_ranks(early)[0, late.argmax()] / (len(curves) - 1))]
    return [*found, float(early_values_tell(curves))]


def _row(name: str, measured: Sequence[Sequence[float]]) -> list[str]:
    return [name, str(len(measured)), *(f"{mean:.2f}" for mean in np.nanmean(measured, axis=0))]


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="*", default=[], help="folders of recorded tables")
    parser.add_argument("--bank", type=Path, help="folder of a bank")
    args = parser.parse_args()
    rows, families = [], {}
    for task in (task for folder in args.tables for task in load_tasks(folder)):
        if (curves := recorded_curves(task)) is not None:
            families.setdefault(task.family, []).append(early_and_late(curves))
    rows += [_row(family, measured) for family, measured in families.items()]
    if args.bank is not None:
        tables = read_tables(list_tables(args.bank))
        for name, telling in (("bank, as it comes", 0.0), ("bank, as drawn", TELLING)):
            uses = draw_from_bank(
                np.random.default_rng(0), tables, _N_USES, curves=True, best_counts=1.0, telling=telling
            )
            pairs = zip(uses.curves, uses.candidate_mask, strict=True)
            rows.append(_row(name, [early_and_late(curves[mask]) for curves, mask in pairs]))
    columns = [f"{what} at 1/{round(1 / f)}" for f in FRACTIONS for what in ("correlation", "rank of the best")]
    print(bench.table(["", "tables", *columns, f"at least {TELLS} at 1/4"], rows))


if __name__ == "__main__":
    main()

"""The metrics of GLUE, one combination per task; same configurations and values as the Hub's module of this name."""

from typing import Any

import datasets
import evaluate
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from hf_rlsearch.metrics._bundled import BundledMetric

ACCURACY_TASKS = ("sst2", "mnli", "mnli_mismatched", "mnli_matched", "qnli", "rte", "wnli", "hans")
TASKS = (*ACCURACY_TASKS, "cola", "stsb", "mrpc", "qqp")


class Glue(BundledMetric):
    """GLUE: accuracy; F1 as well for MRPC and QQP; Matthews correlation for CoLA; both correlations for STS-B."""

    def _info(self) -> evaluate.MetricInfo:
        if self.config_name not in TASKS:
            raise KeyError(f"config_name={self.config_name!r} is no task of GLUE: expected one of {sorted(TASKS)}.")
        label = datasets.Value("float32" if self.config_name == "stsb" else "int64")
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="Wang et al. 2019, GLUE: a multi-task benchmark and analysis platform (arXiv:1804.07461)",
            inputs_description="predictions and references: class numbers, or scores for stsb.",
            features=datasets.Features({"predictions": label, "references": label}),
        )

    def _compute(self, predictions: list[Any], references: list[Any]) -> dict[str, float]:
        if self.config_name == "cola":
            return {"matthews_correlation": float(matthews_corrcoef(references, predictions))}
        if self.config_name == "stsb":
            linear, rank = pearsonr(predictions, references), spearmanr(predictions, references)
            return {"pearson": float(linear[0]), "spearmanr": float(rank[0])}
        scores = {"accuracy": float(accuracy_score(references, predictions))}
        if self.config_name in ("mrpc", "qqp"):
            scores["f1"] = float(f1_score(references, predictions, zero_division=0))
        return scores

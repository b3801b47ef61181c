"""Accuracy, from scikit-learn; same arguments and values as the Hub's module of this name."""

from typing import Any

import datasets
import evaluate
from sklearn.metrics import accuracy_score

from hf_rlsearch.metrics._bundled import BundledMetric


class Accuracy(BundledMetric):
    """The share of predictions that equal their reference, in [0, 1], larger is better."""

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("int32")
        label = datasets.Sequence(value) if self.config_name == "multilabel" else value
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="Pedregosa et al. 2011, Scikit-learn: Machine Learning in Python",
            inputs_description="predictions and references: class numbers; normalize=False counts; sample_weight.",
            features=datasets.Features({"predictions": label, "references": label}),
        )

    def _compute(
        self,
        predictions: list[Any],
        references: list[Any],
        normalize: bool = True,
        sample_weight: list[float] | None = None,
    ) -> dict[str, float]:
        score = accuracy_score(references, predictions, normalize=normalize, sample_weight=sample_weight)
        return {"accuracy": float(score)}

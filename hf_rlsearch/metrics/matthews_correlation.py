"""Matthews correlation, from scikit-learn; same arguments and values as the Hub's module of this name."""

from typing import Any

import datasets
import evaluate
import numpy as np
from sklearn.metrics import matthews_corrcoef

from hf_rlsearch.metrics._bundled import BundledMetric


class MatthewsCorrelation(BundledMetric):
    """The correlation of two classifications, in [-1, 1], larger is better; 0 for a constant guess (GLUE's CoLA)."""

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("int32")
        label = datasets.Sequence(value) if self.config_name == "multilabel" else value
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="Pedregosa et al. 2011, Scikit-learn: Machine Learning in Python",
            inputs_description="predictions and references: class numbers; sample_weight; average (multilabel): macro.",
            features=datasets.Features({"predictions": label, "references": label}),
        )

    def _compute(
        self,
        predictions: list[Any],
        references: list[Any],
        sample_weight: list[float] | None = None,
        average: str | None = None,
    ) -> dict[str, Any]:
        if self.config_name != "multilabel":
            return {
                "matthews_correlation": float(matthews_corrcoef(references, predictions, sample_weight=sample_weight))
            }
        if average not in (None, "macro"):
            raise ValueError(f"average={average!r}: expected 'macro', or None for one value per label.")
        columns = zip(np.array(references).T, np.array(predictions).T, strict=True)
        scores = [float(matthews_corrcoef(true, guess, sample_weight=sample_weight)) for true, guess in columns]
        return {"matthews_correlation": float(np.mean(scores)) if average == "macro" else scores}

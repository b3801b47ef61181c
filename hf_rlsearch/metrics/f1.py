"""F1, from scikit-learn; same arguments and values as the Hub's module of this name."""

from typing import Any

import datasets
import evaluate
from sklearn.metrics import f1_score

from hf_rlsearch.metrics._bundled import BundledMetric


class F1(BundledMetric):
    """The harmonic mean of precision and recall, in [0, 1], larger is better; 0 where a class is never predicted."""

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value("int32")
        label = datasets.Sequence(value) if self.config_name == "multilabel" else value
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="Pedregosa et al. 2011, Scikit-learn: Machine Learning in Python",
            inputs_description="predictions and references: class numbers; labels, pos_label, average, sample_weight.",
            features=datasets.Features({"predictions": label, "references": label}),
        )

    def _compute(
        self,
        predictions: list[Any],
        references: list[Any],
        labels: list[int] | None = None,
        pos_label: int = 1,
        average: str | None = "binary",
        sample_weight: list[float] | None = None,
    ) -> dict[str, Any]:
        # zero_division=0 is scikit-learn's default value without its warning: early in a training a class goes unused
        score = f1_score(
            references,
            predictions,
            labels=labels,
            pos_label=pos_label,
            average=average,
            sample_weight=sample_weight,
            zero_division=0,
        )
        return {"f1": score if getattr(score, "size", 1) > 1 else float(score)}

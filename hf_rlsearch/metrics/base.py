"""Makes an ``evaluate`` module of a scoring function, with one clear error if there are no predictions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import datasets
import evaluate

from hf_rlsearch.errors import ArgumentsError

TEXT = datasets.Value("string")
ONE_OR_MORE_REFERENCES = [
    datasets.Features({"predictions": TEXT, "references": datasets.Sequence(TEXT)}),
    datasets.Features({"predictions": TEXT, "references": TEXT}),
]


@dataclass(frozen=True, kw_only=True)
class Definition:
    """Defines a bundled metric by a function, whose docstring describes the metric, and the rest of ``MetricInfo``."""

    score: Callable[..., dict[str, Any]]  # (predictions, references, **options) -> the values by name
    features: Any  # of predictions and references; a list where several forms are allowed
    inputs: str
    citation: str


class BundledMetric(evaluate.Metric):  # type: ignore[misc]
    """Computes a metric of at least one prediction; without any, ``evaluate`` and its libraries fail in many ways."""

    def __init__(self, name: str, definition: Definition, config_name: str | None = None) -> None:
        self._definition = definition
        # Batches in files would make processes that share a cache folder wait for each other.
        super().__init__(config_name=config_name, keep_in_memory=True)
        self.info.module_name = name  # the default, the name of the class, is the same for all bundled metrics

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(self._definition.score.__doc__),
            citation=self._definition.citation,
            inputs_description=self._definition.inputs,
            features=self._definition.features,
        )

    def _compute(self, **inputs: Any) -> dict[str, Any]:
        return self._definition.score(**inputs)

    def compute(self, **inputs: Any) -> dict[str, Any] | None:
        """Scores the given predictions together with the batches that were added before.

        Raises:
            ArgumentsError: Neither this call nor a batch before had a prediction.
        """
        sizes = self._sizes(inputs)
        if not any(sizes.values()) and self.writer is None:
            what = " and ".join(f"{name}=[]" for name in sizes) or "no predictions"
            raise ArgumentsError(
                f"metric {self.name!r} was given {what} and has no batches from before, expected at least one "
                "prediction. Check that the evaluation data are not empty and that nothing filters out all of them."
            )
        return super().compute(**inputs)  # type: ignore[no-any-return]

    def add_batch(self, **inputs: Any) -> None:
        """Adds a batch; an empty batch adds nothing.

        Raises:
            ArgumentsError: One of predictions and references is empty, the other is not.
        """
        sizes = self._sizes(inputs)
        if any(sizes.values()) and not all(sizes.values()):
            given = " and ".join(f"{size} {name}" for name, size in sizes.items())
            raise ArgumentsError(f"metric {self.name!r} was given {given}, expected the same number of each.")
        if any(sizes.values()):
            super().add_batch(**inputs)

    def _sizes(self, inputs: dict[str, Any]) -> dict[str, int]:
        return {name: len(inputs[name]) for name in self._feature_names() if inputs.get(name) is not None}

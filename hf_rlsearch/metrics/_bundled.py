"""What the bundled metrics share: one clear error where there is nothing to score."""

import abc
from typing import Any

import evaluate

from hf_rlsearch.errors import ArgumentsError


# Abstract, because evaluate takes the first class of a script that is not for the script's metric.
class BundledMetric(evaluate.Metric, abc.ABC):  # type: ignore[misc]
    """A metric that needs at least one prediction; ``evaluate`` and the libraries below it fail in many ways without.

    The modules of the Hub define no score of nothing either: they raise, or return NaN with a warning.
    """

    @abc.abstractmethod
    def _info(self) -> evaluate.MetricInfo: ...

    def compute(self, **inputs: Any) -> dict[str, Any] | None:
        """As ``evaluate`` does, which see.

        Raises:
            ArgumentsError: Neither here nor in batches before has a prediction been given.
        """
        given = self._sizes(inputs)
        # In a metric of several processes the others may have predictions.
        if not any(given.values()) and self.writer is None and self.num_process == 1:
            what = " and ".join(f"{name}=[]" for name in given) or "no predictions"
            raise ArgumentsError(
                f"metric {self.name!r} was given {what} and has no batches from before, expected at least one "
                "prediction. Check that the evaluation data are not empty and that nothing filters out all of them."
            )
        return super().compute(**inputs)  # type: ignore[no-any-return]

    def add_batch(self, **inputs: Any) -> None:
        """As ``evaluate`` does, which see; a batch of nothing adds nothing.

        Raises:
            ArgumentsError: One of predictions and references is empty, the other is not.
        """
        given = self._sizes(inputs)
        if any(given.values()) and not all(given.values()):
            sizes = " and ".join(f"{size} {name}" for name, size in given.items())
            raise ArgumentsError(f"metric {self.name!r} was given {sizes}, expected as many of each.")
        if any(given.values()) or self.num_process > 1:
            super().add_batch(**inputs)

    def _sizes(self, inputs: dict[str, Any]) -> dict[str, int]:
        return {name: len(inputs[name]) for name in self._feature_names() if inputs.get(name) is not None}

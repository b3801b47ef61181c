"""Miniature trainings: tiny networks, really pretrained and fine-tuned with hundreds of configurations side by side."""

from typing import Any, TypeAlias

import numpy.typing as npt

Table: TypeAlias = dict[str, npt.NDArray[Any]]
"""A search space and what its configurations gave, as arrays by name: see `table.make_table`."""

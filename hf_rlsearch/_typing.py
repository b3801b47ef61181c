"""Defines array aliases, and the letters that docstrings use for shapes.

========  =====================================================================
letter    meaning
========  =====================================================================
``B``     batch: searches (or tasks) side by side
``T``     trials of a search, padded
``C``     candidates, padded
``H``     hyperparameters, padded
``L``     levels of a hyperparameter, padded
``F``     features of one value of one hyperparameter
``S``     points of a learning curve, padded
========  =====================================================================
"""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.floating[Any]]
IntArray: TypeAlias = npt.NDArray[np.integer[Any]]
BoolArray: TypeAlias = npt.NDArray[np.bool_]
Params: TypeAlias = dict[str, Any]

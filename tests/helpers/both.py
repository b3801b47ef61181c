"""One assertion for two backends: "optuna" is expected to fail it, "rl" to hold it.

The failure is strict: if a new transformers fixes a defect, the test fails. Some of the defects are younger than
the oldest transformers that is supported; there it may pass.
"""

from typing import Any

import pytest
import transformers
from packaging.version import Version

STRICT = Version(transformers.__version__) >= Version("5.23")
# What ``pytest.raises`` raises where nothing was raised.
NOT_REFUSED = pytest.fail.Exception


def on_both(raises: Any = AssertionError) -> Any:
    """Parametrizes over the backends: "optuna", a slow test, fails with the given exception."""
    defect = pytest.mark.xfail(raises=raises, strict=STRICT, reason="defect of the backend")
    fails = pytest.param("optuna", marks=[defect, pytest.mark.slow])
    return pytest.mark.parametrize("backend", [fails, "rl"])

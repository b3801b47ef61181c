"""Marks for what the oldest supported transformers does not do itself."""

import pytest
import transformers
from packaging.version import Version

IS_OLDEST = Version(transformers.__version__) < Version("5.1")

exact_within_epochs = pytest.mark.skipif(
    IS_OLDEST, reason="transformers 5.0 resumes from a checkpoint within an epoch with another random state"
)

"""Runs the command ``hf-rlsearch`` as ``python -m hf_rlsearch``."""

import sys

from hf_rlsearch.cli import main

sys.exit(main())

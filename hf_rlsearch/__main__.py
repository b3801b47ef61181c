"""``python -m hf_rlsearch`` is the command ``hf-rlsearch``."""

import sys

from hf_rlsearch.cli import main

sys.exit(main())

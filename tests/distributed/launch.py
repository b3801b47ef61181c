"""Starts two ranks with torchrun under a time limit: a deadlock is a red test, not a hung job."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.helpers.processes import run_limited

ROOT = Path(__file__).resolve().parents[2]


def launch(
    folder: Path, *scenarios: str, limit: float = 900, group_seconds: float = 60, restarts: int = 0
) -> subprocess.CompletedProcess[str]:
    """Runs scenarios on two ranks, one after the other.

    Raises:
        subprocess.TimeoutExpired: They took longer than the limit; both ranks are gone then.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    command += ["--nproc-per-node=2", f"--max-restarts={restarts}", "-m", "tests.distributed.worker"]
    command += [str(folder), str(group_seconds), *scenarios]
    # torch 2.13 keeps the store of a start for the next: restarted ranks may call at the addresses of dead ones.
    shared = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    environment = {
        **os.environ,
        **shared,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(ROOT),
    }
    return run_limited(command, limit=limit, cwd=ROOT, env=environment, stderr=subprocess.STDOUT)


def seen(folder: Path, scenario: str) -> list[dict[str, Any]]:
    """What each rank wrote."""
    return [json.loads((folder / f"{scenario}-{rank}.json").read_text()) for rank in range(2)]

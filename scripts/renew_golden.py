"""Writes the golden files of the bundled weights anew: three observations, and the scores that the weights give them.

    python scripts/renew_golden.py [--weights rl-v5]

Run it after the bundled weights have been replaced. The observations are renewed with the scores only where
`--observations` is given: they are stored as arrays, so that a change of the prior or of the observation builder does
not pass unseen.
"""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from hf_rlsearch.agent.agent import load_agent, one_torch_thread
from hf_rlsearch.agent.network import Arrays
from hf_rlsearch.observation.observation import Observation, SpaceArrays, space_arrays
from hf_rlsearch.tasks.histories import draw_history, measure, observe_tasks, train_partly
from hf_rlsearch.tasks.prior import draw

FOLDER = Path(__file__).parent.parent / "tests" / "golden"
OBSERVATIONS, SCORES = FOLDER / "observations.npz", FOLDER / "scores.npz"


def make_observations() -> Observation:
    """Three simulated searches: their trials are complete, pruned, failed and running."""
    rng = np.random.default_rng(2024)
    tasks = draw(rng, 3, 12)
    chosen, mask = draw_history(rng, tasks, 8)
    return observe_tasks(
        space_arrays(tasks), tasks, train_partly(rng, tasks, chosen, mask, measure(rng, tasks, chosen))
    )


def save_observations(observation: Observation) -> None:
    """Writes every array of an observation, those of its space as ``space.*``."""
    own = {f.name: getattr(observation, f.name) for f in fields(Observation) if f.name != "space"}
    space = {f"space.{f.name}": getattr(observation.space, f.name) for f in fields(SpaceArrays)}
    np.savez_compressed(OBSERVATIONS, **own, **space)


def load_observations() -> Observation:
    """The stored observation, B = 3."""
    with np.load(OBSERVATIONS, allow_pickle=False) as stored:
        space = SpaceArrays(**{f.name: stored[f"space.{f.name}"] for f in fields(SpaceArrays)})
        own = {f.name: stored[f.name] for f in fields(Observation) if f.name != "space"}
    return Observation(space=space, **own)


def score(observation: Observation, weights: str | None = None) -> np.ndarray:
    """B x C x bins probabilities of the mixture."""
    with one_torch_thread(), torch.inference_mode():
        return np.asarray(load_agent(weights).mixture(Arrays.of(observation)).numpy())


def main() -> None:
    """Renews the scores, and the observations where asked to or where there are none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="name or path; the bundled default where not given")
    parser.add_argument("--observations", action="store_true", help="renew the observations too")
    args = parser.parse_args()
    if args.observations or not OBSERVATIONS.exists():
        save_observations(make_observations())
        print(f"wrote {OBSERVATIONS}")
    np.savez_compressed(SCORES, scores=score(load_observations(), args.weights).astype(np.float32))
    print(f"wrote {SCORES}")


if __name__ == "__main__":
    main()

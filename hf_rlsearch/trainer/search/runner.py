"""Trains one trial on all ranks, which agree on how it ended and on whether its model is kept."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from optuna.trial import TrialState

from hf_rlsearch.errors import SearchFailed
from hf_rlsearch.trainer.search.coordinator import SearchCoordinator
from hf_rlsearch.trainer.search.distributed import ProcessGroup
from hf_rlsearch.trainer.search.providers import TrainerProvider
from hf_rlsearch.trainer.search.trial import EvaluationMonitor, TrialOutcome, TrialPlan, run_trial
from hf_rlsearch.trainer.session import failures
from hf_rlsearch.trainer.session import trackers as tracking
from hf_rlsearch.trainer.session.failures import CAUSED_BY_ANOTHER_RANK, DeviceLost, Failure, RankLost
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.objective import Objective
from hf_rlsearch.trainer.storage import checkpoints


@dataclass
class DistributedTrialRunner:
    """Trains the planned trials; every rank calls it with the same plans in the same order."""

    provider: TrainerProvider
    settings: SearchConfig
    group: ProcessGroup
    objective: Objective
    coordinator: SearchCoordinator | None  # on rank 0; None on the other ranks
    # Number of a trial that may be the best at the end -> weights of its model, if the model is not on disk.
    weights: dict[int, dict[str, Any]] = field(default_factory=dict, init=False)

    def train(self, plan: TrialPlan) -> tuple[TrialOutcome, Exception | None]:
        """Trains a trial on all ranks.

        Returns:
            The outcome that the ranks agree on, and an exception that has to end the search.

        Raises:
            RankLost: A rank failed alone or is gone, so the job has to end. The next start of the search records the
                trial as failed, with the reason of that rank.
        """
        reported = self._reported_failure(plan)
        if reported is not None:
            return TrialOutcome(TrialState.FAIL, failure=reported, step=reported.step or 0), None
        coordinator = self.coordinator
        monitor = EvaluationMonitor(
            self.objective,
            self.group,
            report=None if coordinator is None else coordinator.report,
            should_pause=None if coordinator is None else coordinator.should_pause,
        )
        trainer: Any = None
        error: Exception | None = None
        try:
            trainer = self.provider.trainer_for(plan, monitor)
            if coordinator is not None:
                tracking.start_run(trainer, name=plan.name, group=coordinator.study.study_name)
            outcome, error = run_trial(trainer, plan, monitor)
        except Exception as caught:
            error = caught
            outcome = self._failed(caught)
        try:
            outcome, fatal = self._agree(plan, outcome, error)
            if outcome.state == TrialState.COMPLETE:
                outcome, fatal = self._keep_model(trainer, plan, outcome)
            if coordinator is not None:
                final = dict(zip(self.objective.names, outcome.values, strict=False))
                trained = {**coordinator.hyperparameters, **outcome.found}
                tracking.finish_run(trainer, hyperparameters=trained, objective=final)
        except RankLost as lost:
            failure = failures.read_report(plan.folder, plan.number)
            what = "cannot continue" if failure is None else f"failed on rank {failure.rank} with {failure.reason}"
            raise RankLost(f"Trial {plan.number} {what.rstrip('.')}. {lost}") from error or lost
        finally:
            trainer = None  # so that the provider can free its memory
            self.provider.release()
        return outcome, fatal

    def _reported_failure(self, plan: TrialPlan) -> Failure | None:
        """Returns the failure that a rank of an earlier start has written for this trial; None if there is none.

        Every rank looks, since the ranks of several machines may have disks of their own.
        """
        found = failures.read_report(plan.folder, plan.number)
        reports = self.group.gather({} if found is None else asdict(found))
        return next((Failure(**report) for report in reports if report), None)

    def _failed(self, error: Exception, step: int | None = None) -> TrialOutcome:
        return TrialOutcome(TrialState.FAIL, failure=Failure.from_error(error, rank=self.group.rank, step=step))

    def _agree(
        self, plan: TrialPlan, outcome: TrialOutcome, error: Exception | None
    ) -> tuple[TrialOutcome, Exception | None]:
        """Returns one outcome for all ranks: rank 0's, or the failure of any rank.

        Returns:
            The outcome, and the exception to raise if ``catch`` does not include the exception of a failed trial, or
            if the device of a rank is lost.
        """
        raised = None if error is None else outcome.failure
        if raised is not None and self.group.size > 1:
            # For the next start, in case the other ranks, rank 0 included, never leave a collective.
            failures.write_report(plan.folder, plan.number, raised)
        caught = error is None or isinstance(error, self.settings.caught)
        reports = self.group.gather(
            {"caught": caught, "outcome": outcome.to_json()}, kind=None if raised is None else raised.kind
        )
        outcomes = [TrialOutcome.from_json(report["outcome"]) for report in reports]
        # What the trial needed is what the rank that needed most did.
        needed = {name: max(getattr(each, name) for each in outcomes) for name in ("peak_memory", "seconds")}
        outcomes[0] = replace(outcomes[0], **needed)
        failed = [each.failure for each in outcomes if each.failure is not None]
        if failed:
            first = next((failure for failure in failed if failure.kind not in CAUSED_BY_ANOTHER_RANK), failed[0])
            agreed = replace(outcomes[0], state=TrialState.FAIL, failure=first, values=(), checkpoint=None)
            lost = next((failure for failure in failed if failure.kind == failures.DEVICE), None)
            if lost is not None:
                return agreed, DeviceLost(f"Trial {plan.number} failed with {lost.reason}")
            if reports[first.rank]["caught"]:
                return agreed, None
            if error is not None and first.rank == self.group.rank:
                return agreed, error
            return agreed, SearchFailed(f"Rank {first.rank} ended the search with {first.reason}")
        if len({each.state for each in outcomes}) > 1:
            raise AssertionError(f"The ranks disagree on how the trial ended: {[o.state.name for o in outcomes]}.")
        return outcomes[0], None

    def _keep_model(
        self, trainer: Any, plan: TrialPlan, outcome: TrialOutcome
    ) -> tuple[TrialOutcome, Exception | None]:
        """Keeps the model of a complete trial that is among the best, on disk or else in memory; see ``_agree``."""
        error: Exception | None = None
        weights: dict[str, Any] | None = None
        beside: Sequence[int] = ()
        try:
            coordinator = self.coordinator
            keeps = self.group.broadcast(None if coordinator is None else coordinator.keeps(plan.role, outcome))
            is_on_disk = False
            if keeps["disk"]:
                folder = checkpoints.save_scored(trainer, plan.folder, in_training=outcome.in_training)
                saved = self.group.broadcast({"checkpoint": folder, "is_on_disk": checkpoints.can_load(folder)})
                outcome, is_on_disk = replace(outcome, checkpoint=saved["checkpoint"]), saved["is_on_disk"]
            if keeps["memory"] and not is_on_disk:
                weights, beside = checkpoints.copy_weights(trainer), keeps["beside"]
        except Exception as caught:
            error = caught
            failed = self._failed(caught, outcome.step)
            outcome = replace(outcome, state=failed.state, failure=failed.failure)
        outcome, fatal = self._agree(plan, outcome, error)
        if weights is not None and outcome.state == TrialState.COMPLETE:
            self.weights = {number: self.weights[number] for number in beside if number in self.weights}
            self.weights[plan.number] = weights
        return outcome, fatal

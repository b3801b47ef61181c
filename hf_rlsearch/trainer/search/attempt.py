"""One training of a configuration on all ranks: they agree on how it ended and on whether its model is kept."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import SearchFailed
from hf_rlsearch.trainer.search.coordinator import SearchCoordinator
from hf_rlsearch.trainer.search.distributed import ProcessGroup
from hf_rlsearch.trainer.search.providers import TrainerProvider
from hf_rlsearch.trainer.search.trial import COMPLETE, FAILED, EvaluationMonitor, TrialOutcome, TrialPlan, run_trial
from hf_rlsearch.trainer.session import failures
from hf_rlsearch.trainer.session import trackers as tracking
from hf_rlsearch.trainer.session.failures import CAUSED_BY_ANOTHER_RANK, Failure, RankLost
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.objective import Objective
from hf_rlsearch.trainer.storage import checkpoints


class DistributedTrialRunner:
    """Trains the planned trials on all ranks; every rank calls it in the same order.

    Args:
        provider: Of the trials' Trainers.
        settings: Of the search.
        group: The processes of the search.
        objective: What is optimised.
        coordinator: Rank 0's, None on the others.
    """

    def __init__(
        self,
        provider: TrainerProvider,
        settings: SearchConfig,
        group: ProcessGroup,
        objective: Objective,
        coordinator: SearchCoordinator | None,
    ) -> None:
        self._provider, self._settings, self._group = provider, settings, group
        self._objective, self._coordinator = objective, coordinator
        # Weights of the best trial that could not be, or were not to be, kept on disk.
        self._in_memory: tuple[int, dict[str, Any]] | None = None

    def weights_of(self, number: int) -> dict[str, Any] | None:
        """The weights of a trial if they are in main memory."""
        return self._in_memory[1] if self._in_memory is not None and self._in_memory[0] == number else None

    def train(self, plan: TrialPlan) -> tuple[TrialOutcome, Exception | None]:
        """Trains a trial on all ranks.

        Returns:
            The outcome that the ranks agree on, and an exception that has to end the search.

        Raises:
            RankLost: A rank failed alone or is gone. The job has to end. The next start records the trial as failed
                with the reason of that rank: rank 0 may itself be the one that waits in a collective.
        """
        coordinator = self._coordinator
        report: Callable[[int, float], bool] = (
            coordinator.report if coordinator is not None else (lambda step, value: False)
        )
        monitor = EvaluationMonitor(
            plan, self._objective, self._group, report, None if coordinator is None else coordinator.should_pause
        )
        trainer: Any = None
        error: Exception | None = None
        fatal: Exception | None = None
        try:
            trainer = self._provider.trainer_for(plan, self._objective, monitor)
            if coordinator is not None:
                tracking.start_run(trainer, name=plan.name, group=coordinator.study.study_name)
            outcome, error = run_trial(trainer, plan, monitor, self._objective)
        except Exception as caught:
            error = caught
            outcome = TrialOutcome(status=FAILED, failure=Failure.from_error(caught, rank=self._group.rank))
        try:
            outcome, fatal = self._agree(plan, outcome, error)
            if outcome.status == COMPLETE:
                before = self._in_memory
                outcome, fatal = self._agree(plan, *self._kept(trainer, plan, outcome))
                self._in_memory = before if outcome.status == FAILED else self._in_memory
            if coordinator is not None:
                final = dict(zip(self._objective.names, outcome.values, strict=False))
                tracking.finish_run(trainer, hyperparameters=coordinator.hyperparameters, objective=final)
        except RankLost as lost:
            raise self._lost(plan, lost) from error or lost
        finally:
            trainer = None
            self._provider.release()
        return outcome, fatal

    def _agree(
        self, plan: TrialPlan, outcome: TrialOutcome, error: Exception | None
    ) -> tuple[TrialOutcome, Exception | None]:
        """One outcome for all ranks: a failure on any of them fails the trial, what rank 0 measured counts.

        Returns:
            The outcome, and the exception to raise if the failure is one that the search may not go on after.
        """
        report = {
            "caught": error is None or isinstance(error, self._settings.caught),
            "status": outcome.status,
            "values": list(outcome.values),
            "failure": None if outcome.failure is None else outcome.failure.to_json(),
        }
        raised = None if error is None else outcome.failure
        if raised is not None and self._group.size > 1:
            failures.write_report(plan.folder, plan.number, raised)
        reports = self._group.gather(report, kind=None if raised is None else raised.kind)
        failed = [Failure(**each["failure"]) for each in reports if each["failure"] is not None]
        if failed:
            first = next((failure for failure in failed if failure.kind not in CAUSED_BY_ANOTHER_RANK), failed[0])
            outcome.status, outcome.failure, outcome.values, outcome.checkpoint = FAILED, first, (), None
            return outcome, None if reports[first.rank]["caught"] else self._fatal(first, error)
        if any(each["status"] != reports[0]["status"] for each in reports):
            raise AssertionError(f"The ranks disagree on how the trial ended: {[r['status'] for r in reports]}.")
        outcome.status, outcome.values = reports[0]["status"], tuple(reports[0]["values"])
        return outcome, None

    def _fatal(self, failure: Failure, error: Exception | None) -> Exception:
        """What this rank raises for a failure that ``catch`` leaves out: its own exception, or news of another's."""
        if failure.rank == self._group.rank and error is not None:
            return error
        return SearchFailed(f"Rank {failure.rank} ended the search with {failure.reason}")

    def _lost(self, plan: TrialPlan, lost: RankLost) -> RankLost:
        """The error that ends the job, with the reason of the rank that failed where it has left one."""
        failure = failures.read_report(plan.folder, plan.number)
        if failure is None:
            return RankLost(f"Trial {plan.number} cannot continue. {lost}")
        return RankLost(f"Trial {plan.number} failed on rank {failure.rank} with {failure.reason}. {lost}")

    def _kept(self, trainer: Any, plan: TrialPlan, outcome: TrialOutcome) -> tuple[TrialOutcome, Exception | None]:
        """As ``_keep``; an exception fails the trial on this rank."""
        try:
            return self._keep(trainer, plan, outcome), None
        except Exception as error:
            failure = Failure.from_error(error, rank=self._group.rank, step=outcome.step)
            return replace(outcome, status=FAILED, failure=failure), error

    def _keep(self, trainer: Any, plan: TrialPlan, outcome: TrialOutcome) -> TrialOutcome:
        """Puts a good trial's model where it is found after the search."""
        decision = self._group.broadcast(self._worth(outcome))
        if decision["disk"]:
            outcome.checkpoint = checkpoints.save_scored(trainer, plan.folder)
        on_disk = self._group.broadcast({"checkpoint": outcome.checkpoint})["checkpoint"]
        outcome.checkpoint = on_disk
        if decision["best"] and on_disk is None:
            weights = checkpoints.copy_weights(trainer)
            self._in_memory = None if weights is None else (plan.number, weights)
        return outcome

    def _worth(self, outcome: TrialOutcome) -> Params | None:
        """Rank 0: whether the model of a trial that has just ended has to be kept."""
        if self._coordinator is None:
            return None
        leaderboard, role = self._coordinator.leaderboard, self._coordinator.role
        return {"disk": leaderboard.retain_checkpoint(role, outcome), "best": leaderboard.is_best(role, outcome)}

"""Ray Tune: what its search algorithm and scheduler tell the study, and whole searches on a local cluster."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from hf_rlsearch import ArgumentsError, RLPruner, RLSampler, SearchResult
from hf_rlsearch.space import SearchSpace
from tests.helpers.processes import run_code

tune = pytest.importorskip("ray.tune", reason="needs ray[tune]")
from ray.tune.search.optuna import OptunaSearch  # noqa: E402

from hf_rlsearch.integrations.ray_tune import RLScheduler, RLSearch, tune_trainer  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
SPACE = {
    "learning_rate": tune.loguniform(1e-5, 1e-1),
    "per_device_train_batch_size": tune.choice([8, 16, 32]),
    "num_train_epochs": tune.randint(1, 5),
}


pytestmark = pytest.mark.usefixtures("quiet")


def new_search(mode: str = "max", **options: Any) -> RLSearch:
    search = RLSearch(sampler=RLSampler(seed=0, n_trials=20), **options)
    search.set_search_properties("accuracy", mode, SPACE)
    return search


class Tuner:
    """What Tune does with a search algorithm and a scheduler, without processes."""

    def __init__(self, search: RLSearch, scheduler: RLScheduler) -> None:
        self._search, self._scheduler = search, scheduler
        self._controller = SimpleNamespace(search_alg=SimpleNamespace(searcher=SimpleNamespace(searcher=search)))

    def report(self, trial_id: str, value: float, iteration: int) -> bool:
        """Whether the training continues."""
        result = {"accuracy": value, "training_iteration": iteration}
        trial = SimpleNamespace(trial_id=trial_id)
        if self._scheduler.on_trial_result(self._controller, trial, result) == RLScheduler.STOP:
            self._search.on_trial_complete(trial_id, result)
            return False
        self._search.on_trial_result(trial_id, result)
        return True

    def train(self, trial_id: str, values: list[float]) -> bool:
        """Whether the training came to its end."""
        for iteration, value in enumerate(values, start=1):
            if not self.report(trial_id, value, iteration):
                return False
        self._search.on_trial_complete(trial_id, {"accuracy": values[-1], "training_iteration": len(values)})
        return True


def trial(search: RLSearch, number: int) -> optuna.trial.FrozenTrial:
    return search._ot_study.trials[number]


def test_a_space_of_tune_gets_its_roles_and_levels() -> None:
    space = SearchSpace.from_distributions(RLSearch.convert_search_space(SPACE))
    assert {h.name: h.role for h in space.hyperparameters} == {
        "learning_rate": "learning_rate",
        "per_device_train_batch_size": "batch_size",
        "num_train_epochs": "epochs",
    }
    search = new_search()
    for i in range(3):
        config = search.suggest(str(i))
        assert all(config[h.name] in h.levels for h in space.hyperparameters)


def test_trials_that_run_at_once_are_all_different() -> None:
    search = new_search()
    configs = [search.suggest(str(i)) for i in range(8)]
    assert len({tuple(sorted(config.items())) for config in configs}) == 8


def test_the_study_knows_how_each_training_ended() -> None:
    search = new_search()
    tuner = Tuner(search, RLScheduler(pruner=optuna.pruners.ThresholdPruner(lower=0.2)))
    for i in range(4):
        search.suggest(str(i))
    assert tuner.train("0", [0.5, 0.6])
    assert not tuner.train("1", [0.3, 0.1, 0.4])
    assert tuner.report("2", 0.4, 1)
    search.on_trial_complete("2", error=True)  # as Tune does when its process was killed
    search.on_trial_complete("3", {"accuracy": math.nan, "training_iteration": 1})
    states = [t.state for t in search._ot_study.trials]
    assert states == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.FAIL]
    assert trial(search, 0).value == 0.6
    assert trial(search, 1).intermediate_values == {1: 0.3, 2: 0.1}


def test_a_training_that_is_started_again_has_one_curve() -> None:
    search = new_search()
    tuner = Tuner(search, RLScheduler(max_resource=3))
    search.suggest("0")
    tuner.report("0", 0.1, 1)
    assert tuner.train("0", [0.2, 0.3, 0.4])
    assert trial(search, 0).intermediate_values == {1: 0.1, 2: 0.3, 3: 0.4}


@pytest.mark.parametrize(("mode", "sign"), [("max", 1.0), ("min", -1.0)])
def test_bad_trainings_are_stopped_and_never_the_leading_one(mode: str, sign: float) -> None:
    search = new_search(mode)
    tuner = Tuner(search, RLScheduler(pruner=RLPruner(max_resource=10, budget=20)))
    best, stopped = -math.inf, 0
    for i, quality in enumerate([0.6, 0.1, 0.7, 0.2, 0.3, 0.8, 0.1, 0.2, 0.9, 0.3]):
        search.suggest(str(i))
        ended = tuner.train(str(i), [sign * quality * (1 - 0.5**step) for step in range(1, 11)])
        assert ended or quality < best
        best, stopped = max(best, quality), stopped + (not ended)
    assert stopped >= 3
    assert trial(search, 8).state == TrialState.COMPLETE


def test_a_loss_and_its_negative_are_stopped_alike_and_never_at_the_last_report() -> None:
    ended = []
    for mode, sign in (("max", 1.0), ("min", -1.0)):
        search = RLSearch(sampler=optuna.samplers.RandomSampler(seed=0))  # RLSampler knows the direction
        search.set_search_properties("accuracy", mode, SPACE)
        tuner = Tuner(search, RLScheduler())
        for i in range(12):
            quality = 0.9 - 0.1 * abs(math.log10(search.suggest(str(i))["learning_rate"]) + 3)
            tuner.train(str(i), [sign * quality * (1 - 0.5**step) for step in range(1, 6)])
        trials = search._ot_study.trials
        ended.append([(t.state, t.last_step) for t in trials])
        assert any(t.state == TrialState.PRUNED for t in trials)
        assert all(t.last_step < 5 for t in trials if t.state == TrialState.PRUNED)
    assert ended[0] == ended[1]


def test_it_continues_from_a_checkpoint_of_the_experiment(tmp_path: Path) -> None:
    search = new_search()
    search.suggest("0")
    Tuner(search, RLScheduler(max_resource=3)).report("0", 0.1, 1)
    search.save(str(tmp_path / "search.pkl"))
    again = RLSearch()
    again.restore(str(tmp_path / "search.pkl"))
    assert Tuner(again, RLScheduler(max_resource=3)).train("0", [0.1, 0.3, 0.4])
    assert trial(again, 0).value == 0.4
    assert again.suggest("1") != trial(again, 0).params


def test_a_study_that_is_ahead_of_the_checkpoint_of_the_experiment(tmp_path: Path) -> None:
    """Ray writes its checkpoint every few seconds; what the study has beyond that is neither changed nor repeated."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'study.db'}")
    search = new_search(storage=storage, study_name="s")
    scheduler = RLScheduler(pruner=optuna.pruners.ThresholdPruner(lower=0.2))
    for i in range(3):
        search.suggest(str(i))
    search.save(str(tmp_path / "search.pkl"))
    search.suggest("3")
    assert Tuner(search, scheduler).train("0", [0.3, 0.5])
    assert not Tuner(search, scheduler).train("1", [0.3, 0.1])
    assert Tuner(search, scheduler).report("2", 0.4, 1)
    assert Tuner(search, scheduler).report("3", 0.6, 1)
    again = RLSearch()
    again.restore(str(tmp_path / "search.pkl"))
    tuner = Tuner(again, scheduler)
    assert tuner.train("0", [0.3, 0.6])
    assert [tuner.report("1", value, step) for step, value in ((1, 0.3), (2, 0.3))] == [True, False]
    assert tuner.train("2", [0.4, 0.7])
    assert again.suggest("of another id") == trial(again, 3).params
    assert tuner.train("of another id", [0.6, 0.8])
    assert tuner.report("not of this search", 0.1, 1)
    again.on_trial_complete("not of this search", error=True)
    study = optuna.load_study(study_name="s", storage=storage)
    assert [t.state.name for t in study.trials] == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert [t.intermediate_values for t in study.trials] == [
        {1: 0.3, 2: 0.5},
        {1: 0.3, 2: 0.1},
        {1: 0.4, 2: 0.7},
        {1: 0.6, 2: 0.8},
    ]


def test_several_objectives_are_searched_and_nothing_is_stopped() -> None:
    search = RLSearch(RLSearch.convert_search_space(SPACE), metric=["accuracy", "seconds"], mode=["max", "min"])
    search.suggest("0")
    tuner = Tuner(search, RLScheduler(pruner=RLPruner(max_resource=3)))
    for step in range(1, 4):
        result = {"accuracy": 0.1, "seconds": 1.0, "training_iteration": step}
        assert not search.should_stop("0", result, tuner._scheduler._pruner)
    search.on_trial_complete("0", result)
    assert trial(search, 0).values == [0.1, 1.0]


def test_the_scheduler_needs_our_search() -> None:
    controller = SimpleNamespace(search_alg=SimpleNamespace(searcher=OptunaSearch()))
    with pytest.raises(ArgumentsError, match=r"search_alg=RLSearch\(\.\.\.\), but search_alg is OptunaSearch"):
        RLScheduler().on_trial_result(controller, SimpleNamespace(trial_id="0"), {})


# -------------------------------------------------------------------------------------------------- on a real cluster

_CLUSTER = """
import json, math, os, signal

import optuna
import ray
from ray import tune

from hf_rlsearch import RLSampler
from hf_rlsearch.integrations.ray_tune import RLScheduler, RLSearch


def train(config):
    if config["learning_rate"] == 0.1:
        os.kill(os.getpid(), signal.SIGKILL)
    for step in range(1, 6):
        loss = abs(math.log10(config["learning_rate"]) + 3) + 1 / step
        tune.report({"loss": loss if config["learning_rate"] > 1e-5 else math.nan})


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
begin = [{"learning_rate": x, "per_device_train_batch_size": 8} for x in (0.1, 1e-5, 1e-2)]
search = RLSearch(sampler=RLSampler(seed=0, n_trials=6), points_to_evaluate=begin)
tune.Tuner(
    train,
    param_space={"learning_rate": tune.loguniform(1e-5, 1e-1), "per_device_train_batch_size": tune.choice([8, 16, 32])},
    tune_config=tune.TuneConfig(
        metric="loss", mode="min", num_samples=6, max_concurrent_trials=2, search_alg=search,
        scheduler=RLScheduler(max_resource=5),
    ),
    run_config=tune.RunConfig(storage_path=os.getcwd(), verbose=0),
).fit()
recorded = [{"state": t.state.name, "params": t.params, "value": t.value} for t in search._ot_study.trials]
print("RECORDED", json.dumps(recorded))
"""


# Nothing is reported home; on a busy machine a node takes more than the usual half a minute to start.
_RAY = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "300"}


def run(code: str, folder: Path) -> str:
    return run_code(code, folder, PYTHONPATH=str(ROOT), HOME=str(folder), **_RAY)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_search_on_a_cluster(tmp_path: Path) -> None:
    recorded = json.loads(re.findall(r"^RECORDED (.*)$", run(_CLUSTER, tmp_path), flags=re.MULTILINE)[0])
    assert [trial["state"] for trial in recorded[:2]] == ["FAIL", "FAIL"]  # killed, NaN
    assert {trial["state"] for trial in recorded[2:]} <= {"COMPLETE", "PRUNED"}
    assert len({tuple(trial["params"].values()) for trial in recorded}) == 6
    assert (
        min(trial["value"] for trial in recorded if trial["state"] == "COMPLETE") < 1.2
    )  # 1e-2, and it goes on from there


_KILLED = """
import math, os, signal, sys, time

import optuna
import ray
from ray import tune

from hf_rlsearch import RLSampler
from hf_rlsearch.integrations.ray_tune import RLScheduler, RLSearch


def train(config):
    for step in range(1, 4):
        tune.report({"loss": abs(math.log10(config["learning_rate"]) + 3) + 1 / step})


class Kill(tune.Callback):
    ended = 0

    def on_trial_complete(self, **info):
        Kill.ended += 1
        if Kill.ended == 3 and not os.path.exists("killed"):
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
folder, storage = os.path.abspath("search"), optuna.storages.RDBStorage("sqlite:///study.db")
if tune.Tuner.can_restore(folder):
    tuner = tune.Tuner.restore(folder, trainable=train)
else:
    search = RLSearch(sampler=RLSampler(seed=0, n_trials=5), storage=storage, study_name="s")
    tuner = tune.Tuner(
        train,
        param_space={"learning_rate": tune.loguniform(1e-5, 1e-1)},
        tune_config=tune.TuneConfig(
            metric="loss", mode="min", num_samples=5, max_concurrent_trials=2, search_alg=search,
            scheduler=RLScheduler(max_resource=3),
        ),
        run_config=tune.RunConfig(storage_path=os.getcwd(), name="search", verbose=0, callbacks=[Kill()]),
    )
results = tuner.fit()
trials = optuna.load_study(study_name="s", storage=storage).trials
print("RECORDED", len(results), results.num_errors, sorted({t.state.name for t in trials}), len(trials) >= 5)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_killed_driver_is_restored(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        run(_KILLED, tmp_path)
    before = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}").trials
    assert sum(t.state.is_finished() for t in before) == 3
    recorded = re.findall(r"^RECORDED (.*)$", run(_KILLED, tmp_path), flags=re.MULTILINE)[0]
    assert recorded in ("5 0 ['COMPLETE', 'PRUNED'] True", "5 0 ['COMPLETE'] True")
    after = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path / 'study.db'}").trials
    assert [t for t in after if t.number in {b.number for b in before if b.state.is_finished()}] == [
        t for t in before if t.state.is_finished()
    ]


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_example_of_the_docs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "how_to" / "ray.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(import math.*?)```", text, flags=re.DOTALL)[0]
    printed = run(example, tmp_path)
    assert "learning_rate" in printed.splitlines()[-1]


_TRAINER = """
import ray
from ray import tune
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments

from hf_rlsearch import RLSampler, embedded
from hf_rlsearch.integrations.ray_tune import RLScheduler, RLSearch

checkpoint = embedded.path("bert-tiny")
tokenizer = AutoTokenizer.from_pretrained(checkpoint)
data = embedded.classification_dataset(n_train=64, n_validation=32)
data = data.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=32), batched=True)
trainer = Trainer(
    model_init=lambda: AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=6),
    args=TrainingArguments("out", eval_strategy="steps", eval_steps=0.5, report_to="none", use_cpu=True),
    train_dataset=data["train"],
    eval_dataset=data["validation"],
    processing_class=tokenizer,
    compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
)
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
search = RLSearch(sampler=RLSampler(n_trials=2), metric="objective", mode="max")
best = trainer.hyperparameter_search(
    lambda trial: {"learning_rate": tune.loguniform(1e-5, 1e-3)},
    backend="ray",
    n_trials=2,
    direction="maximize",
    compute_objective=lambda metrics: metrics["eval_accuracy"],
    search_alg=search,
    scheduler=RLScheduler(max_resource=2),
)
complete = [t for t in search._ot_study.trials if t.state.name == "COMPLETE"]
assert len(search._ot_study.trials) == 2 and all(len(t.intermediate_values) == 2 for t in complete)
print("TOLD", best.objective == max(t.value for t in complete), best.hyperparameters == search._ot_study.best_params)
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_ray_backend_of_the_trainer(tmp_path: Path) -> None:
    assert "TOLD True True" in run(_TRAINER, tmp_path)


# ------------------------------------------------------------------------------------------- the search of a Trainer

_TASK = """
import os
import signal
from pathlib import Path

from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from hf_rlsearch import embedded

FOLDER = Path(__file__).parent


def happens_first(name):
    try:
        (FOLDER / name).touch(exist_ok=False)
        return True
    except FileExistsError:
        return False


class Crash(TrainerCallback):
    def on_evaluate(self, *args, **kwargs):
        if happens_first("worker killed"):
            os.kill(os.getpid(), signal.SIGKILL)


def make_trainer(values):
    checkpoint = embedded.path("bert-tiny")
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    data = embedded.classification_dataset(n_train=64, n_validation=32)
    data = data.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=32), batched=True)
    return Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=6),
        args=TrainingArguments(
            str(FOLDER / "search"), eval_strategy="steps", eval_steps=0.5, report_to="none", use_cpu=True, **values
        ),
        train_dataset=data["train"],
        eval_dataset=data["validation"],
        processing_class=tokenizer,
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
        callbacks=[Crash()] if values else None,
    )


def hp_space(trial):
    if trial.number == 3 and (FOLDER / "worker killed").exists() and happens_first("driver killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    return {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True)}
"""

_SEARCH = """
import json

import ray
from safetensors.torch import load_file
from task import hp_space, make_trainer

from hf_rlsearch.integrations.ray_tune import tune_trainer

ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
result = tune_trainer(
    "task:make_trainer", hp_space, n_trials=4, resources={"cpu": 0.5}, max_concurrent_trials=2, max_failures=1
)
best = result.best_trial
trainer = make_trainer(result.hyperparameters(best) if best.number else {})
trainer.model.load_state_dict(load_file(result.best_checkpoint + "/model.safetensors"))
print("RECORDED", json.dumps({
    "states": [t.state.name for t in result.trials],
    "roles": [t.user_attrs["rl:role"] for t in result.trials],
    "curves": [len(t.intermediate_values) for t in result.trials],
    "params": [t.params for t in result.trials],
    "best": best.value,
    "scored again": trainer.evaluate()["eval_accuracy"],
    "stopped by": result.stopped_by,
}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_trainer_is_searched_although_a_worker_and_the_driver_are_killed(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(_TASK)
    with pytest.raises(AssertionError):
        run(_SEARCH, tmp_path)
    assert (tmp_path / "driver killed").exists()
    before = SearchResult.load(tmp_path / "search").trials
    printed = run(_SEARCH, tmp_path)
    recorded = json.loads(re.findall(r"^RECORDED (.*)$", printed, flags=re.MULTILINE)[0])
    assert recorded["roles"][:4] == ["baseline", "search", "search", "search"]  # stopped ones pay for more
    assert recorded["params"][0] == {"learning_rate": 5e-5}  # the default of TrainingArguments
    assert recorded["states"][0] == "COMPLETE"
    assert set(recorded["states"]) <= {"COMPLETE", "PRUNED"}
    assert all(n == 2 for n, state in zip(recorded["curves"], recorded["states"], strict=True) if state == "COMPLETE")
    assert recorded["scored again"] == recorded["best"]
    assert recorded["stopped by"] == "n_trials"
    after = SearchResult.load(tmp_path / "search").trials
    assert [after[t.number] for t in before if t.state.is_finished()] == [t for t in before if t.state.is_finished()]
    files = {path: path.stat().st_mtime for path in (tmp_path / "search").glob("run-*")}
    assert f"RECORDED {json.dumps(recorded)}" in run(_SEARCH, tmp_path)  # stored: nothing is trained
    assert {path: path.stat().st_mtime for path in (tmp_path / "search").glob("run-*")} == files


def test_what_cannot_work_on_a_cluster_is_refused_before_any_work() -> None:
    def hp_space(trial: optuna.Trial) -> dict[str, Any]:
        return {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3)}

    def refused(text: str, make_trainer: Any = "task:make_trainer", **options: Any) -> None:
        with pytest.raises(ArgumentsError, match=text):
            tune_trainer(make_trainer, hp_space, **options)

    class Trainer:
        pass

    made = Trainer()
    refused(r"storage='sqlite:///x.db' given, expected no such option", storage="sqlite:///x.db")
    refused(r"resources=\{'gpu': -1\} given, expected a dict of numbers", resources={"gpu": -1})
    refused(r"max_concurrent_trials=0 given, expected a whole number of at least 1", max_concurrent_trials=0)
    refused(r"max_failures=-1 given, expected a whole number of at least 0", max_failures=-1)
    refused(r"direction=\['minimize', 'maximize'\] given, expected one", direction=["minimize", "maximize"])
    refused(r"n_trials=0 given", n_trials=0)
    refused(r"make_trainer='no_module:f' given, expected 'module:function'", "no_module:f")
    refused(r"make_trainer is of type int, expected a function", 3)
    refused(r"make_trainer uses 'made', a Trainer, which Ray would have to pickle", lambda values: made)
    refused(r"make_trainer\(\{\}\) raised KeyError", lambda values: values["learning_rate"])
    with pytest.raises(TypeError, match="unexpected keyword argument 'n_trial'"):
        tune_trainer("task:make_trainer", hp_space, n_trial=3)  # type: ignore[call-arg]

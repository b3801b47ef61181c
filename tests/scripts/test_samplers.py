"""The benchmarks of samplers and pruners: their statistics on known answers, and small runs on a made-up table."""

import importlib
import importlib.util
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import optuna
import pytest

MISSING = {name for name in ("flaml", "hebo", "neps", "pymoo", "syne_tune") if importlib.util.find_spec(name) is None}
"""Peers that are no dependency."""
REAL = Path(__file__).resolve().parents[3] / "shared" / "bench" / "tables"


@pytest.fixture(autouse=True)
def restore_verbosity() -> Iterator[None]:
    """The scripts turn Optuna's verbosity down."""
    verbosity = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(verbosity)


@pytest.fixture
def bench() -> ModuleType:
    return importlib.import_module("_benchmarking")


@pytest.fixture
def samplers() -> ModuleType:
    return importlib.import_module("samplers")


@pytest.fixture
def pruners() -> ModuleType:
    return importlib.import_module("pruners")


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Two families of one task each: 5 x 3 configurations, curves of four checkpoints, the best in the middle."""
    meta = {}
    for family, direction, sign in (("losses", "minimize", 1), ("scores", "maximize", -1)):
        lines = ["hp:learning_rate,hp:optimizer,objective,curve"]
        for i, rate in enumerate((1e-5, 3e-5, 1e-4, 3e-4, 1e-3)):
            for j, optimizer in enumerate(("adam", "sgd", "lion")):
                end = sign * (1 + abs(i - 2) + 0.4 * j)
                curve = " ".join(str(end + sign * rest) for rest in (3, 2, 1, 0))
                lines.append(f"{rate},{optimizer},{end},{curve}")
        (tmp_path / f"{family}.csv").write_text("\n".join(lines))
        meta[f"{family}_a"] = {
            "path": f"{family}.csv",
            "family": family,
            "direction": direction,
            "hyperparameters": [
                {"name": "learning_rate", "levels": [1e-5, 3e-5, 1e-4, 3e-4, 1e-3], "ordered": True, "log": True},
                {"name": "optimizer", "levels": ["adam", "sgd", "lion"], "ordered": False, "log": False},
            ],
        }
    (tmp_path / "tasks.json").write_text(json.dumps(meta))
    return tmp_path


def test_families_weigh_the_same_whatever_their_size(bench: ModuleType) -> None:
    curves = bench.Curves({"large": np.zeros((9, 2, 1)), "small": np.ones((1, 2, 1))})
    assert curves.mean().tolist() == [0.5]
    np.testing.assert_allclose(curves.resampled(50), 0.5)


def test_the_interval_is_that_of_the_mean(bench: ModuleType) -> None:
    """One task per family: only seeds are drawn again, and the spread is the standard error."""
    noise = np.random.default_rng(0).random((1, 100, 1))
    low, high = bench.interval(bench.Curves({"a": noise}).resampled()[:, 0])
    assert low < noise.mean() < high
    assert (high - low) / 2 == pytest.approx(1.96 * noise.std() / 10, rel=0.1)


def test_differences_are_paired(bench: ModuleType) -> None:
    """A constant gap between noisy methods is known exactly, because both are resampled alike."""
    noise = np.random.default_rng(0).random((3, 4, 2)) / 2
    curves = {"ours": bench.Curves({"a": noise}), "peer": bench.Curves({"a": noise + 0.25})}
    text = bench.difference_table(curves, "ours", [1, 2])
    assert "| peer | all | +0.250 [+0.250, +0.250] | +0.250 [+0.250, +0.250] |" in text


def test_wins_count_ties_half(bench: ModuleType) -> None:
    first = np.array([[[0.0], [0.5], [0.5], [1.0]]])
    second = np.array([[[0.1], [0.5], [0.6], [0.0]]])
    text = bench.win_table({"a": bench.Curves({"f": first}), "b": bench.Curves({"f": second})}, 1)
    assert "| a |  | 62% |" in text
    assert "| b | 38% |  |" in text


def test_budget_until_the_reference_is_reached(bench: ModuleType) -> None:
    slow = np.array([[[1.0, 0.5, 0.2]]])
    curves = {"TPE": slow, "quick": np.array([[[0.4, 0.1, 0.1]]]), "never": np.ones((1, 1, 3))}
    text = bench.reached_table({m: bench.Curves({"f": c}) for m, c in curves.items()}, "TPE", 3)
    assert "| TPE | 3 | 3.0 |" in text
    assert "| quick | 2 | 2.0 |" in text
    assert "| never | not reached | 4.0 |" in text


def test_only_seeds_that_are_complete_count(bench: ModuleType, samplers: ModuleType, tables: Path) -> None:
    tasks = samplers.load_tasks(tables)
    results = bench.Results(tables / "out.json", {})
    for cell in (("a", "losses_a", 0), ("a", "losses_a", 1), ("a", "scores_a", 0), ("b", "losses_a", 0)):
        results.cells[results.key(cell)] = {"regret": [3.0]}
    curves = bench.collect(results, ["a", "b"], tasks)
    assert list(curves) == ["a"]
    assert curves["a"].n_seeds == 1
    assert curves["a"].mean().tolist() == [1.0]  # clipped


def test_seeds_are_those_of_the_task_alone(bench: ModuleType) -> None:
    assert bench.seed_of("a", 0) == bench.seed_of("a", 0) < 2**31
    assert len({bench.seed_of(task, seed) for task in "abc" for seed in range(50)}) == 150


def run(script: ModuleType, tables: Path, *options: str) -> dict[str, object]:
    script.main(["--tables", str(tables), "--out", str(tables / "out.json"), "--seeds", "2", *options])
    stored: dict[str, object] = json.loads((tables / "out.json").read_text())
    return stored


def test_a_run_goes_on_where_it_ended(
    samplers: ModuleType, tables: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trials", "5", "--times", "20"]
    first = run(samplers, tables, *options, "--samplers", "random", "ours")
    cells = first["cells"]
    assert isinstance(cells, dict)
    assert len(cells) == 8
    assert all(len(c["regret"]) == 5 and np.all(np.diff(c["regret"]) <= 0) for c in cells.values())
    searched = []
    original = samplers.search
    monkeypatch.setattr(samplers, "search", lambda *a: searched.append(a[0]) or original(*a))
    report, figure = tables / "table.md", tables / "figure.svg"
    second = run(
        samplers, tables, *options, "--samplers", "random", "TPE", "--report", str(report), "--figure", str(figure)
    )
    assert set(searched) == {"TPE"}
    assert second["cells"].items() >= cells.items()  # type: ignore[attr-defined]
    text = report.read_text()
    for part in ("equal weight", "losses (1 tasks)", "Difference, paired", "wins @5", "budget for TPE @5", "20 trials"):
        assert part in text
    assert text in capsys.readouterr().out
    assert figure.read_text().startswith("<svg")


def test_the_same_cell_is_the_same_search(samplers: ModuleType, tables: Path) -> None:
    task = samplers.load_tasks(tables)[0]
    for method in ("random", "TPE, 4 start-up", "ours"):
        first, second = (samplers.search(method, task, 1, 6, None)["regret"] for _ in range(2))
        assert first == second


def test_a_first_trial_that_is_given_is_the_same_for_all(samplers: ModuleType, tables: Path) -> None:
    for task in samplers.load_tasks(tables):
        for first in ("middle", "random"):
            methods = ("random", "TPE, 4 start-up", "ours", "ours, facts")
            regrets = [samplers.search(method, task, 1, 6, None, first)["regret"] for method in methods]
            assert len({regret[0] for regret in regrets}) == 1
            assert {len(regret) for regret in regrets} == {6}


def test_a_peer_that_starts_in_the_middle_is_the_same_as_one_that_is_told_to(
    samplers: ModuleType, tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for task in samplers.load_tasks(tables):
        own = samplers.search("middle, then TPE", task, 1, 12, None)["regret"]
        assert own == samplers.search("TPE, 4 start-up", task, 1, 12, None, "middle")["regret"]
        assert own != samplers.search("TPE, 4 start-up", task, 1, 12, None)["regret"]
    report = tables / "table.md"
    options = ["--trials", "2", "--times", "--first", "middle", "--report", str(report)]
    stored = run(samplers, tables, *options, "--samplers", "TPE, 4 start-up", "middle, then TPE")
    assert stored["settings"] == {"trials": 2, "first": "middle"}
    assert {key.split("|")[0] for key in stored["cells"]} == {"TPE, 4 start-up"}  # type: ignore[attr-defined]
    assert "middle, then TPE: left out, with the same first trial it equals TPE, 4 start-up" in capsys.readouterr().out
    assert report.read_text().startswith("The first trial of every method: middle.")


def test_the_agent_is_told_the_facts_that_it_knows(
    samplers: ModuleType, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = json.loads((tables / "tasks.json").read_text())
    entries["losses_a"] |= {"metric": "loss", "lora": None, "facts": {"n_train": 1000, "untrained": {"loss": 9.0}}}
    (tables / "tasks.json").write_text(json.dumps(entries))
    peers, told = importlib.import_module("_peers"), []
    monkeypatch.setattr(peers, "RLSampler", lambda **options: told.append(options) or optuna.samplers.RandomSampler())
    for task in samplers.load_tasks(tables):
        samplers.search("ours, facts", task, 0, 1, None)
    assert [options["search_space"].names for options in told] == [("learning_rate", "optimizer")] * 2
    known = {"n_examples": 3.0, "lora": 0.0, "untrained": 9.0}
    assert told[0]["facts"] == {name: value for name, value in known.items() if name in peers.FACTS}
    assert told[1]["facts"] == {}


def test_wrong_facts_are_wrong_by_a_hundred(
    samplers: ModuleType, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = json.loads((tables / "tasks.json").read_text())
    entries["losses_a"] |= {"metric": "loss", "facts": {"n_train": 1000, "untrained": {"loss": 9.0}}}
    (tables / "tasks.json").write_text(json.dumps(entries))
    peers, told = importlib.import_module("_peers"), []
    monkeypatch.setattr(peers, "RLSampler", lambda **options: told.append(options) or optuna.samplers.RandomSampler())
    task = samplers.load_tasks(tables, names=["losses_a"])[0]
    for seed in range(20):
        samplers.search("ours, wrong facts", task, seed, 1, None)
    assert {options["facts"]["n_examples"] for options in told} == {1.0, 5.0}
    assert {options["facts"]["untrained"] for options in told} == {9.0}


def test_trials_until_the_first_above_chance_are_counted(
    bench: ModuleType, samplers: ModuleType, tables: Path, tmp_path: Path
) -> None:
    """Three of fifteen losses are below that of the untrained model. It is never reached in the second search."""
    entries = json.loads((tables / "tasks.json").read_text())
    entries["losses_a"] |= {"metric": "loss", "facts": {"untrained": {"loss": 1.9}}}
    (tables / "tasks.json").write_text(json.dumps(entries))
    tasks = samplers.load_tasks(tables)
    assert [task.above_chance.sum() for task in tasks] == [3, 0]
    results = bench.Results(tmp_path / "runs.json", {})
    for seed, values in enumerate(([5.0, 1.4, 1.4], [5.0, 5.0, 5.0])):
        regret = np.minimum.accumulate(tasks[0].regret(np.array(values))).tolist()
        results.cells[f"random|losses_a|{seed}"] = {"regret": regret}
    assert "| random | 3.0 | 3.0 |" in samplers.chance_table(results, tasks)
    assert samplers.chance_table(results, tasks[1:]) == ""


def test_searches_of_other_weights_are_forgotten(bench: ModuleType, tmp_path: Path) -> None:
    results = bench.Results(tmp_path / "out.json", {})
    results.cells = {"ours|a|0": {"made_by": "old"}, "random|a|0": {"made_by": "peer"}}
    results.drop_stale({"ours": "new", "random": "peer"})
    assert list(results.cells) == ["random|a|0"]


def test_other_settings_and_unknown_names_are_refused(samplers: ModuleType, pruners: ModuleType, tables: Path) -> None:
    run(samplers, tables, "--trials", "2", "--times", "--samplers", "random")
    with pytest.raises(SystemExit, match="give another --out"):
        run(samplers, tables, "--trials", "3", "--times", "--samplers", "random")
    with pytest.raises(SystemExit, match=r"no samplers \['hyperopt'\]"):
        run(samplers, tables, "--samplers", "hyperopt")
    with pytest.raises(SystemExit, match=r"no pairs \['a \+ b'\]"):
        run(pruners, tables, "--pairs", "a + b")


def test_variants_without_training(samplers: ModuleType, tmp_path: Path) -> None:
    """An untrained network is other weights than ours; where PPO has trained nothing, there is no row without it."""
    from safetensors.torch import load_file, save_file

    from hf_rlsearch.agent.checkpoint import load_weights, resolve
    from hf_rlsearch.agent.decision_head import DecisionHead

    variants = samplers.variants(None, tmp_path)
    ours, untrained = (load_weights(variants[m])[0] for m in ("ours", "ours, from scratch"))
    assert any(not ours[k].equal(v) for k, v in untrained.items())
    tensors = {k: v for k, v in load_file(resolve(None)).items() if not k.startswith("head.")}
    card = load_weights(None)[1].to_json()
    of_ppo = {f"head.{name}": tensor for name, tensor in DecisionHead().state_dict().items()}
    for head, expected in (({}, False), (of_ppo, True)):
        save_file({**tensors, **head}, tmp_path / "own.safetensors", metadata={"card": card})
        variants = samplers.variants(str(tmp_path / "own.safetensors"), tmp_path)
        assert ("ours, no PPO" in variants) == expected
    assert not any(k.startswith("head.") for k in load_weights(variants["ours, no PPO"])[0])


@pytest.mark.parametrize(
    ("pair", "prunes"), [("random + none", False), ("TPE + hyperband", None), ("ours + halving", True)]
)
def test_the_budget_is_counted_in_full_trainings(
    pruners: ModuleType, tables: Path, pair: str, prunes: bool | None
) -> None:
    """Whether so few trials are enough for Hyperband to prune any depends on their brackets."""
    for task in pruners.load_tasks(tables):
        result = pruners.search(pair, task, 0, 4, None)
        assert len(result["regret"]) == 4
        assert np.all(np.diff(result["regret"]) <= 0)
        assert result["trials"] >= 4
        assert prunes is None or (result["trials"] > 4) == prunes


def test_the_budget_can_be_counted_in_seconds(
    pruners: ModuleType, tables: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainings that take twice as long as the average: half as many fit, and one is not begun with nothing left."""
    task = pruners.load_tasks(tables)[0]
    mean = task.mean_seconds
    monkeypatch.setattr(type(task), "seconds", lambda self, levels: 2 * mean)
    fewer, more = (pruners.search("random + none", task, 0, 8, None, in_seconds=s) for s in (True, False))
    assert len(fewer["regret"]) == 8
    assert fewer["trials"] == 4 < more["trials"]
    # Equal trainings in the same order: after the time of two of them as good as after one before.
    assert fewer["regret"][1] == more["regret"][0]


def test_a_sampler_is_told_the_seconds_of_each_candidate(pruners: ModuleType, tables: Path) -> None:
    task = pruners.load_tasks(tables)[0]
    price = partial(task.price, in_seconds=True)
    search = pruners.PairSearch("ours + none + prices", task, 0, 3, None, price)
    search.train(3.0)
    search.train(2.0)
    levels = search.study.levels(search.study.trial.params)
    decision = search.study.study.trials[1].system_attrs["rl:decision"]
    assert decision["price"] == pytest.approx(price(levels) * len(task.curve(levels)), rel=1e-3)


def test_a_training_that_goes_on_pays_the_rest_only(pruners: ModuleType, tables: Path) -> None:
    task = next(t for t in pruners.load_tasks(tables) if t.maximize)
    never = optuna.pruners.ThresholdPruner(lower=10.0)
    study = pruners.OptunaSearch(task, optuna.samplers.RandomSampler(seed=0), never, values=True)
    paused, paid = pruners.Paused(), []
    for _ in range(4):
        study.study.enqueue_trial(task.params([2, 0]))
        begun = paused.take(study, levels := study.ask())
        new = pruners.train(study, task, task.curve(levels), begun)
        paid.append(new.tolist())
        paused.put(study, levels, begun + len(new))
    assert [value for new in paid for value in new] == task.curve([2, 0]).tolist()
    trials = study.study.trials
    assert [t.user_attrs.get("rl:continues") for t in trials] == [None, 0, 1, 2]
    assert [len(t.intermediate_values) for t in trials] == [1, 2, 3, 4]
    assert [t.state.name for t in trials] == ["PRUNED"] * 3 + ["COMPLETE"]


def test_the_ablation(pruners: ModuleType, tables: Path) -> None:
    report = tables / "table.md"
    stored = run(pruners, tables, "--budget", "3", "--ablation", "--report", str(report))
    assert "| both, and trainings go on |" in report.read_text()
    assert {key.split("|")[0] for key in stored["cells"]} == set(pruners.ABLATION.values())  # type: ignore[attr-defined]


def test_a_run_of_the_pruners(pruners: ModuleType, tables: Path) -> None:
    report = tables / "table.md"
    run(pruners, tables, "--budget", "3", "--pairs", "TPE + none", "ours + none", "--report", str(report))
    assert "budget for TPE + none @3" in report.read_text()


def test_a_peer_that_is_asked_for_and_not_installed(
    samplers: ModuleType, pruners: ModuleType, tables: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Asked for by name it is an error that says what to install; among all it is left out."""
    if "hebo" not in MISSING or "syne_tune" not in MISSING:
        pytest.skip("HEBO or Syne Tune is installed here")
    with pytest.raises(SystemExit, match="'HEBO' cannot be run: its module hebo is not installed: pip install hebo"):
        run(samplers, tables, "--samplers", "random", "HEBO")
    with pytest.raises(SystemExit, match=r"'Syne Tune BOHB' cannot be run: .*no version of Syne Tune is installed"):
        run(pruners, tables, "--pairs", "TPE + none", "Syne Tune BOHB")
    assert not any(pair.startswith("Syne Tune") for pair in pruners.available(None, None))
    assert "HEBO" not in samplers.available(None, {})
    assert "Syne Tune's: left out, it needs Syne Tune 0.13.0" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "install"), [("NePS", "neural-pipeline-search"), ("FLAML CFO", "flaml==2.8.0")])
def test_what_to_install_for_a_peer(samplers: ModuleType, tables: Path, name: str, install: str) -> None:
    if samplers.PEERS[name].needs not in MISSING:
        pytest.skip(f"{name} is installed here")
    with pytest.raises(SystemExit, match=f"'{name}' cannot be run: .*pip install .*{install}"):
        run(samplers, tables, "--samplers", name)


@pytest.mark.skipif("flaml" in MISSING, reason="FLAML is not installed")
@pytest.mark.parametrize("searcher", ["BlendSearch", "CFO"])
def test_flaml_proposes_nothing_twice(
    samplers: ModuleType, tables: Path, monkeypatch: pytest.MonkeyPatch, searcher: str
) -> None:
    for task in samplers.load_tasks(tables):
        first, second = (samplers.search(f"FLAML {searcher}", task, 0, 6, None)["regret"] for _ in range(2))
        assert first == second
        assert first[0] == samplers.search("middle, then TPE", task, 0, 1, None)["regret"][0]
        search = samplers.PEERS[f"FLAML {searcher}"].start(task, 0, 20, None)
        search.preload(np.array([[2, 1], [0, 0], [2, 1]]))
        asked = []
        for _ in range(6):
            asked.append(tuple(search.ask()))
            search.tell(task.value(asked[-1]))
        assert len({(2, 1), (0, 0), *asked}) == 8
    monkeypatch.setattr(search, "_propose", lambda: False)
    rate, optimizer = search.ask()  # at random: FLAML knows all that it would propose
    search.tell(0.0)
    assert 0 <= rate < 5
    assert 0 <= optimizer < 3


@pytest.mark.slow
@pytest.mark.skipif("neps" in MISSING, reason="NePS is not installed")
@pytest.mark.filterwarnings("ignore")  # NePS and what it uses have warnings of their own.
def test_neps_chooses_the_same_again(samplers: ModuleType, tables: Path) -> None:
    for task in samplers.load_tasks(tables):
        first, second = (samplers.search("NePS", task, 0, 5, None)["regret"] for _ in range(2))
        assert first == second
        assert first[0] == samplers.search("middle, then TPE", task, 0, 1, None)["regret"][0]


@pytest.mark.skipif("hebo" in MISSING, reason="HEBO is not installed")
@pytest.mark.filterwarnings("ignore")  # HEBO and what it uses have warnings of their own.
def test_hebo_chooses_the_same_again(samplers: ModuleType, tables: Path) -> None:
    task = samplers.load_tasks(tables)[0]
    first, second = (samplers.search("HEBO", task, 0, 5, None)["regret"] for _ in range(2))
    assert first == second


@pytest.mark.skipif("pymoo" in MISSING, reason="pymoo, which comes with HEBO, is not installed")
@pytest.mark.filterwarnings("ignore")
def test_duplicates_are_those_that_pymoo_finds() -> None:
    from pymoo.core.duplicate import ElementwiseDuplicateElimination
    from pymoo.core.mixed import MixedVariableDuplicateElimination
    from pymoo.core.population import Population

    rng = np.random.default_rng(0)
    pop, other = (Population.new(X=[{"a": int(a), "b": b / 2} for a, b in rng.integers(0, 4, (12, 2))]) for _ in "ab")
    pairs = MixedVariableDuplicateElimination()
    ours = importlib.import_module("_hebo")._duplicates
    for against in (None, other):
        expected = ElementwiseDuplicateElimination._do(pairs, pop, against, np.full(12, False))
        assert ours(pairs, pop, against, np.full(12, False)).tolist() == expected.tolist()
        assert 0 < expected.sum() < 12


@pytest.mark.skipif("syne_tune" in MISSING, reason="Syne Tune is not installed")
@pytest.mark.parametrize("name", ["ASHA", "BOHB", "MOBSTER", "DyHPO"])
def test_schedulers_of_syne_tune(pruners: ModuleType, tables: Path, name: str) -> None:
    for task in pruners.load_tasks(tables):
        first, second = (pruners.search(f"Syne Tune {name}", task, 0, 4, None) for _ in range(2))
        assert first == second
        assert len(first["regret"]) == 4
        assert np.all(np.diff(first["regret"]) <= 0)
        assert first["trials"] > 4
        assert (first["continued"] > 0) == (name == "DyHPO")


@pytest.mark.skipif("syne_tune" in MISSING, reason="Syne Tune is not installed")
def test_syne_tune_pays_new_checkpoints_only(pruners: ModuleType, tables: Path) -> None:
    """The pieces of a paused training are its curve, and no piece is longer than what is left."""
    task = pruners.load_tasks(tables)[0]
    search = pruners.SyneTuneSearch("Syne Tune DyHPO", task, 0, lambda levels: 1 / task.full_training)
    pieces: dict[int, list[float]] = {}
    for _ in range(12):
        before = {i: n for i, (_, n) in search._begun.items()}
        new = search.train(3)
        (own,) = [i for i, (_, n) in search._begun.items() if n != before.get(i, 0)]
        pieces.setdefault(own, []).extend(new.tolist())
        assert 0 < len(new) <= 3
    for i, values in pieces.items():
        levels = [int(search._begun[i][0].config[h.name]) for h in task.hyperparameters]
        assert values == task.curve(levels)[: len(values)].tolist()
    assert search.continued > 0
    assert search.trials == 12


@pytest.mark.skipif("syne_tune" in MISSING, reason="Syne Tune is not installed")
def test_a_training_that_syne_tune_paused_at_its_end_is_over(pruners: ModuleType, tables: Path) -> None:
    """DyHPO pauses at the third checkpoint, where some of these trainings end anyway."""
    path = tables / "losses.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line if i % 3 else line.rsplit(" ", 1)[0] for i, line in enumerate(lines)))
    task = pruners.load_tasks(tables, families=["losses"])[0]
    assert {len(task.curve([i, j])) for i in range(5) for j in range(3)} == {3, 4}
    result = pruners.search("Syne Tune DyHPO", task, 0, 20, None)  # more than the table has: it ends by itself
    assert result["regret"][-1] == 0


@pytest.mark.data
@pytest.mark.skipif(not REAL.is_dir(), reason="the recorded tables are not beside this repository")
def test_on_a_real_table(samplers: ModuleType, tmp_path: Path) -> None:
    task = samplers.load_tasks(REAL, names=["steplaw_moe_Na590M_k1_D8B"])[0]
    for method in ("random", "ours"):
        regret = samplers.search(method, task, 0, 5, None)["regret"]
        assert len(regret) == 5
        assert regret[-1] >= 0

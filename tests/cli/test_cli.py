"""The command `hf-rlsearch`: what it prints, and the exit codes and one-line errors of everything that can go wrong."""

import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import create_trial

from hf_rlsearch import __version__
from hf_rlsearch.cli import inspect, main

COMMANDS = ("demo", "report", "explain", "replay", "space", "weights", "doctor")


@pytest.fixture
def database(tmp_path: Path) -> str:
    """An SQLite file with one study of three trials; the second is the best."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path = tmp_path / "search.db"
    study = optuna.create_study(storage=f"sqlite:///{path}", study_name="s")
    for value in (0.5, 0.25, 0.75):
        attrs = {"rl:arguments": {"learning_rate": value}, "rl:role": "search"}
        trial = create_trial(
            value=value, params={"x": value}, distributions={"x": FloatDistribution(0, 1)}, user_attrs=attrs
        )
        study.add_trial(trial)
    return str(path)


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name}" in text for name in COMMANDS)


@pytest.mark.parametrize(
    "argv",
    [[], ["run", "glue"], ["report"], ["weights", "a", "b"], ["doctor", "--fast"], ["explain", "x.db", "five"]],
)
def test_wrong_usage_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "Usage: hf-rlsearch" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "option"), [(["report", "x.db", "--tabel"], "--table"), (["demo", "--n_trials", "3"], "--n-trials")]
)
def test_a_misspelt_option_is_named_with_the_right_one(
    argv: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error")]
    assert argv[-2 if argv[0] == "demo" else -1] in line
    assert option in line


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"hf_rlsearch {__version__}\n"


@pytest.mark.parametrize("argv", [["--help"], ["report", "--help"], ["demo", "--help"]])
def test_help_loads_nothing_heavy(argv: list[str]) -> None:
    heavy = ("torch", "optuna", "transformers.trainer", "datasets", "pandas", "numpy")
    code = f"import sys, hf_rlsearch.cli; hf_rlsearch.cli.main({argv}); print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.splitlines()[-1] == "[]"
    assert "Usage: hf-rlsearch" in run.stdout


def test_report_writes_all_that_was_asked_for(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, plots, table = tmp_path / "r.html", tmp_path / "plots", tmp_path / "none" / "t.csv"
    argv = ["report", f"sqlite:///{database}", "-o", str(page), "--plots", str(plots), "--csv", str(table), "--table"]
    assert main(argv) == 0
    assert "<!doctype html>" in page.read_text()
    assert (plots / "best-so-far.svg").is_file()
    assert len(table.read_text().splitlines()) == 4
    out = capsys.readouterr().out
    assert f"report: {page}" in out
    assert "*1" in out


@pytest.mark.parametrize("option", ["-o", "--csv"])
def test_no_report_is_written_over_a_storage(
    option: str, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither over the one that is read, nor over another one, whatever its name."""
    journal, page = tmp_path / "trials.csv", tmp_path / "r.html"
    optuna.create_study(storage=JournalStorage(JournalFileBackend(str(journal))))
    for storage in (Path(database), journal):
        before = storage.read_bytes()
        assert main(["report", database, "-o", str(page), option, str(storage)]) == 1
        assert f"{str(storage)!r} is a storage, and is not written over" in capsys.readouterr().err
        assert storage.read_bytes() == before
    assert not page.exists()


def test_a_watched_report_follows_the_search_until_ctrl_c(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, waits, texts = tmp_path / "r.html", [], []

    def sleep(seconds: float) -> None:
        """A trial ends during the first wait; Ctrl-C ends the second one."""
        waits.append(seconds)
        texts.append(page.read_text())
        if len(waits) == 2:
            raise KeyboardInterrupt
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{database}")
        study.add_trial(create_trial(value=0.125, params={"x": 0.1}, distributions={"x": FloatDistribution(0, 1)}))

    monkeypatch.setattr("time.sleep", sleep)
    assert main(["report", database, "-o", str(page), "--watch", "5"]) == 0
    assert waits == [5, 5]
    assert all('http-equiv="refresh" content="5"' in text for text in texts)
    assert ("3 trials" in texts[0], "4 trials" in texts[1]) == (True, True)
    assert "refresh" not in page.read_text()
    assert [path.name for path in tmp_path.glob("*.partial")] == []
    capsys.readouterr()
    assert main(["report", database, "--watch", "0"]) == 2
    assert "Invalid value for '--watch'" in capsys.readouterr().err


def test_a_command_that_fails_ends_with_1_and_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "sqlite:///no.db"]) == 1
    assert "hf-rlsearch: There is no storage at 'no.db'" in capsys.readouterr().err
    assert not Path("no.db").exists()


def test_explain_one_and_all(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", database, "1"]) == 0
    assert capsys.readouterr().out.startswith("Trial 1 (complete, 0.25): x=0.25")
    assert main(["explain", database]) == 0
    assert capsys.readouterr().out.count("Trial ") == 3
    assert main(["explain", database, "7"]) == 1
    assert "no trial 7; its trials are 0 to 2" in capsys.readouterr().err


def test_replay_prints_the_best_trial(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", database]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {
        "trial": 1,
        "objective": 0.25,
        "hyperparameters": {"x": 0.25},
        "arguments": {"learning_rate": 0.25},
    }
    assert main(["replay", database, "9"]) == 1
    assert "no trial 9" in capsys.readouterr().err


def test_the_best_of_several_objectives_is_said_to_be_that_of_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = optuna.create_study(storage=f"sqlite:///{tmp_path}/two.db", directions=["minimize", "maximize"])
    study.set_user_attr("rl:objective", {"names": ["loss", "accuracy"]})
    for values in ((0.5, 0.9), (0.25, 0.6), (0.75, 0.7)):
        study.add_trial(create_trial(values=values))
    assert main(["replay", f"{tmp_path}/two.db"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["trial"] == 1
    assert "trial 1 is the best by 'loss', the first objective" in printed.err
    assert printed.err.endswith("on the Pareto front: 0\n")
    assert main(["replay", f"{tmp_path}/two.db", "0"]) == 0
    assert capsys.readouterr().err == ""


def test_space_of_a_family_and_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space", "bert"]) == 0
    assert "learning_rate" in capsys.readouterr().out
    file = tmp_path / "mine.py"
    file.write_text(
        "def hp_space(trial):\n    return {'weight_decay': trial.suggest_float('weight_decay', 0, 0.2, step=0.1)}\n"
    )
    assert main(["space", f"{file}:hp_space"]) == 0
    out = capsys.readouterr().out
    assert "1 hyperparameters, 3 candidates" in out
    assert "0, 0.1, 0.2" in out


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("brt", "no model family"),
        ("no_such_file.py:hp_space", "There is no file 'no_such_file.py'"),
        ("no_such_module:hp_space", "There is no module 'no_such_module'"),
        (":hp_space", "is neither module:name nor file.py:name"),
        ("hf_rlsearch.errors:StorageEror", "Did you mean 'StorageError'"),
        ("hf_rlsearch.cli:FAILED", "is of type int, expected a function"),
    ],
)
def test_space_of_something_else(target: str, reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space", target]) == 1
    assert reason in capsys.readouterr().err


def test_weights_are_listed_and_their_card_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights"]) == 0
    name = capsys.readouterr().out.split()[0]
    assert main(["weights", name]) == 0
    assert "observation_format" in json.loads(capsys.readouterr().out)
    assert main(["weights", str(tmp_path / "no.safetensors")]) == 1
    assert "there are no weights" in capsys.readouterr().err


def test_doctor_finds_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(inspect, "_CHECKS", {"good": lambda: "works", "bad": _raise})
    monkeypatch.setattr(inspect, "_installed", lambda name: None if name == "accelerate" else "99.0")
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "FAIL accelerate is missing" in out
    assert "ok   good: works" in out
    assert "FAIL bad: it broke" in out
    assert "2 problems." in out


def _raise() -> str:
    raise OSError("it\nbroke")


SLOW_IMPORTS = ("transformers", "sqlalchemy", "peft", "datasets", "stable_baselines3", "altair")


def loaded_by(command: str) -> tuple[int, str, set[str], float]:
    """Exit code and output of a command in a process of its own, what it has imported, and its processor seconds."""
    code = (
        "import sys, time\nfrom hf_rlsearch.cli import main\n"
        f"code = main([{command!r}])\nprint('loaded', *sys.modules)\nprint(code, time.process_time())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110)
    assert run.returncode == 0, run.stderr
    *output, modules, last = run.stdout.splitlines()
    return int(last.split()[0] or 0), "\n".join(output), set(modules.split()[1:]), float(last.split()[1])


def test_help_loads_no_library_and_takes_less_than_two_seconds() -> None:
    _, output, modules, seconds = min((loaded_by("--help") for _ in range(2)), key=lambda found: found[3])
    assert "Usage: hf-rlsearch" in output
    assert modules.isdisjoint({*SLOW_IMPORTS, "torch", "optuna", "pandas", "numpy"})
    assert seconds < 2


def test_doctor_is_well_here_and_loads_torch_alone_of_the_large_libraries() -> None:
    code, output, modules, _ = loaded_by("doctor")
    assert code == 0
    assert "All is well." in output
    assert "ok   backend: 'rl' is added to transformers" in output
    assert "torch" in modules
    assert [name for name in SLOW_IMPORTS if name in modules] == []


def test_doctor_says_that_transformers_is_not_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect, "_EXTENDED", ("trainer", "no_such_module"))
    with pytest.raises(ImportError, match=r"transformers has no no_such_module\.py; install transformers again"):
        inspect._check_backend()


def test_a_shell_completes_commands_and_options() -> None:
    """As the script that `hf-rlsearch --install-completion` installs asks for words."""
    for words, expected in (("hf-rlsearch rep", ["replay", "report"]), ("hf-rlsearch report --pl", ["--plots"])):
        asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_HF_RLSEARCH_COMPLETE": "complete_bash"}
        run = subprocess.run(
            [sys.executable, "-m", "hf_rlsearch"],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, **asked},
        )
        assert sorted(run.stdout.split()) == expected


def test_broken_pipe_is_no_error(database: str) -> None:
    command = f"{sys.executable} -m hf_rlsearch explain {database} | head -c 5"
    run = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=60)
    assert run.stderr == ""
    assert run.stdout == "Trial"


def test_commands_raise_no_warning(database: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["report", database, "-o", str(tmp_path / "r.html")]) == 0


@pytest.mark.slow
def test_a_trial_is_trained_again_bit_by_bit(tmp_path: Path) -> None:
    """In processes of their own: one searches, another replays."""
    script = tmp_path / "mine.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from hf_rlsearch.cli.demo import hp_space, make_trainer

            def make():
                return make_trainer(n_train=60, n_validation=40, output={str(tmp_path / "runs")!r})

            if __name__ == "__main__":
                make().hyperparameter_search(hp_space, backend="rl", n_trials=3, metric="accuracy")
            """
        )
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"capture_output": True, "text": True, "timeout": 110, "env": environment, "cwd": tmp_path}
    search = subprocess.run([sys.executable, str(script)], **options)
    assert search.returncode == 0, search.stderr
    command = [sys.executable, "-m", "hf_rlsearch", "replay", str(tmp_path / "runs" / "hf_rlsearch.db")]
    for number in ("0", "2"):
        replay = subprocess.run([*command, number, "--trainer", "mine.py:make"], **options)
        assert replay.returncode == 0, replay.stdout + replay.stderr
        assert "The replay is equal to the trial." in replay.stdout


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["-o", "FOLDER"], "is a folder; expected a file such as"),
        (["-o", "FOLDER/search.db/r.html"], "search.db"),
        (["--csv", "FOLDER/search.db/t.csv"], "search.db"),
        (["--csv", "FOLDER"], "is a folder; expected a file such as"),
        (["--plots", "FOLDER/search.db"], "File exists"),
        (["-o", "FOLDER/r.html", "--watch", "soon"], "Invalid value for '--watch'"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(
    database: str, tmp_path: Path, options: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [option.replace("FOLDER", str(tmp_path)) for option in options]
    given += [] if "-o" in given else ["-o", str(tmp_path / "r.html")]
    assert main(["report", database, *given]) in (1, 2)
    printed = capsys.readouterr().err
    assert reason in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("def make(:", "raised SyntaxError"),
        ("1 / 0", "raised ZeroDivisionError: division by zero (line 1 of"),
        ("def make():\n    raise KeyError('x')", "raised KeyError: 'x' (line 2 of"),
        ("def make():\n    return None", "NoneType has no"),
    ],
)
def test_an_error_in_the_users_code_has_file_and_line(
    database: str, tmp_path: Path, text: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{database}")
    attrs = {"rl:metrics": {"eval_loss": 0.1}}
    study.add_trial(create_trial(value=0.1, user_attrs=attrs))
    (tmp_path / "mine.py").write_text(text)
    assert main(["replay", database, "--trainer", f"{tmp_path / 'mine.py'}:make"]) == 1
    assert reason in capsys.readouterr().err


def test_a_trial_without_metrics_is_not_called_equal(database: str, capsys: pytest.CaptureFixture[str]) -> None:
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{database}")
    study.add_trial(create_trial(state=optuna.trial.TrialState.PRUNED))
    for number, reason in (("1", "has no metrics of an hf_rlsearch search"), ("3", "is pruned")):
        assert main(["replay", database, number, "--trainer", "no_such_file.py:make"]) == 1
        assert f"trial {number} {reason}" in capsys.readouterr().err


def test_a_terminal_without_our_signs_is_no_error(database: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "hf_rlsearch", "report", database, "--table", "-o", os.devnull + "-no/r.html"]
    command[-2:] = ["-o", str(Path(database).with_name("r.html"))]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert run.returncode == 0, run.stderr
    assert "*1" in run.stdout

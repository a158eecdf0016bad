"""The command mlnt_tf.compare: its processes, what it resumes and how it reports failures.

Most runs are invented: `FakeTraining` writes their results.
"""

import json
import os
import shutil
import signal
import subprocess
import threading

import pytest

from mlnt_tf.compare import __main__ as command
from mlnt_tf.config import flags
from mlnt_tf.files import lock

TINY = ["--width=4", "--epochs=1", "--pretrain_epochs=1", "--iterations=1", "--num_synthetic=1",
        "--train_examples=200", "--tau=0.05", "--precision=float32"]


def new_results(best, last=.5):
    """Returns the contents of a results.json."""
    return {"best_accuracy": best, "last_accuracy": last, "curve": {"validation": [.1, best]},
            "exported": "iteration_1 student", "test_accuracy": best, "seconds": 7.0,
            "stages": [{"teacher": {"test_at_best": best, "test_last": last}}],
            "peak_memory_mb": 600.0, "dataset": "digits", "versions": {"keras": "3.15.1"}}


class EndedProcess:
    """A process that has ended."""

    def __init__(self, code):
        self.returncode = code

    def poll(self):
        return self.returncode

    def terminate(self):
        raise AssertionError("The process has already ended.")

    wait = poll


class FakeTraining:
    """A replacement for the training, which writes the files of a finished or a failed run.

    Args:
      *failing: runs that fail, as "method seed".

    Attributes:
      started: list of the started runs, as "method seed".
      environments: list of their environments.
    """

    def __init__(self, *failing):
        self.failing = failing
        self.started = []
        self.environments = []

    def __call__(self, cell, environment):
        name = f"{cell.method} {cell.seed}"
        self.started.append(name)
        self.environments.append(environment)
        if name in self.failing:
            cell.log.write_text("$ python -m mlnt_tf.train\nepoch 1\nmlnt_tf: a user's mistake\n")
            return EndedProcess(2)
        cell.directory.mkdir()
        (cell.directory / "flags.txt").write_text("\n".join(flags.to_flag_lines(cell.config)))
        results = new_results(.8 + cell.seed / 10)
        (cell.directory / "results.json").write_text(json.dumps(results))
        return EndedProcess(0)


def compare(output_dir, *arguments, start=None):
    """Runs the command for two methods and two seeds. Returns its exit code."""
    defaults = ["--methods=mlnt,cross_entropy", "--seeds=0,1", f"--output_dir={output_dir}"]
    return command.main(["compare", *defaults, *arguments], start=start or FakeTraining())


@pytest.fixture(autouse=True)
def fast_polling(monkeypatch):
    """Polls often, and restores the handlers of the signals that the command replaces."""
    monkeypatch.setattr(command, "POLL_SECONDS", .001)
    handlers = {number: signal.getsignal(number)
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    # A shell starts background jobs with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("arguments, message", [
    (["--methods=magic"], "magic is not known"),
    (["--methods="], "--methods= is empty"),
    (["--methods=mlnt,mlnt"], "names mlnt twice"),
    (["--methods=mlnt,"], "has an empty value"),
    (["--seeds=one"], "--seeds=one must be whole numbers"),
    (["--seeds=0,0"], "names 0 twice"),
    (["--seeds=-1"], "--seed=-1 is too small"),
    (["--noise_rates=0.3,1.5"], "--noise_rate=1.5 is too large"),
    (["--noise_rates=half"], "must be numbers"),
    (["--noise_rates=0.3,0.30"], "names 0.3 twice"),
    (["--noises=symmetric:half"], "the rate 'half' is not a number"),
    (["--noises=symmetric:2"], "--noise_rate=2.0"),
    (["--noise_rates=0.3", "--noises=none"], "has no rate"),
    (["--noises=some"], "--noise=some is not known"),
    (["--noises=symmetric,symmetric:0.5"], "names symmetric:0.5 twice"),
    (["--jobs=0"], "--jobs=0"),
    (["--jobs=two"], "--jobs"),
    (["--seed=1"], "Write --seeds="),
    (["--noise_rate=0.1"], "Write --noise_rates="),
    (["--epohcs=3"], "Did you mean --epochs?"),
    (["--set=forward:--epochs=3"], "--set=forward:--epochs=3"),
    (["--set=mlnt:epochs=3"], "Write METHOD:--FLAG=VALUE"),
    (["--set=mlnt@asymmetric:--epochs=3"],
     "METHOD@NOISE:--FLAG=VALUE with one of symmetric, symmetric:0.5"),
    (["--set=mlnt@symmetric:half:--epochs=3"], "symmetric:half of --noises or --set"),
    (["--set=mlnt:--train_examples=9"],
     "--train_examples=0 for cross_entropy, but --train_examples=9 for mlnt"),
    (["--set=mlnt:--epochs=many"], "in the run mlnt"),
    (["--set=mlnt:--seed=3"], "Write --seeds="),
    (["--resume=never"], "--resume=never"),
    (["--set=mlnt:--resume=never"], "--resume=never"),
    (["--flagfile=nowhere.flags"], "nowhere.flags"),
    (["mlnt"], "'mlnt' is not a flag")])
def test_invalid_arguments_are_refused_in_one_line_before_the_first_run(
        tmp_path, capsys, arguments, message):
    training = FakeTraining()
    assert compare(tmp_path / "out", *arguments, start=training) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert training.started == []
    assert not (tmp_path / "out").exists()


def test_two_matrix_files_of_one_name_are_refused(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pairs.csv").write_text("1")
    noises = ",".join(f"matrix:{tmp_path}/{name}/pairs.csv" for name in ("a", "b"))
    assert compare(tmp_path / "out", f"--noises={noises}") == 2
    assert "Rename one" in capsys.readouterr().err


def test_failed_run_is_reported_and_the_others_still_run(tmp_path, capsys):
    training = FakeTraining("cross_entropy 0")
    assert compare(tmp_path, start=training) == 1
    assert training.started == ["mlnt 0", "cross_entropy 0", "mlnt 1", "cross_entropy 1"]
    output = capsys.readouterr().out
    assert ("[2 of 4]  cross_entropy, symmetric noise 0.5, seed 0:  failed: a user's "
            "mistake") in output
    assert ("[3 of 4]  mlnt, symmetric noise 0.5, seed 1:  best 90.0%, last 50.0%, "
            "7 s") in output


def test_table_and_page_mark_a_failed_run(tmp_path):
    assert compare(tmp_path, start=FakeTraining("cross_entropy 0")) == 1
    table = (tmp_path / "table.md").read_text()
    assert "| mlnt | symmetric | 0.5 | 85.0 ± 5.0 |" in table
    assert "| cross_entropy | symmetric | 0.5 | 90.0 | 50.0 | 90.0 | 50.0 | 1 of 2 |" in table
    assert "- cross_entropy, symmetric noise 0.5, seed 0: a user's mistake" in table
    assert "seed_0.log" in table
    assert "a user&#x27;s mistake" in (tmp_path / "index.html").read_text()


def test_same_command_runs_only_unfinished_runs(tmp_path, capsys):
    assert compare(tmp_path, start=FakeTraining("cross_entropy 0", "mlnt 1")) == 1
    second = FakeTraining()
    assert compare(tmp_path, start=second) == 0
    assert second.started == ["cross_entropy 0", "mlnt 1"]
    third = FakeTraining()
    assert compare(tmp_path, "--jobs=2", start=third) == 0
    assert third.started == []
    assert "finished before" in capsys.readouterr().out
    assert "Not finished" not in (tmp_path / "table.md").read_text()


def test_larger_grid_runs_only_the_new_runs(tmp_path):
    assert compare(tmp_path) == 0
    training = FakeTraining()
    assert compare(tmp_path, "--noise_rates=0.5,0.7", start=training) == 0
    assert training.started == ["mlnt 0", "cross_entropy 0", "mlnt 1", "cross_entropy 1"]
    assert (tmp_path / "rates_symmetric.png").exists()


def test_report_only_starts_no_run(tmp_path):
    assert compare(tmp_path, start=FakeTraining("mlnt 1")) == 1
    for name in ("index.html", "table.md", "table.csv"):
        (tmp_path / name).unlink()
    training = FakeTraining()
    assert compare(tmp_path, "--report_only", "--seeds=0,1,2", start=training) == 1
    assert training.started == []
    assert (tmp_path / "index.html").exists()
    table = (tmp_path / "table.md").read_text()
    assert "mlnt, symmetric noise 0.5, seed 2: not run yet" in table
    assert "seed 1: a user's mistake" in table
    assert "--report_only" not in table


def test_report_only_without_a_grid_is_refused(tmp_path, capsys):
    assert compare(tmp_path / "nowhere", "--report_only") == 2
    assert "Leave out --report_only" in capsys.readouterr().err


def test_damaged_results_count_as_not_finished(tmp_path):
    assert compare(tmp_path) == 0
    earlier = {"stages": [], "exported": "iteration_1 student", "test_accuracy": .8}
    (tmp_path / "mlnt/symmetric_0.5/seed_0/results.json").write_text(json.dumps(earlier))
    (tmp_path / "mlnt/symmetric_0.5/seed_1/results.json").write_text("{")
    assert compare(tmp_path, "--report_only") == 1
    table = (tmp_path / "table.md").read_text()
    assert "lacks best_accuracy" in table
    assert "| mlnt | symmetric | 0.5 | none | none | none | none | 0 of 2" in table


@pytest.mark.parametrize("arguments", [["--report_only"], []])
def test_runs_with_other_flags_are_refused_and_the_page_stays(tmp_path, capsys, arguments):
    assert compare(tmp_path) == 0
    page, table = ((tmp_path / name).read_bytes() for name in ("index.html", "table.md"))
    training = FakeTraining()
    assert compare(tmp_path, *arguments, "--epochs=3", start=training) == 2
    error = capsys.readouterr().err
    assert "holds another run (--epochs=30 there, --epochs=3 here)" in error
    assert training.started == []
    assert (tmp_path / "index.html").read_bytes() == page
    assert (tmp_path / "table.md").read_bytes() == table


def test_jobs_limits_the_number_of_simultaneous_runs(tmp_path):
    running, simultaneous, training = [], [], FakeTraining()

    class SlowProcess(EndedProcess):
        def __init__(self, code):
            super().__init__(code)
            running.append(self)
            simultaneous.append(len(running))
            self.polls = 0

        def poll(self):
            self.polls += 1
            if self.polls < 3:
                return None
            running.remove(self)
            return self.returncode

    def start(cell, environment):
        return SlowProcess(training(cell, environment).returncode)

    assert compare(tmp_path, "--jobs=3", start=start) == 0
    assert max(simultaneous) == 3
    assert len(simultaneous) == 4


def test_simultaneous_runs_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    training = FakeTraining()
    assert compare(tmp_path, "--jobs=3", start=training) == 0
    threads = {tuple(environment[name] for name in command.THREAD_VARIABLES)
               for environment in training.environments}
    assert threads == {("2", "2", "1")}
    assert command.shared_cores(1) == dict(os.environ)


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_to_the_grid_terminates_its_runs(tmp_path, capsys, number, code):
    children = []

    def start(cell, environment):
        children.append(subprocess.Popen(["sleep", "20"], start_new_session=True))
        if len(children) == 2:
            threading.Timer(.05, os.kill, [os.getpid(), number]).start()
        return children[-1]

    assert compare(tmp_path, "--jobs=2", start=start) == code
    assert [child.returncode for child in children] == [-signal.SIGTERM] * 2
    error = capsys.readouterr().err
    assert "the same command resumes" in error
    assert error.count("\n") == 1
    assert compare(tmp_path) == 0


def test_killed_run_is_reported_with_its_signal(tmp_path):
    def start(cell, environment):
        child = subprocess.Popen(["sleep", "60"])
        child.kill()
        return child

    assert compare(tmp_path, start=start) == 1
    assert "seed 1: ended by SIGKILL" in (tmp_path / "table.md").read_text()


def test_second_grid_in_the_same_directory_is_refused(tmp_path, capsys):
    training = FakeTraining()
    with lock.hold_lock(tmp_path):
        assert compare(tmp_path, start=training) == 2
    assert "is in use by process" in capsys.readouterr().err
    assert training.started == []


def test_file_in_place_of_a_directory_is_refused_in_one_line(tmp_path, capsys):
    (tmp_path / "mlnt").write_text("mine")
    assert compare(tmp_path) == 2
    error = capsys.readouterr().err
    assert "--output_dir" in error
    assert error.count("\n") == 1


def test_foreign_files_in_the_directory_of_a_run_are_refused(tmp_path, capsys):
    occupied = tmp_path / "cross_entropy/symmetric_0.5/seed_1"
    occupied.mkdir(parents=True)
    (occupied / "thesis.tex").write_text("mine")
    training = FakeTraining()
    assert compare(tmp_path, start=training) == 2
    assert "seed_1 holds files that do not belong to a run" in capsys.readouterr().err
    assert training.started == []


@pytest.mark.slow
def test_real_grid_averages_its_seeds_and_resumes(tmp_path, capfd):
    assert compare(tmp_path, *TINY, "--jobs=2", start=command.start) == 0
    paths = [tmp_path / f"mlnt/symmetric_0.5/seed_{seed}/results.json" for seed in (0, 1)]
    first, second = (json.loads(path.read_text())["best_accuracy"] for path in paths)
    cell = f"{50 * (first + second):.1f} ± {50 * abs(first - second):.1f}"
    assert f"| mlnt | symmetric | 0.5 | {cell} |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "epochs_symmetric_0.5.png").stat().st_size > 1000

    before = paths[0].stat().st_mtime_ns
    shutil.rmtree(paths[1].parent)
    capfd.readouterr()
    assert compare(tmp_path, *TINY, start=command.start) == 0
    assert paths[0].stat().st_mtime_ns == before
    assert capfd.readouterr().out.count("finished before") == 3

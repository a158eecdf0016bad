"""The grid of runs: what it asks for, how it runs, and how a run that fails is told. Most runs here are made up."""

import json
import os
import pathlib
import signal
import subprocess
import threading

import pytest

from mlnt_tf.compare import __main__ as compare
from mlnt_tf.compare import grid
from mlnt_tf.config import METHODS, flags

TINY = ["--width=4", "--epochs=1", "--pretrain_epochs=1", "--iterations=1", "--num_synthetic=1", "--train_examples=200",
        "--tau=0.05", "--precision=float32"]


def results(best, last=.5):
    return {"best_accuracy": best, "last_accuracy": last, "curve": {"validation": [.1, best]}, "seconds": 7.0,
            "stages": [{"teacher": {"test_at_best": best, "test_last": last}}],
            "peak_memory_mb": 600.0, "dataset": "digits", "versions": {"keras": "3.15.1"}}


class Ended:
    """A process that has ended."""

    def __init__(self, code):
        self.returncode = code

    def poll(self):
        return self.returncode

    def terminate(self):
        raise AssertionError("it has ended")

    wait = poll


class Runner:
    """In place of the training: writes what a finished run leaves, or fails for the names given."""

    def __init__(self, *failing, error="mlnt_tf: a mistake of the user's"):
        self.failing, self.error, self.started, self.environments = failing, error, [], []

    def __call__(self, cell, environment):
        name = f"{cell.method} {cell.seed}"
        self.started.append(name)
        self.environments.append(environment)
        if name in self.failing:
            cell.log.write_text(f"$ python -m mlnt_tf.train\nepoch 1\n{self.error}\n")
            return Ended(2)
        cell.directory.mkdir()
        (cell.directory / "flags.txt").write_text("\n".join(flags.to_flag_lines(cell.config)))
        (cell.directory / "results.json").write_text(json.dumps(results(.8 + cell.seed / 10)))
        return Ended(0)


def cells_of(*arguments):
    return grid.cells(*grid.parse(["compare", "--output_dir=out", *arguments]))


def call(place, *arguments, start=None):
    start = start or Runner()
    return compare.main(["compare", "--methods=mlnt,cross_entropy", "--seeds=0,1", f"--output_dir={place}", *arguments],
                        start=start)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(compare, "POLL", .001)
    handlers = {sent: signal.getsignal(sent) for sent in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
    yield
    for sent, handler in handlers.items():
        signal.signal(sent, handler)


def test_the_grid_is_every_method_noise_rate_and_seed():
    cells = cells_of("--methods=mlnt,cross_entropy", "--seeds=0,7", "--noises=symmetric,asymmetric",
                     "--noise_rates=0.3,0.5")
    assert len({cell.directory for cell in cells}) == 16
    assert {(cell.config.method, cell.config.noise, cell.config.noise_rate, cell.config.seed) for cell in cells} == {
        (method, noise, rate, seed) for method in ("mlnt", "cross_entropy") for noise in ("symmetric", "asymmetric")
        for rate in (.3, .5) for seed in (0, 7)}
    assert [cell.seed for cell in cells] == [0] * 8 + [7] * 8  # a grid that is stopped has whole seeds
    assert cells[0].directory == pathlib.Path("out/mlnt/symmetric_0.3/seed_0")
    assert cells[0].log == pathlib.Path("out/mlnt/symmetric_0.3/seed_0.log")


def test_without_lists_every_method_is_compared_under_the_noise_of_the_flags():
    cells = cells_of("--noises=asymmetric", "--epochs=4")
    assert {(cell.method, cell.seed, cell.rate) for cell in cells} == {
        (method, seed, .5) for method in METHODS for seed in (0, 1, 2)}
    assert {cell.config.epochs for cell in cells} == {4}


def test_a_flag_file_goes_on_to_every_run_and_the_grid_wins_over_it(tmp_path):
    (tmp_path / "some.flags").write_text("--seed=5\n--noise=asymmetric\n--noise_rate=0.2\n--epochs=9\n--method=mlnt\n")
    cell, = cells_of(f"--flagfile={tmp_path}/some.flags", "--methods=cross_entropy", "--seeds=1")
    assert (cell.config.seed, cell.config.method, cell.config.epochs) == (1, "cross_entropy", 9)
    assert (cell.config.noise, cell.config.noise_rate) == ("asymmetric", .2)


def test_a_method_may_have_flags_of_its_own(tmp_path):
    (tmp_path / "gentle.flags").write_text("--learning_rate=0.01\n--momentum=0.5\n")
    first, second = cells_of("--methods=mlnt,cross_entropy", "--seeds=0", "--learning_rate=0.3",
                             "--set=mlnt:--epochs=7", f"--set=mlnt:--flagfile={tmp_path}/gentle.flags")
    assert (first.config.learning_rate, first.config.momentum, first.config.epochs) == (.01, .5, 7)
    assert (second.config.learning_rate, second.config.momentum, second.config.epochs) == (.3, .9, 30)


def test_a_method_may_have_flags_of_its_own_under_one_noise():
    cells = cells_of("--methods=elr,gce", "--seeds=0", "--noises=symmetric,asymmetric:0.4", "--noise_rates=0.3,0.5",
                     "--set=elr@asymmetric:--elr_beta=0.9", "--set=elr@symmetric:.50:--elr_beta=0.6", "--set=elr:--elr_beta=0.8")
    assert {(cell.method, cell.noise, cell.rate): cell.config.elr_beta for cell in cells} == {
        ("elr", "symmetric", .3): .8, ("elr", "symmetric", .5): .6, ("elr", "asymmetric", .4): .9,
        ("gce", "symmetric", .3): .7, ("gce", "symmetric", .5): .7, ("gce", "asymmetric", .4): .7}


def test_a_noise_may_have_a_rate_of_its_own():
    cells = cells_of("--methods=mlnt", "--seeds=0", "--noises=symmetric:0.5,asymmetric:0.4")
    assert [(cell.config.noise, cell.config.noise_rate) for cell in cells] == [("symmetric", .5), ("asymmetric", .4)]


def test_noise_without_a_rate_is_one_run():
    cells = cells_of("--methods=mlnt", "--seeds=0", "--noises=none,symmetric", "--noise_rates=0.3,0.5")
    assert [(cell.noise, cell.rate) for cell in cells] == [("none", None), ("symmetric", .3), ("symmetric", .5)]
    assert cells[0].directory.parent.name == "none"


@pytest.mark.parametrize("arguments, message", [
    (["--methods=magic"], "magic is not known"), (["--methods="], "--methods= is empty"),
    (["--methods=mlnt,mlnt"], "names mlnt twice"), (["--methods=mlnt,"], "has an empty value"),
    (["--seeds=one"], "--seeds=one must be whole numbers"), (["--seeds=0,0"], "names 0 twice"),
    (["--seeds=-1"], "--seed=-1 is too small"), (["--noise_rates=0.3,1.5"], "--noise_rate=1.5 is too large"),
    (["--noise_rates=half"], "must be numbers"), (["--noise_rates=0.3,0.30"], "names 0.3 twice"),
    (["--noises=symmetric:half"], "the rate 'half' is not a number"), (["--noises=symmetric:2"], "--noise_rate=2.0"),
    (["--noise_rates=0.3", "--noises=none"], "has no rate"), (["--noises=some"], "--noise=some is not known"),
    (["--jobs=0"], "--jobs=0"), (["--jobs=two"], "--jobs"), (["--seed=1"], "Write --seeds="),
    (["--noise_rate=0.1"], "Write --noise_rates="), (["--epohcs=3"], "Did you mean --epochs?"),
    (["--set=forward:--epochs=3"], "--set=forward:--epochs=3"), (["--set=mlnt:epochs=3"], "Write METHOD:--FLAG=VALUE"),
    (["--set=mlnt@asymmetric:--epochs=3"], "METHOD@NOISE:--FLAG=VALUE with one of symmetric, symmetric:0.5"),
    (["--set=mlnt@symmetric:half:--epochs=3"], "symmetric:half of --noises or --set"),
    (["--noises=symmetric,symmetric:0.5"], "names symmetric:0.5 twice"),
    (["--set=mlnt:--train_examples=9"], "--train_examples=0 for cross_entropy, but --train_examples=9 for mlnt"),
    (["--set=mlnt:--epochs=many"], "in the run mlnt"), (["--set=mlnt:--seed=3"], "Write --seeds="),
    (["--resume=never"], "--resume=never"), (["--set=mlnt:--resume=never"], "--resume=never"),
    (["--flagfile=nowhere.flags"], "nowhere.flags"), (["mlnt"], "'mlnt' is not a flag")])
def test_a_mistake_costs_one_line_before_the_first_run(tmp_path, capsys, arguments, message):
    runner = Runner()
    assert call(tmp_path / "out", *arguments, start=runner) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert runner.started == [] and not (tmp_path / "out").exists()


def test_two_matrices_of_one_name_are_refused(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pairs.csv").write_text("1")
    noises = ",".join(f"matrix:{tmp_path}/{name}/pairs.csv" for name in "ab")
    assert call(tmp_path / "out", f"--noises={noises}") == 2
    assert "Rename one" in capsys.readouterr().err


def test_a_failed_run_is_marked_and_the_rest_goes_on(tmp_path, capsys):
    runner = Runner("cross_entropy 0")
    assert call(tmp_path, start=runner) == 1
    assert runner.started == ["mlnt 0", "cross_entropy 0", "mlnt 1", "cross_entropy 1"]
    shown = capsys.readouterr().out
    assert "[2 of 4]  cross_entropy, symmetric noise 0.5, seed 0:  failed: a mistake of the user's" in shown
    assert "[3 of 4]  mlnt, symmetric noise 0.5, seed 1:  best 90.0%, last 50.0%, 7 s" in shown
    table = (tmp_path / "table.md").read_text()
    assert "| mlnt | symmetric | 0.5 | 85.0 ± 5.0 |" in table
    assert "| cross_entropy | symmetric | 0.5 | 90.0 | 50.0 | 90.0 | 50.0 | 1 of 2 |" in table
    assert "- cross_entropy, symmetric noise 0.5, seed 0: a mistake of the user's" in table
    assert "seed_0.log" in table and "a mistake of the user&#x27;s" in (tmp_path / "index.html").read_text()


def test_the_same_command_runs_what_is_not_finished(tmp_path, capsys):
    assert call(tmp_path, start=Runner("cross_entropy 0", "mlnt 1")) == 1
    again = Runner()
    assert call(tmp_path, start=again) == 0
    assert again.started == ["cross_entropy 0", "mlnt 1"]
    never = Runner()
    assert call(tmp_path, "--jobs=2", start=never) == 0
    assert never.started == [] and "finished before" in capsys.readouterr().out
    assert "Not finished" not in (tmp_path / "table.md").read_text()
    more = Runner()
    assert call(tmp_path, "--noise_rates=0.5,0.7", start=more) == 0
    assert more.started == ["mlnt 0", "cross_entropy 0", "mlnt 1", "cross_entropy 1"]
    assert (tmp_path / "rates_symmetric.png").exists()


def test_report_only_starts_nothing(tmp_path, capsys):
    assert call(tmp_path, start=Runner("mlnt 1")) == 1
    for name in ("index.html", "table.md", "table.csv"):
        (tmp_path / name).unlink()
    never = Runner()
    assert call(tmp_path, "--report_only", "--seeds=0,1,2", start=never) == 1
    assert never.started == [] and (tmp_path / "index.html").exists()
    table = (tmp_path / "table.md").read_text()
    assert "mlnt, symmetric noise 0.5, seed 2: not run yet" in table and "seed 1: a mistake" in table
    assert "--report_only" not in table
    assert call(tmp_path / "nowhere", "--report_only") == 2
    assert "--report_only" in capsys.readouterr().err


def test_runs_of_other_flags_and_damaged_results_are_not_mixed_in(tmp_path):
    assert call(tmp_path) == 0
    (tmp_path / "mlnt/symmetric_0.5/seed_0/results.json").write_text("{}")
    (tmp_path / "mlnt/symmetric_0.5/seed_1/results.json").write_text("{")
    assert call(tmp_path, "--report_only") == 1
    table = (tmp_path / "table.md").read_text()
    assert "lacks best_accuracy" in table and "cannot be read" in table
    assert "| mlnt | symmetric | 0.5 | none | none | none | none | 0 of 2" in table
    assert call(tmp_path, "--report_only", "--epochs=3") == 1
    assert "holds another run (--epochs=30 there, --epochs=3 here)" in (tmp_path / "table.md").read_text()


def test_jobs_run_side_by_side_and_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    together = []

    class Slow(Ended):
        def __init__(self, code):
            super().__init__(code)
            together.append(len(running) + 1)
            running.append(self)
            self.polls = 0

        def poll(self):
            self.polls += 1
            if self.polls < 3:
                return None
            running.remove(self)
            return self.returncode

    running, runner = [], Runner()
    assert call(tmp_path, "--jobs=3", start=lambda *args: Slow(runner(*args).returncode)) == 0
    assert max(together) == 3 and len(together) == 4
    assert {(found["TF_NUM_INTRAOP_THREADS"], found["TF_NUM_INTEROP_THREADS"], found["OMP_NUM_THREADS"])
            for found in runner.environments} == {("2", "2", "1")}
    assert compare.shared_cores(1) == dict(os.environ)


@pytest.mark.parametrize("sent, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_ends_the_grid_ends_its_runs(tmp_path, capsys, sent, code):
    children = []

    def start(cell, environment):
        children.append(subprocess.Popen(["sleep", "20"], start_new_session=True))
        if len(children) == 2:
            threading.Timer(.05, os.kill, [os.getpid(), sent]).start()
        return children[-1]

    assert call(tmp_path, "--jobs=2", start=start) == code
    assert [child.returncode for child in children] == [-signal.SIGTERM] * 2
    told = capsys.readouterr().err
    assert "the same command goes on" in told and told.count("\n") == 1
    assert call(tmp_path) == 0


def test_a_run_that_was_killed_says_so(tmp_path):
    def start(cell, environment):
        child = subprocess.Popen(["sleep", "60"])
        child.kill()
        return child

    assert call(tmp_path, start=start) == 1
    assert "seed 1: ended by SIGKILL" in (tmp_path / "table.md").read_text()


def test_a_second_grid_in_the_same_place_is_refused(tmp_path, capsys):
    from mlnt_tf.files import lock

    runner = Runner()
    with lock.hold_lock(tmp_path):
        assert call(tmp_path, start=runner) == 2
    assert "is in use by process" in capsys.readouterr().err and runner.started == []


def test_an_output_dir_that_cannot_be_is_told_in_one_line(tmp_path, capsys):
    (tmp_path / "mlnt").write_text("a file in the way")
    assert call(tmp_path) == 2
    assert "--output_dir" in (told := capsys.readouterr().err) and told.count("\n") == 1


def test_a_real_grid_of_two_methods_and_two_seeds_with_one_run_in_the_way(tmp_path, capfd):
    occupied = tmp_path / "cross_entropy/symmetric_0.5/seed_1"
    occupied.mkdir(parents=True)
    (occupied / "thesis.tex").write_text("mine")
    assert call(tmp_path, *TINY, "--jobs=2", start=compare.start) == 1
    shown = capfd.readouterr().out
    assert "cross_entropy, symmetric noise 0.5, seed 1:  failed: " in shown and "no run of mlnt_tf" in shown
    assert "no run of mlnt_tf" in occupied.with_name("seed_1.log").read_text()
    table = (tmp_path / "table.md").read_text()
    first = tmp_path / "mlnt/symmetric_0.5/seed_0/results.json"
    found = [json.loads((tmp_path / f"mlnt/symmetric_0.5/seed_{seed}/results.json").read_text())["best_accuracy"]
             for seed in (0, 1)]
    assert f"| mlnt | symmetric | 0.5 | {50 * sum(found):.1f} ± {50 * abs(found[0] - found[1]):.1f} |" in table
    assert (tmp_path / "epochs_symmetric_0.5.png").stat().st_size > 1000
    before = first.stat().st_mtime_ns
    (occupied / "thesis.tex").unlink()
    assert call(tmp_path, *TINY, start=compare.start) == 0
    assert first.stat().st_mtime_ns == before and capfd.readouterr().out.count("finished before") == 3

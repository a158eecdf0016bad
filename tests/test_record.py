"""A run's identity is its resolved settings: what the machine chose is recorded, and taken again on resume."""

import json

import pytest

from mlnt_tf import runner, train
from mlnt_tf.config import Config, UserError, flags
from mlnt_tf.experiment import record
from mlnt_tf.hardware import precision

import kill

TINY = ["--train_examples=200", "--batch_size=32", "--width=2", "--method=cross_entropy", "--epochs=1",
        "--steps_per_epoch=2"]


@pytest.fixture
def begun(tmp_path):
    """A function of settings: the directory of a run that was begun with them."""
    def begin(**settings):
        place = tmp_path / "run"
        place.mkdir(exist_ok=True)
        config = Config(output_dir=str(place), **settings)
        (place / record.FLAGS_FILE).write_text(flags.flag_file(config))
        return str(place)

    return begin


def test_auto_takes_the_recorded_precision_whatever_this_machine_would_choose(begun, monkeypatch):
    place = begun(precision="mixed_bfloat16", jit_compile="false", strategy="single", neighbor_backend="exact")
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    plan, config = runner.plan_run(Config(output_dir=place))
    assert config.precision == "mixed_bfloat16" and config.neighbor_backend == "exact"
    assert plan.strategy == "single"


def test_a_fresh_run_takes_what_suits_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    _, config = runner.plan_run(Config(output_dir=str(tmp_path / "new")))
    assert (config.precision, config.jit_compile, config.strategy) == ("float32", "false", "single")


def test_an_explicit_value_that_differs_from_the_recorded_one_is_refused(begun):
    place = begun(precision="mixed_bfloat16")
    with pytest.raises(UserError, match="--precision=mixed_bfloat16 there, --precision=float32 here"):
        record.find_recorded(Config(output_dir=place, precision="float32"))


def test_a_recorded_value_that_cannot_run_here_is_refused_with_both_values(begun, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    place = begun(strategy="multi_worker")
    with pytest.raises(UserError, match=r"--strategy=multi_worker \(here auto is single\).*cannot run here"):
        runner.plan_run(Config(output_dir=place))


def test_the_flags_of_a_run_hold_no_auto_that_the_machine_decides(tmp_path):
    place = tmp_path / "run"
    assert train.main(["train", *TINY, f"--output_dir={place}"]) == 0
    lines = (place / record.FLAGS_FILE).read_text().splitlines()
    assert "--strategy=single" in lines and "--jit_compile=false" in lines
    assert not {"--precision=auto", "--strategy=auto", "--jit_compile=auto"} & set(lines)
    results = json.loads((place / record.RESULTS_FILE).read_text())
    assert f"--precision={results['precision']}" in lines
    assert {"method", "train_examples"} <= set(results["explicit_flags"])
    assert "seed" not in results["explicit_flags"]


def test_a_run_begun_with_another_precision_resumes_in_it(tmp_path, monkeypatch):
    """Begun where bfloat16 is native, resumed where it is not: the same weights as a run never interrupted."""
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    assert train.main(["train", *TINY, "--epochs=2", f"--output_dir={tmp_path / 'whole'}"]) == 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mlnt_tf.training.callbacks.EpochLog.on_epoch_end", stop)
        assert train.main(["train", *TINY, "--epochs=2", f"--output_dir={tmp_path / 'cut'}"]) == 130
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    assert train.main(["train", *TINY, "--epochs=2", f"--output_dir={tmp_path / 'cut'}"]) == 0
    assert kill.contents(tmp_path / "cut") == kill.contents(tmp_path / "whole")


def test_a_file_in_the_way_is_named_before_anything_loads(tmp_path):
    (tmp_path / "notes").write_text("mine")
    for place in (tmp_path / "notes", tmp_path / "notes/run"):
        with pytest.raises(UserError, match=f"{tmp_path / 'notes'} is a file"):
            record.find_recorded(Config(output_dir=str(place)))


class TwoWorkers:
    """Devices of worker 1, whose chief has other settings."""
    worker, workers, is_chief = 1, 2, False

    def __init__(self, chief):
        self.chief = chief

    def text_of_chief(self, text):
        return "\n".join(flags.identity_lines(self.chief))

    def any(self, flag):
        return flag


def test_workers_that_resolve_differently_are_refused_with_both_values():
    mine = Config(precision="float32")
    runner.compare_workers(mine, TwoWorkers(mine))
    with pytest.raises(UserError, match="--precision=mixed_bfloat16 on worker 0, --precision=float32 on worker 1"):
        runner.compare_workers(mine, TwoWorkers(Config(precision="mixed_bfloat16")))


def test_values_are_compared_and_not_their_spelling(tmp_path):
    (tmp_path / record.FLAGS_FILE).write_text("--tau=0.30\n--noise_rate=5e-1\n")
    assert record.find_recorded(Config(tau=.3, noise_rate=.5, output_dir=str(tmp_path))).tau == .3


def test_flags_of_another_version_are_refused_by_name(tmp_path):
    (tmp_path / record.FLAGS_FILE).write_text("--no_longer_there=1\n")
    with pytest.raises(UserError, match="flags.txt.*--no_longer_there"):
        record.find_recorded(Config(output_dir=str(tmp_path)))

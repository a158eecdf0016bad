"""The identity of a run: its resolved settings are recorded, and a resumed run adopts them."""

import json
import pathlib

import keras
import pytest

from mlnt_tf import runner, train
from mlnt_tf.config import Config, UserError, flags
from mlnt_tf.experiment import record
from mlnt_tf.hardware import precision

import kill

TINY = ["--train_examples=200", "--batch_size=32", "--width=2", "--method=cross_entropy",
        "--epochs=1", "--steps_per_epoch=2"]


@pytest.fixture
def begin(tmp_path):
    """A function of settings that records a run, and returns its directory."""
    def record_flags(**settings):
        output_dir = tmp_path / "run"
        output_dir.mkdir(exist_ok=True)
        config = Config(output_dir=str(output_dir), **settings)
        (output_dir / record.FLAGS_FILE).write_text(flags.flag_file(config))
        return str(output_dir)

    return record_flags


def test_auto_adopts_the_recorded_values(begin, monkeypatch):
    output_dir = begin(precision="mixed_bfloat16", jit_compile="false", strategy="single",
                       neighbor_backend="exact")
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    plan, _, config = runner.plan_run(Config(output_dir=output_dir))
    assert config.precision == "mixed_bfloat16"
    assert config.neighbor_backend == "exact"
    assert plan.strategy == "single"


@pytest.mark.parametrize("has_bfloat16, expected", [(False, "float32"), (True, "mixed_bfloat16")])
def test_auto_of_a_new_run_depends_on_the_machine(tmp_path, monkeypatch, has_bfloat16, expected):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: has_bfloat16)
    _, _, config = runner.plan_run(Config(output_dir=str(tmp_path / "new"), device="cpu"))
    assert (config.precision, config.jit_compile, config.strategy) == (expected, "false", "single")


def test_value_that_differs_from_the_recorded_one_is_refused(begin):
    output_dir = begin(precision="mixed_bfloat16")
    message = "--precision=mixed_bfloat16 there, --precision=float32 here"
    with pytest.raises(UserError, match=message):
        record.find_recorded(Config(output_dir=output_dir, precision="float32"))


def test_refusal_of_another_run_says_whether_it_has_trained(begin):
    output_dir = begin()
    other = Config(output_dir=output_dir, epochs=7)
    with pytest.raises(UserError, match="has not trained a single epoch: delete it"):
        record.find_recorded(other)
    checkpoints = pathlib.Path(output_dir) / "iteration_1/checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "1").write_text("")
    with pytest.raises(UserError, match=r"here\). Choose another directory"):
        record.find_recorded(other)


def test_recorded_value_that_cannot_run_here_is_refused_with_both_values(begin, monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    output_dir = begin(strategy="multi_worker")
    message = r'--strategy=multi_worker \("auto" gives single on this machine\).*cannot run here'
    with pytest.raises(UserError, match=message):
        runner.plan_run(Config(output_dir=output_dir))


@pytest.mark.slow
def test_recorded_flags_contain_no_auto_of_the_machine(tmp_path):
    output_dir = tmp_path / "run"
    assert train.main(["train", *TINY, f"--output_dir={output_dir}"]) == 0
    lines = (output_dir / record.FLAGS_FILE).read_text().splitlines()
    assert {"--strategy=single", "--jit_compile=false"} <= set(lines)
    assert not {"--precision=auto", "--strategy=auto", "--jit_compile=auto"} & set(lines)
    results = json.loads((output_dir / record.RESULTS_FILE).read_text())
    assert f"--precision={results['precision']}" in lines
    assert {"method", "train_examples"} <= set(results["explicit_flags"])
    assert "seed" not in results["explicit_flags"]


@pytest.mark.slow
def test_resume_on_another_machine_gives_identical_weights(tmp_path, monkeypatch):
    """The run begins on a machine with bfloat16 and resumes on one without."""
    def stop(*_):
        raise KeyboardInterrupt

    flags_of = {name: [*TINY, "--epochs=2", f"--output_dir={tmp_path / name}"]
                for name in ("uninterrupted", "resumed")}
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    assert train.main(["train", *flags_of["uninterrupted"]]) == 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mlnt_tf.training.callbacks.EpochLog.on_epoch_end", stop)
        assert train.main(["train", *flags_of["resumed"]]) == 130
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    assert train.main(["train", *flags_of["resumed"]]) == 0
    assert kill.contents(tmp_path / "resumed") == kill.contents(tmp_path / "uninterrupted")


def test_prepared_restores_the_dtype_policy_after_an_exception():
    before = keras.config.dtype_policy().name
    with pytest.raises(KeyboardInterrupt):
        with precision.prepared(Config(precision="mixed_bfloat16")):
            assert keras.config.dtype_policy().name == "mixed_bfloat16"
            raise KeyboardInterrupt
    assert keras.config.dtype_policy().name == before


def test_output_dir_below_a_file_is_refused_with_the_name_of_the_file(tmp_path):
    (tmp_path / "notes").write_text("mine")
    for output_dir in (tmp_path / "notes", tmp_path / "notes/run"):
        with pytest.raises(UserError, match=f"{tmp_path / 'notes'} is a file"):
            record.find_recorded(Config(output_dir=str(output_dir)))


class SecondWorker:
    """The devices of worker 1 of 2, whose chief has the given settings."""

    worker, workers, is_chief = 1, 2, False

    def __init__(self, chief_config):
        self.chief_config = chief_config

    def gather_texts(self, text):
        return ["\n".join(flags.identity_lines(self.chief_config)), text]


def test_workers_with_equal_settings_are_accepted():
    config = Config(precision="float32")
    runner.compare_workers(config, SecondWorker(config))


def test_workers_with_different_settings_are_refused_with_both_values():
    chief = SecondWorker(Config(precision="mixed_bfloat16"))
    message = "--precision=mixed_bfloat16 on worker 0, --precision=float32 on worker 1"
    with pytest.raises(UserError, match=message):
        runner.compare_workers(Config(precision="float32"), chief)


def test_recorded_numbers_are_compared_by_value(tmp_path):
    (tmp_path / record.FLAGS_FILE).write_text("--tau=0.30\n--noise_rate=5e-1\n")
    config = Config(tau=.3, noise_rate=.5, output_dir=str(tmp_path))
    assert record.find_recorded(config).tau == .3


def test_recorded_flag_of_another_version_is_refused_by_name(tmp_path):
    (tmp_path / record.FLAGS_FILE).write_text("--removed_flag=1\n")
    with pytest.raises(UserError, match="flags.txt cannot be read.*--removed_flag"):
        record.find_recorded(Config(output_dir=str(tmp_path)))

"""Runs whose files, labels or settings changed: recomputed with a warning, or one line."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from mlnt_tf import check, train
from mlnt_tf.config import SECTIONS, Config, UserError, config_class, flags
from mlnt_tf.experiment import record
from mlnt_tf.files import lock
from mlnt_tf.training import checkpoints

import kill
from test_config import MixupSettings

pytestmark = pytest.mark.slow
TINY = ["--train_examples=200", "--batch_size=32", "--width=2", "--epochs=2", "--steps_per_epoch=2",
        "--precision=float32", "--iterations=1", "--num_synthetic=1", "--joint_start_epoch=1"]


def run(place, *flags):
    return train.main(["train", *TINY, *flags, f"--output_dir={place}"])


def results(place):
    return kill.without_seconds(json.loads((place / "results.json").read_text()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A function of a method: the directory of its finished tiny run."""
    places = {}

    def place_of(method):
        if method not in places:
            places[method] = tmp_path_factory.mktemp("runs") / method
            assert run(places[method], f"--method={method}") == 0
        return places[method]

    return place_of


@pytest.fixture
def copy_of(finished, tmp_path):
    """A function of a method: a copy of its finished run that may be damaged."""
    def copy(method):
        return shutil.copytree(finished(method), tmp_path / "run")

    return copy


def test_a_later_version_with_one_more_setting_accepts_the_results():
    later = config_class((*SECTIONS, MixupSettings))
    assert record.identity(later(tau=0.2)) == record.identity(Config(tau=0.2))
    assert record.identity(later(mixup_start=2)) != record.identity(Config())


@pytest.mark.parametrize("damage", [
    lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:500])])
def test_a_lost_network_makes_its_stage_train_again(finished, copy_of, caplog, damage):
    place = copy_of("mlnt")
    (place / "results.json").unlink()
    damage(place / "cross_entropy/student_best.keras")
    assert run(place, "--method=mlnt") == 0
    assert "student_best.keras is missing or damaged. Its stage is trained again" in caplog.text
    assert results(place) == results(finished("mlnt"))


@pytest.mark.parametrize("content", [b"", bytes(400)])
def test_lost_labels_of_joint_optimization_are_learned_again(finished, copy_of, content):
    place = copy_of("joint_optimization")
    for name in ("results.json", "joint_retraining/result.json"):
        (place / name).unlink()
    (place / "joint_optimization/soft_labels.npy").write_bytes(content)
    assert run(place, "--method=joint_optimization") == 0
    assert results(place) == results(finished("joint_optimization"))


@pytest.mark.parametrize("name, content", [
    ("iteration_1/neighbors.json", "[]"), ("iteration_1/neighbors.json", "null"),
    ("iteration_1/result.json", "{}"), ("results.json", "{}"), ("results.json", "[]")])
def test_json_without_the_expected_keys_is_recomputed(finished, copy_of, name, content):
    place = copy_of("mlnt")
    if name != "results.json":
        (place / "results.json").unlink()
        (place / "iteration_1/result.json").unlink()
    (place / name).write_text(content)
    assert run(place, "--method=mlnt") == 0
    assert results(place) == results(finished("mlnt"))


def table(path, swapped=()):
    """Writes a table of 120 images in two classes; the labels of `swapped` rows are exchanged."""
    from pictures import encode, picture

    path.mkdir(exist_ok=True)
    rows = ["path,label"]
    for row in range(120):
        label = (row % 2) ^ (row in swapped)
        (path / f"{row}.png").write_bytes(encode(picture((8, 8), seed=row)))
        rows.append(f"{row}.png,{('cat', 'dog')[label]}")
    (path / "labels.csv").write_text("\n".join(rows) + "\n")
    return path / "labels.csv"


def test_changed_labels_are_refused_by_train_and_check(tmp_path, capsys):
    arguments = ["--dataset=csv", "--noise=none", "--method=cross_entropy", "--epochs=1",
             "--steps_per_epoch=2", "--batch_size=16", "--width=2", "--precision=float32",
             f"--output_dir={tmp_path / 'run'}"]
    arguments.append(f"--data_dir={table(tmp_path / 'data')}")
    assert train.main(["train", *arguments]) == 0
    (tmp_path / "run/results.json").unlink()
    table(tmp_path / "data", swapped=range(10))
    for command in (train, check):
        assert command.main(["command", *arguments]) == 2
        assert "on other data: the labels of 10 images differ" in capsys.readouterr().err


def test_check_sees_a_lock_and_a_checkpoint_of_another_format(tmp_path, capsys, monkeypatch):
    place = tmp_path / "run"
    arguments = ["check", *TINY, "--method=cross_entropy", f"--output_dir={place}"]
    place.mkdir()
    with lock.hold_lock(place):
        assert check.main(arguments) == 2
    assert "is in use by process" in capsys.readouterr().err
    assert run(place, "--method=cross_entropy") == 0
    monkeypatch.setattr(checkpoints, "FORMAT", checkpoints.FORMAT + 1)
    position = checkpoints.Position(1, 0, model="CrossEntropy")
    checkpoints.write(place / "cross_entropy/checkpoints", position, {"model/0": np.zeros(3)})
    monkeypatch.undo()
    assert check.main(arguments) == 2
    assert "has checkpoint format" in capsys.readouterr().err


def test_flags_of_a_resumed_run_keep_the_record_of_the_first_call(copy_of):
    place = copy_of("mlnt")
    (place / "results.json").unlink()
    again = ["train", f"--flagfile={place / record.FLAGS_FILE}", f"--output_dir={place}"]
    first = (place / record.FLAGS_FILE).read_text()
    assert train.main(again) == 0
    assert (place / record.FLAGS_FILE).read_text() == first
    explicit = json.loads((place / "results.json").read_text())["explicit_flags"]
    assert {"method", "epochs", "batch_size"} <= set(explicit)


def test_a_record_of_an_earlier_version_with_auto_is_accepted(copy_of):
    place = copy_of("mlnt")
    path = place / record.FLAGS_FILE
    path.write_text(path.read_text().replace("--strategy=single", "--strategy=auto"))
    config = flags.parse(["train", *TINY, "--method=mlnt", f"--output_dir={place}"])
    assert record.find_recorded(dataclasses.replace(config, strategy="single")).strategy == "auto"


METHODS_OF_MY_OWN = '''
def nothing(run):
    pass


def unfinished(run):
    run.stage("mine")


def check(path):
    raise AssertionError("not a check of mlnt_tf")
'''


@pytest.mark.parametrize("function, message", [
    ("nothing", "opened no stage"), ("unfinished", "left the stage 'mine' unfinished")])
def test_a_method_that_trains_nothing_gives_one_line(
        tmp_path, monkeypatch, capsys, function, message):
    (tmp_path / "mine_of_test_damage.py").write_text(METHODS_OF_MY_OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert run(tmp_path / "run", f"--method=mine_of_test_damage:{function}") == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_missing_file_of_a_lock_is_not_in_use(tmp_path):
    lock.refuse_if_held(tmp_path)
    with lock.hold_lock(tmp_path), pytest.raises(UserError, match="in use by process"):
        lock.refuse_if_held(tmp_path)

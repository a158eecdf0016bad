"""The report of `check`, and what it refuses."""

import types

import pytest

from mlnt_tf import check, methods, train
from mlnt_tf.benchmark import duration
from mlnt_tf.config import Config
from mlnt_tf.data.load import load_examples

from pictures import encode, picture, tree

TWIN = encode(picture(seed=100))
CLUSTER = '{"cluster": {"worker": %s}, "task": {"type": "worker", "index": 0}}'


@pytest.fixture
def pets(tmp_path):
    """A folder of 19 training and 8 test images with an empty file and three equal images."""
    files = {f"{split}/{kind}/{number}.png": None
             for split, count in (("train", 8), ("test", 3))
             for kind in ("cat", "dog") for number in range(count)}
    files |= {"test/cat/twin.png": TWIN, "train/cat/twin.png": TWIN, "train/dog/twin.png": TWIN,
              "test/newt/0.png": None, "train/cat/empty.jpg": b""}
    return tree(tmp_path, files)


def run_check(root, *arguments):
    return check.main([
        "check", "--dataset=folder", "--recipe=digits", "--noise=none", f"--data_dir={root}",
        "--model=cnn",
        "--width=2", "--batch_size=4", "--num_neighbors=2", "--epochs=3", "--num_synthetic=2",
        "--precision=float32", *arguments])


def test_report_lists_data_machine_memory_and_steps(pets, capsys):
    assert run_check(pets, "--max_bad_images=0.1") == 0
    report = capsys.readouterr().out
    for line in ("folder: 3 classes; train 18, test 8 (0.1 of train is held out for validation)",
                 "images: 10 x 12 x 3", "train lacks 1 of the classes: newt",
                 "cannot be decoded: train/cat/empty.jpg: empty file",
                 "duplicates: 1 images of test are also in train",
                 "duplicates: 1 groups of equal images in train have different labels",
                 "train/cat/twin.png = train/dog/twin.png", "tensorflow 2.20",
                 "memory for data: decoded pixels", "cross entropy: 12 steps of 4",
                 "mlnt: 36 steps of 4", "total: 48 steps, about", "peak memory of these steps: "):
        assert line in report
    table = [line.split() for line in report.splitlines()
             if line.startswith("  ") and "/" not in line]
    counts = {name: numbers for name, *numbers in table}
    assert (counts["cat"], counts["dog"], counts["newt"]) == (["9", "4"], ["9", "3"], ["0", "1"])


def test_too_many_bad_images_are_refused_after_all_are_listed(pets, capsys):
    (pets / "train/dog/page.jpg").write_bytes(b"<html>")
    assert run_check(pets) == 2
    out, err = capsys.readouterr()
    assert out.count("cannot be decoded: ") == 2 and "tensorflow 2.20" in out
    assert "are left out" not in out + err
    assert "2 of 28 images cannot be decoded" in err and err.count("\n") == 1


def test_missing_directory_is_reported_in_one_line(tmp_path, capsys):
    assert run_check(tmp_path / "nowhere") == 2
    assert capsys.readouterr().err.count("\n") == 1


def last_line_of_each_command(flags, capsys):
    """Runs train and check, which must refuse, and returns the last line of each."""
    lines = []
    for command in (train, check):
        assert command.main(["command", *flags]) == 2
        lines.append(capsys.readouterr().err.splitlines()[-1])
    return lines


@pytest.mark.parametrize("flags", [
    ["--dataset=mnist"], ["--dataset=cifar10", "--data_dir=/nowhere"], ["--batch_size=1000"],
    ["--train_examples=99999"], ["--num_neighbors=250"], ["--steps_per_execution=3"],
    ["--device=gpu"], ["--num_devices=3"], ["--logical_devices=3"], ["--strategy=multi_worker"],
    ["--logical_devices=2", "--meta_every=2"],
    ["--logical_devices=2", "--sync_batch_norm", "--jit_compile=true"],
    ["--model=resnet50", "--image_size=32"], ["--model=nowhere:network"],
    ["--method=nowhere:train"], ["--method=gce", "--method_args=q=1"],
    ["--neighbor_backend=scann"], ["--output_dir={file}"], ["--output_dir={file}/run"],
    ["--output_dir={other}"]])
def test_check_refuses_what_train_refuses(tmp_path, capsys, monkeypatch, flags):
    """Both print the same line before training, and write nothing."""
    monkeypatch.setattr("mlnt_tf.neighbors.scann.load_scann", lambda: exec("raise ImportError()"))
    places = {"file": tmp_path / "file", "other": tmp_path / "other"}
    places["file"].write_text("")
    places["other"].mkdir()
    (places["other"] / "thesis.tex").write_text("")
    base = [f"--output_dir={tmp_path / 'run'}", "--train_examples=200", "--batch_size=32",
            "--steps_per_epoch=2"]
    lines = last_line_of_each_command(base + [flag.format(**places) for flag in flags], capsys)
    assert lines[0] == lines[1] and lines[0].startswith("mlnt_tf: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("cluster, flags, message", [
    ("nonsense", [], "TF_CONFIG=nonsense cannot be used"),
    (CLUSTER % "[1, 2]", [], "must be a list of host:port"),
    (CLUSTER % '"ab"', [], "must be a list of host:port"),
    (CLUSTER % '["noport", "b:1"]', [], "must be a list of host:port"),
    (CLUSTER % '["a:1", "b:1"]', ["--strategy=single"], "--strategy=single is for one process"),
    (CLUSTER % '["a:1", "b:1"]', ["--logical_devices=2"], "--logical_devices=2 is for one")])
def test_check_and_train_refuse_a_bad_cluster_without_waiting(
        tmp_path, capsys, monkeypatch, cluster, flags, message):
    monkeypatch.setenv("TF_CONFIG", cluster.replace(": ", ":\n  "))
    base = [f"--output_dir={tmp_path / 'run'}", "--train_examples=200", "--batch_size=32"]
    lines = last_line_of_each_command(base + flags, capsys)
    assert lines[0] == lines[1] and message in lines[0] and lines[0].startswith("mlnt_tf: ")


@pytest.mark.parametrize("settings, epochs", [
    (dict(method="mlnt"), 4),
    (dict(method="mlnt", num_synthetic=0), 30),
    (dict(method="cross_entropy_iterative"), 30),
    (dict(method="cross_entropy_ema"), 4),
    (dict(method="elr"), 10),
    (dict(method="joint_optimization"), 17 + 10),
    (dict(method="cnn_crf", transition_matrix="estimated"), 14),
    (dict(method="forward", transition_matrix="true"), 10),
    (dict(method="forward", transition_matrix="estimated"), 24)])
def test_planned_epochs_at_the_cost_of_cross_entropy(settings, epochs):
    config = Config(iterations=3, epochs=10, pretrain_epochs=4, **settings)
    assert methods.find(config).planned_epochs(config, None)["cross entropy"] == epochs


def test_planned_steps_keep_their_sum_if_meta_every_does_not_divide_them():
    config = Config(iterations=3, epochs=10, pretrain_epochs=4, meta_every=4)
    examples = types.SimpleNamespace(steps_per_epoch=3)
    steps = duration.planned_steps(config, examples, methods.find(config))
    assert steps == {"mlnt": 23, "cross entropy": 12 + 90 - 23}


@pytest.mark.parametrize("meta_every, expected", [
    (1, {"mean teacher": 90}), (4, {"mean teacher": 23, "cross entropy": 67})])
def test_planned_steps_of_mean_teacher_have_no_warm_up(meta_every, expected):
    config = Config(method="mean_teacher", iterations=3, epochs=10, meta_every=meta_every)
    examples = types.SimpleNamespace(steps_per_epoch=3)
    assert duration.planned_steps(config, examples, methods.find(config)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    dict(synthetic="expected"), dict(method="mean_teacher", classification_loss="elr")])
def test_steps_of_every_kind_are_timed(settings):
    config = Config(train_examples=200, batch_size=32, width=2, precision="float32",
                    jit_compile="false", **settings)
    examples = load_examples(config)
    for kind in methods.find(config).planned_epochs(config, examples):
        assert duration.time_step(kind, examples, config) > 0

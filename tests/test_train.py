"""The command mlnt_tf.train, from flags to files, in tiny runs."""

import csv
import json
import math
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf import train
from mlnt_tf.config import Config
from mlnt_tf.data.load import load_examples
from mlnt_tf.experiment import issue_panels

import kill

TINY = ["--epochs=2", "--steps_per_epoch=2", "--iterations=2", "--train_examples=200",
        "--batch_size=32", "--width=2", "--num_synthetic=2", "--tau=0.05", "--precision=float32"]


def run(*flags):
    return train.main(["train", *TINY, *flags])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a finished run."""
    output_dir = tmp_path_factory.mktemp("runs") / "tiny"
    assert run(f"--output_dir={output_dir}") == 0
    return output_dir


def read_results(output_dir):
    return json.loads((output_dir / "results.json").read_text())


def read_table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_results_describe_the_noise_and_the_versions(finished):
    results = read_results(finished)
    assert {"method", "dataset", "seed", "cross_entropy", "cross_entropy_ema"} <= set(results)
    rate = pytest.approx(.45, abs=.1)
    assert results["noise"] == {"kind": "symmetric", "rate": .5, "realized_rate": rate}
    assert results["versions"]["tensorflow"].startswith("2.20")


def test_results_describe_each_iteration(finished):
    iterations = read_results(finished)["iterations"]
    assert [result["iteration"] for result in iterations] == [1, 2]
    for result in iterations:
        assert {"student", "kept", "filter_precision", "filter_recall", "mentor",
                "seconds"} <= set(result)
        assert {"best_validation", "test_at_best", "test_last"} <= set(result["teacher"])
    assert iterations[0]["kept"] == 200
    assert iterations[0]["filter_recall"] == 1


def test_mentor_is_the_best_network_of_its_iteration(finished):
    for result in read_results(finished)["iterations"]:
        accuracies = {name: result[name]["best_validation"] for name in ("student", "teacher")}
        assert accuracies[result["mentor"]] == max(accuracies.values())


def test_results_agree_with_the_exported_stage(finished):
    results = read_results(finished)
    stages = {stage["name"]: stage for stage in results["stages"]}
    assert list(stages) == ["cross entropy", "iteration 1", "iteration 2"]
    name, _, network = results["exported"].rpartition(" ")
    exported = stages[name]
    curve = results["curve"]["validation"]
    assert results["best"] == exported[network]
    assert curve == exported["validation"][network]
    assert max(curve) == results["best"]["best_validation"]
    assert results["best_accuracy"] == exported[network]["test_at_best"]
    assert results["test_accuracy"] == results["best_accuracy"]
    assert results["last_accuracy"] == stages["iteration 2"][network]["test_last"]


def test_results_sum_time_and_take_the_maximum_of_memory(finished):
    results = read_results(finished)
    stages = results["stages"]
    assert results["seconds"] == pytest.approx(sum(stage["seconds"] for stage in stages))
    peak = max(stage["peak_memory_mb"] for stage in stages)
    assert results["peak_memory_mb"] >= peak > 100


def test_noise_table_agrees_with_the_realized_rate(finished):
    rows = read_table(finished / "noise.csv")
    assert len(rows) == 200
    wrong = np.mean([row["true_label"] != row["given_label"] for row in rows])
    assert wrong == pytest.approx(read_results(finished)["noise"]["realized_rate"])
    assert rows[0]["record"] == f"digits[{rows[0]['id']}]"
    for row in rows:  # The classes of the digits are named 0 to 9.
        assert row["true_class"] == row["true_label"]
        assert row["given_class"] == row["given_label"]


def test_every_image_is_judged_most_suspicious_first(finished):
    rows = read_table(finished / "label_issues.csv")
    scores = [float(row["label_score"]) for row in rows]
    assert scores == sorted(scores)
    data = load_examples(Config(train_examples=200, batch_size=32))
    assert len(rows) == 200 + len(data.validation) + len(data.test)
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert len({row["id"] for row in rows}) == len({row["record"] for row in rows}) == len(rows)


def test_label_issues_have_the_given_label_of_the_data(finished):
    """Accuracy is measured on true labels, but the given ones are judged."""
    given = load_examples(Config(train_examples=200, batch_size=32)).given
    rows = {int(row["id"]): row for row in read_table(finished / "label_issues.csv")}
    for name, split in given.items():
        for id_, label, true in zip(split.ids, split.labels, split.true_labels):
            row = rows[id_]
            assert (row["split"], int(row["given_label"])) == (name, label)
            assert int(row["true_label"]) == true
    assert (given["validation"].labels != given["validation"].true_labels).any()


def test_noise_table_and_label_issues_join_on_id(finished):
    noise = {row["id"]: row for row in read_table(finished / "noise.csv")}
    issues = {row["id"]: row for row in read_table(finished / "label_issues.csv")}
    assert noise.keys() == {key for key, row in issues.items() if row["split"] == "train"}
    for key, row in noise.items():
        for column in ("record", "given_label", "given_class"):
            assert issues[key][column] == row[column]
        assert issues[key]["predicted_class"] == issues[key]["predicted_label"]


def test_filter_column_agrees_with_the_probability_of_the_given_label(finished):
    rows = read_table(finished / "label_issues.csv")
    for row in rows:
        kept = str(float(row["probability_of_given"]) > .05) if row["split"] == "train" else ""
        assert row["filter_kept"] == kept
    kept = sum(row["filter_kept"] == "True" for row in rows)
    assert kept == read_results(finished)["exported_filter"]["kept"]


def test_arrays_of_a_run_are_in_the_order_of_the_records(finished):
    records = read_table(finished / "records.csv")
    probabilities = np.load(finished / "pred_probs.npy")
    assert len(probabilities) == len(np.load(finished / "features.npy")) == len(records)
    rows = {row["id"]: row for row in read_table(finished / "label_issues.csv")}
    for record, row in zip(records, probabilities):
        issue = rows[record["id"]]
        assert int(issue["predicted_label"]) == row.argmax()
        assert float(issue["probability_of_given"]) == pytest.approx(
            row[int(issue["given_label"])], abs=1e-6)


def test_results_state_how_well_wrong_labels_are_found(finished):
    results = read_results(finished)
    rows = read_table(finished / "label_issues.csv")
    detection = results["detection"]
    assert detection["wrong"] == sum(row["given_label"] != row["true_label"] for row in rows)
    assert 0 <= detection["auroc"] <= 1 and set(detection["splits"]) == {
        "train", "validation", "test"}
    assert results["label_issues"]["flagged"] == sum(
        row["is_label_issue"] == "True" for row in rows)
    noise = results["label_noise"]
    low, high = noise["interval"]
    assert low <= noise["estimated_rate"] <= high and noise["images"] == 200


def test_end_of_a_run_names_the_label_issues_first(finished, capsys):
    assert run(f"--output_dir={finished}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "labels are worth a look" in lines[1]
    assert "look:" in lines[2] and f"mlnt_tf.relabel {finished} --corrections=" in lines[3]


def test_every_stage_stores_networks_and_logs(finished):
    for stage in ("cross_entropy", "iteration_1", "iteration_2"):
        files = {path.name for path in (finished / stage).iterdir()}
        assert {"student_best.keras", "teacher_best.keras", "result.json"} <= files
        assert list((finished / stage).rglob("events.out.tfevents.*"))
    assert np.load(finished / "iteration_1/neighbors.npy").shape == (200, 10)
    labels = np.load(finished / "iteration_2/labels.npz")
    assert labels["probability_of_given"].shape == (200,)
    assert labels["selected"].sum() == read_results(finished)["iterations"][1]["kept"]


def test_tensorboard_has_losses_rates_and_accuracies(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "iteration_2/train"))
    events.Reload()
    names = ("loss", "consistency", "learning_rate", "meta_rate", "ema_decay", "lambda",
             "accuracy", "true_accuracy")
    assert {f"epoch_{name}" for name in names} <= set(events.Tags()["tensors"])


def test_tensorboard_shows_suspects_and_the_confusion_once(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "label_issues"))
    events.Reload()
    for tag in (issue_panels.SUSPECTS_TAG, issue_panels.CONFUSION_TAG):
        assert len(events.Tensors(tag)) == 1


def test_exported_network_has_the_reported_test_accuracy(finished):
    import tensorflow as tf

    test = load_examples(Config(train_examples=200, batch_size=32)).test
    loaded = tf.saved_model.load(str(finished / "saved_model/1"))
    output = loaded.signatures["images"](tf.constant(test.images.array))
    accuracy = np.mean(output["label"] == test.labels)
    assert accuracy == pytest.approx(read_results(finished)["test_accuracy"])


def test_identical_command_prints_the_table_without_training(finished, capsys):
    before = (finished / "results.json").stat().st_mtime_ns
    assert run(f"--output_dir={finished}") == 0
    assert "exported:" in capsys.readouterr().out
    assert (finished / "results.json").stat().st_mtime_ns == before


def test_another_run_in_the_same_directory_is_refused(finished, capsys):
    assert run(f"--output_dir={finished}", "--seed=1") == 2
    error = capsys.readouterr().err
    assert "--seed=0 there, --seed=1 here" in error
    assert error.count("\n") == 1


def test_resume_never_refuses_the_directory_of_a_run(finished, capsys):
    assert run(f"--output_dir={finished}", "--resume=never") == 2
    assert "--resume=never" in capsys.readouterr().err


@pytest.mark.slow
def test_recorded_flags_repeat_the_run(finished, tmp_path):
    flagfile = f"--flagfile={finished}/flags.txt"
    assert train.main(["train", flagfile, f"--output_dir={tmp_path / 'again'}"]) == 0
    again = kill.without_seconds(read_results(tmp_path / "again"))
    first = kill.without_seconds(read_results(finished))
    assert again.pop("explicit_flags") == []  # A flag file is not the command line.
    assert "epochs" in first.pop("explicit_flags")
    assert again == first


@pytest.mark.slow
@pytest.mark.parametrize("name", [
    "iteration_2/neighbors.npy", "iteration_2/labels.npz", "results.json"])
def test_damaged_artifact_is_computed_again_with_a_warning(finished, tmp_path, caplog, name):
    output_dir = tmp_path / "run"
    shutil.copytree(finished, output_dir)
    if name != "results.json":  # A stage that has finished does not read its tables.
        (output_dir / "iteration_2/result.json").unlink()
        (output_dir / "results.json").unlink()
    content = (output_dir / name).read_bytes()
    (output_dir / name).write_bytes(content[:-9] + bytes(9))
    assert run(f"--output_dir={output_dir}") == 0
    assert f"{output_dir / name} is computed again" in caplog.text
    actual, expected = read_results(output_dir), read_results(finished)
    assert kill.without_seconds(actual) == kill.without_seconds(expected)


@pytest.mark.slow
def test_resume_does_not_repeat_finished_stages(finished, tmp_path):
    output_dir = tmp_path / "run"
    shutil.copytree(finished, output_dir)
    for name in ("results.json", "iteration_2/result.json"):
        (output_dir / name).unlink()
    network = output_dir / "iteration_1/teacher_best.keras"
    before = network.stat().st_mtime_ns
    assert run(f"--output_dir={output_dir}") == 0
    assert network.stat().st_mtime_ns == before
    actual, expected = read_results(output_dir), read_results(finished)
    assert actual["test_accuracy"] == expected["test_accuracy"]


@pytest.mark.slow
def test_options_of_the_paper_train_together(tmp_path):
    flags = ["--neighbor_scope=batch", "--neighbor_features=logits", "--meta_order=full",
             "--update_mode=joint", "--augment", "--validation_labels=noisy",
             "--meta_rate_decay=follow", "--teacher_statistics=averaged",
             "--steps_per_execution=2"]
    output_dir = tmp_path / "run"
    assert run(*flags, f"--output_dir={output_dir}") == 0
    recorded = (output_dir / "flags.txt").read_text().splitlines()
    assert {flag.replace("--augment", "--augment=true") for flag in flags} <= set(recorded)
    results = read_results(output_dir)
    for result in results["iterations"]:
        assert result["neighbors"] == {"scope": "batch"}
        assert all(map(math.isfinite, result["validation"]["teacher"]))
    assert not list(output_dir.glob("*/neighbors.npy"))


@pytest.mark.slow
def test_run_without_synthetic_labels_has_no_warm_up(tmp_path):
    assert run("--num_synthetic=0", f"--output_dir={tmp_path / 'run'}") == 0
    stages = read_results(tmp_path / "run")["stages"]
    assert [stage["name"] for stage in stages] == ["iteration 1", "iteration 2"]
    assert stages[1]["neighbors"] is None
    assert (tmp_path / "run/iteration_2/labels.npz").exists()


@pytest.mark.parametrize("flags, message", [
    (["--dataset=mnist"], "--dataset=mnist"),
    (["--batch_size=1000"], "--batch_size=1000"),
    (["--train_examples=99999"], "--train_examples=99999"),
    (["--device=gpu"], "--device=gpu"),
    (["--steps_per_execution=3"], "--steps_per_execution=3"),
    (["--num_neighbors=250"], "--num_neighbors=250"),
    (["--model=resnet50", "--image_size=32"], "--model=resnet50"),
    (["--dataset=cifar10", "--data_dir=/nowhere"], "--data_dir")])
def test_invalid_flags_are_refused_in_one_line_before_a_directory_is_made(
        tmp_path, capsys, flags, message):
    assert run(*flags, f"--output_dir={tmp_path / 'run'}") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_missing_scann_is_reported_before_training(tmp_path, capsys, monkeypatch):
    def fail():
        raise ImportError

    monkeypatch.setattr("mlnt_tf.neighbors.scann.load_scann", fail)
    assert run("--neighbor_backend=scann", f"--output_dir={tmp_path / 'run'}") == 2
    assert "--neighbor_backend=scann" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_noise_does_not_depend_on_the_split():
    full = load_examples(Config())
    part = load_examples(Config(train_examples=300, validation_fraction=.2))
    assert full.realized_rate == pytest.approx(.45, abs=.01)
    labels = dict(zip(full.train.ids, full.train.labels))
    shared = [(labels[id_], label) for id_, label in zip(part.train.ids, part.train.labels)
              if id_ in labels]
    assert len(shared) > 200
    assert all(first == second for first, second in shared)


def test_directory_with_other_files_is_refused_and_unchanged(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    assert run(f"--output_dir={tmp_path}") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
def test_filter_that_selects_nothing_stops_the_run(tmp_path, capsys):
    assert run("--tau=0.9999", f"--output_dir={tmp_path / 'run'}") == 2
    assert "--tau=0.9999" in capsys.readouterr().err
    assert (tmp_path / "run/iteration_1/result.json").exists()


def test_non_finite_loss_stops_the_run_in_one_line(tmp_path, capsys):
    assert run("--learning_rate=1e30", f"--output_dir={tmp_path / 'run'}") == 1
    error = capsys.readouterr().err
    assert "loss=nan at step" in error or "loss=inf at step" in error
    assert "Lower --learning_rate" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_run_restores_the_dtype_policy(tmp_path):
    before = keras.config.dtype_policy().name
    flags = ["--precision=mixed_bfloat16", "--method=cross_entropy", "--epochs=1"]
    assert run(*flags, f"--output_dir={tmp_path / 'run'}") == 0
    assert read_results(tmp_path / "run")["precision"] == "mixed_bfloat16"
    assert keras.config.dtype_policy().name == before


def test_failed_run_restores_the_dtype_policy(tmp_path):
    before = keras.config.dtype_policy().name
    flags = ["--precision=mixed_bfloat16", "--num_neighbors=250"]
    assert run(*flags, f"--output_dir={tmp_path / 'run'}") == 2
    assert keras.config.dtype_policy().name == before


def test_another_keras_backend_is_refused_in_one_line():
    process = subprocess.run(
        [sys.executable, "-m", "mlnt_tf.train"], capture_output=True, text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"}, cwd=pathlib.Path(__file__).parents[1])
    assert process.returncode == 2
    assert "KERAS_BACKEND=jax" in process.stderr
    assert process.stderr.count("\n") == 1


@pytest.mark.slow
def test_cifar10_trains_on_real_images(cifar10_dir, tmp_path):
    assert run("--dataset=cifar10", f"--data_dir={cifar10_dir}", "--model=preact_resnet8",
               "--augment", "--neighbor_scope=batch", "--iterations=1",
               f"--output_dir={tmp_path / 'run'}") == 0
    assert read_results(tmp_path / "run")["dataset"] == "cifar10"


def test_the_last_lines_load_the_exported_network(finished):
    lines = train.describe_output(finished).splitlines()[-3:]
    images = np.random.default_rng(0).uniform(0, 255, size=[2, 8, 8, 1]).astype(np.float32)
    names = {"images": images}
    exec("\n".join(line.strip() for line in lines), names)
    np.testing.assert_allclose(np.sum(names["probabilities"], axis=1), 1, atol=1e-6)
    served = tf.saved_model.load(str(finished / "saved_model/1")).signatures["network_images"]
    np.testing.assert_allclose(served(tf.constant(images))["probabilities"],
                               names["probabilities"], atol=1e-5)


def test_printed_commands_keep_a_path_with_spaces_in_one_word():
    text = train.describe_output(pathlib.Path("/my runs/first"))
    commands = {line.partition(":")[0]: shlex.split(line.partition(":")[2])
                for line in text.splitlines() if line.startswith(("Inspect", "Serve"))}
    assert commands["Inspect"] == ["tensorboard", "--logdir", "/my runs/first"]
    assert "/my runs/first/saved_model:/models/mlnt" in commands["Serve"]

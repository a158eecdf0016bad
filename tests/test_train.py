"""The command, from flags to files: tiny runs."""

import csv
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from mlnt_tf import train
from mlnt_tf.config import Config
from mlnt_tf.data.load import load_examples

import kill

TINY = ["--epochs=2", "--steps_per_epoch=2", "--iterations=2", "--train_examples=200", "--batch_size=32", "--width=2",
        "--num_synthetic=2", "--tau=0.05", "--precision=float32"]


def run(*flags):
    return train.main(["train", *TINY, *flags])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("runs") / "tiny"
    assert run(f"--output_dir={place}") == 0
    return place


def results(place):
    return json.loads((place / "results.json").read_text())


def test_results_hold_what_they_promise(finished):
    found = results(finished)
    assert {"method", "dataset", "seed", "noise", "cross_entropy", "cross_entropy_ema", "iterations", "test_accuracy",
            "versions"} <= set(found)
    assert found["noise"] == {"kind": "symmetric", "rate": .5, "realized_rate": pytest.approx(.45, abs=.1)}
    assert [iteration["iteration"] for iteration in found["iterations"]] == [1, 2]
    for iteration in found["iterations"]:
        assert {"student", "teacher", "kept", "filter_precision", "filter_recall", "mentor", "seconds"} <= set(iteration)
        assert {"best_validation", "test_at_best", "test_last"} <= set(iteration["teacher"])
    assert found["iterations"][0]["kept"] == 200 and found["iterations"][0]["filter_recall"] == 1
    assert found["versions"]["tensorflow"].startswith("2.20")


def test_results_say_what_every_method_says(finished):
    found = results(finished)
    assert [stage["name"] for stage in found["stages"]] == ["cross entropy", "iteration 1", "iteration 2"]
    name, _, role = found["exported"].rpartition(" ")
    exported = next(stage for stage in found["stages"] if stage["name"] == name)
    assert found["best"] == exported[role] and found["curve"]["validation"] == exported["validation"][role]
    assert max(found["curve"]["validation"]) == found["best"]["best_validation"]
    assert found["best_accuracy"] == found["test_accuracy"] == exported[role]["test_at_best"]
    assert found["last_accuracy"] == found["stages"][-1][role]["test_last"]
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]))
    assert found["peak_memory_mb"] >= max(stage["peak_memory_mb"] for stage in found["stages"]) > 100


def test_the_noise_table_is_the_noise(finished):
    rows = list(csv.DictReader((finished / "noise.csv").open()))
    assert len(rows) == 200
    wrong = np.mean([row["true_label"] != row["given_label"] for row in rows])
    assert wrong == pytest.approx(results(finished)["noise"]["realized_rate"])
    assert rows[0]["record"] == f"digits[{rows[0]['id']}]"
    assert all(row["true_class"] == row["true_label"] and row["given_class"] == row["given_label"] for row in rows)


def test_suspects_are_sorted_by_the_probability_of_their_label(finished):
    rows = list(csv.DictReader((finished / "suspects.csv").open()))
    probabilities = [float(row["probability_of_given"]) for row in rows]
    assert len(rows) == 200 and probabilities == sorted(probabilities)


def test_both_tables_give_labels_and_class_names_and_join_on_the_id(finished):
    noise, suspects = ({row["id"]: row for row in csv.DictReader((finished / name).open())}
                       for name in ("noise.csv", "suspects.csv"))
    assert noise.keys() == suspects.keys()
    for key, suspect in suspects.items():
        for column in ("record", "given_label", "given_class"):
            assert suspect[column] == noise[key][column]
        assert int(suspect["predicted_label"]) in range(10) and suspect["predicted_class"]


def test_every_stage_leaves_its_networks_and_logs(finished):
    for stage in ("cross_entropy", "iteration_1", "iteration_2"):
        assert {"student_best.keras", "teacher_best.keras", "result.json"} <= {
            path.name for path in (finished / stage).iterdir()}
        assert list((finished / stage).rglob("events.out.tfevents.*"))
    assert np.load(finished / "iteration_1/neighbors.npy").shape == (200, 10)
    assert np.load(finished / "iteration_2/mentor_probability.npy").shape == (200,)


def test_tensorboard_has_losses_rates_and_accuracies(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(finished / "iteration_2/train"))
    events.Reload()
    assert {f"epoch_{name}" for name in ("loss", "consistency", "learning_rate", "meta_rate", "ema_decay", "lambda",
                                         "accuracy", "true_accuracy")} <= set(events.Tags()["tensors"])


def test_the_exported_network_scores_what_the_results_say(finished):
    import tensorflow as tf

    examples = load_examples(Config(train_examples=200, batch_size=32))
    loaded = tf.saved_model.load(str(finished / "saved_model/1"))
    answer = loaded.signatures["images"](tf.constant(examples.test.images.array))
    assert np.mean(answer["label"] == examples.test.labels) == pytest.approx(results(finished)["test_accuracy"])


def test_an_identical_call_prints_the_table_again(finished, capsys):
    before = (finished / "results.json").stat().st_mtime_ns
    assert run(f"--output_dir={finished}") == 0
    assert "exported:" in capsys.readouterr().out
    assert (finished / "results.json").stat().st_mtime_ns == before


def test_another_run_in_the_same_place_is_refused(finished, capsys):
    assert run(f"--output_dir={finished}", "--seed=1") == 2
    assert "--seed=0 there, --seed=1 here" in (told := capsys.readouterr().err) and told.count("\n") == 1


def test_resume_never_refuses_a_directory_in_use(finished, capsys):
    assert run(f"--output_dir={finished}", "--resume=never") == 2
    assert "--resume=never" in capsys.readouterr().err


def test_the_stored_flags_repeat_the_run(finished, tmp_path):
    assert train.main(["train", f"--flagfile={finished}/flags.txt", f"--output_dir={tmp_path / 'again'}"]) == 0
    again, first = (kill.without_seconds(results(place)) for place in (tmp_path / "again", finished))
    assert again == first


@pytest.mark.parametrize("name, recomputed", [
    ("iteration_2/neighbors.npy", True), ("iteration_2/mentor_probability.npy", True), ("results.json", False)])
def test_a_damaged_result_is_computed_again_with_a_warning(finished, tmp_path, caplog, name, recomputed):
    place = tmp_path / "run"
    shutil.copytree(finished, place)
    if recomputed:  # the tables of a stage are read while it trains
        (place / "iteration_2/result.json").unlink()
        (place / "results.json").unlink()
    damaged = (place / name).read_bytes()
    (place / name).write_bytes(damaged[:-9] + bytes(9))
    assert run(f"--output_dir={place}") == 0
    assert f"{place / name} is computed again" in caplog.text
    assert kill.without_seconds(results(place)) == kill.without_seconds(results(finished))


def test_an_interrupted_run_goes_on_after_its_last_finished_stage(finished, tmp_path):
    place = tmp_path / "run"
    shutil.copytree(finished, place)
    for name in ("results.json", "iteration_2/result.json"):
        (place / name).unlink()
    before = (place / "iteration_1/teacher_best.keras").stat().st_mtime_ns
    assert run(f"--output_dir={place}") == 0
    assert (place / "iteration_1/teacher_best.keras").stat().st_mtime_ns == before
    assert results(place)["test_accuracy"] == results(finished)["test_accuracy"]


def test_batch_scope_logits_and_full_order(tmp_path):
    assert run("--neighbor_scope=batch", "--neighbor_features=logits", "--meta_order=full", "--update_mode=joint",
               "--augment", "--validation_labels=noisy", "--meta_rate_decay=follow", "--teacher_statistics=averaged",
               "--steps_per_execution=2", f"--output_dir={tmp_path / 'run'}") == 0


def test_no_synthetic_labels_keep_mentor_and_filter(tmp_path):
    assert run("--num_synthetic=0", f"--output_dir={tmp_path / 'run'}") == 0
    assert [stage["name"] for stage in results(tmp_path / "run")["stages"]] == ["iteration 1", "iteration 2"]


@pytest.mark.parametrize("flags, message", [
    (["--dataset=mnist"], "--dataset=mnist"), (["--batch_size=1000"], "--batch_size=1000"),
    (["--train_examples=99999"], "--train_examples=99999"), (["--device=gpu"], "--device=gpu"),
    (["--steps_per_execution=3"], "--steps_per_execution=3"), (["--num_neighbors=250"], "--num_neighbors=250"),
    (["--dataset=cifar10", "--data_dir=/nowhere"], "--data_dir")])
def test_a_mistake_costs_one_line_and_no_directory(tmp_path, capsys, flags, message):
    assert run(*flags, f"--output_dir={tmp_path / 'run'}") == 2
    told = capsys.readouterr().err
    assert message in told and "Traceback" not in told
    assert not (tmp_path / "run").exists()


def test_scann_asked_for_and_absent_is_told_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mlnt_tf.neighbors.scann.load_scann", lambda: exec("raise ImportError()"))
    assert run("--neighbor_backend=scann", f"--output_dir={tmp_path / 'run'}") == 2
    assert "--neighbor_backend=scann" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_noise_does_not_hang_on_what_is_held_out_or_cut_off():
    whole, cut = (load_examples(Config(**settings)) for settings in
                  (dict(), dict(train_examples=300, validation_fraction=.2)))
    given = dict(zip(whole.train.ids, whole.train.labels))
    assert whole.realized_rate == pytest.approx(.45, abs=.01)
    shared = [(given[i], label) for i, label in zip(cut.train.ids, cut.train.labels) if i in given]
    assert len(shared) > 200 and all(one == other for one, other in shared)


def test_a_directory_that_is_no_run_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("mine")
    assert run(f"--output_dir={tmp_path}") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_filter_that_keeps_nothing_stops_the_run(tmp_path, capsys):
    assert run("--tau=0.9999", f"--output_dir={tmp_path / 'run'}") == 2
    assert "--tau=0.9999" in capsys.readouterr().err
    assert (tmp_path / "run/iteration_1/result.json").exists()


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, capsys):
    assert run("--learning_rate=1e30", f"--output_dir={tmp_path / 'run'}") == 1
    told = capsys.readouterr().err
    assert "loss=nan at step" in told or "loss=inf at step" in told
    assert told.count("\n") == 1


def test_another_keras_backend_is_refused_in_one_line():
    told = subprocess.run([sys.executable, "-m", "mlnt_tf.train"], capture_output=True, text=True,
                          env={**os.environ, "KERAS_BACKEND": "jax"}, cwd=pathlib.Path(__file__).parents[1])
    assert told.returncode == 2
    assert "KERAS_BACKEND=jax" in told.stderr and told.stderr.count("\n") == 1


def test_cifar10_runs_on_real_images(cifar10_dir, tmp_path):
    assert run("--dataset=cifar10", f"--data_dir={cifar10_dir}", "--model=preact_resnet8", "--augment",
               "--neighbor_scope=batch", "--iterations=1", f"--output_dir={tmp_path / 'run'}") == 0
    assert results(tmp_path / "run")["dataset"] == "cifar10"


def test_a_network_that_does_not_fit_is_told_before_training(tmp_path, capsys):
    assert run("--model=resnet50", "--image_size=32", f"--output_dir={tmp_path / 'run'}") == 2
    told = capsys.readouterr().err
    assert "--model=resnet50" in told and told.count("\n") == 1
    assert not (tmp_path / "run").exists()

"""Clothing1M: the release, the shards made of it, and `mlnt_tf.prepare`."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from mlnt_tf import prepare, train
from mlnt_tf.config import Config, UserError
from mlnt_tf.data.images import storage
from mlnt_tf.data.sources import load_source
from mlnt_tf.files import cache

from pictures import encode, picture, tree

CLASSES = ("T-Shirt", "Down Coat", "Shawl")
COUNTS = {"noisy_train": 12, "clean_train": 4, "clean_val": 3, "clean_test": 3}
MINI_FLAGS = pathlib.Path(__file__).parents[1] / "configs/clothing_mini.flags"


def write_release(root):
    """Writes a small tree with the layout of the release, and returns it.

    The label of the i-th image is i % 3 in the noisy list, and (i + 1) % 3 in the clean lists.
    """
    keys = {split: [f"images/{row % 10}/{row:02d}/{row}0,{number}.jpg" for row in range(count)]
            for number, (split, count) in enumerate(COUNTS.items())}
    all_keys = [key for split_keys in keys.values() for key in split_keys]
    tree(root, {key: encode(picture(seed=seed), "JPEG", quality=95)
                for seed, key in enumerate(all_keys)})
    for split, split_keys in keys.items():
        (root / f"{split}_key_list.txt").write_text("\n".join(split_keys) + "\n")
    noisy = {key: row % 3 for row, key in enumerate(keys["noisy_train"])}
    noisy[keys["clean_val"][0]] = 0  # As in the release, some images have both labels.
    clean = {key: (row + 1) % 3 for split in ("clean_train", "clean_val", "clean_test")
             for row, key in enumerate(keys[split])}
    for name, labels in (("noisy", noisy), ("clean", clean)):
        lines = "".join(f"{key} {label}\n" for key, label in labels.items())
        (root / f"{name}_label_kv.txt").write_text(lines)
    (root / "category_names_eng.txt").write_text("\n".join(CLASSES) + "\n")
    return root


def run_prepare(*arguments):
    """Returns the exit code of the command."""
    return prepare.main(["prepare", *arguments])


def convert(source_dir, data_dir, *arguments):
    return run_prepare("clothing1m", f"--source_dir={source_dir}", f"--data_dir={data_dir}",
                       *arguments)


def check(source_dir):
    return run_prepare("clothing1m", f"--source_dir={source_dir}", "--check")


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "release")


@pytest.fixture(scope="module")
def release_and_shards(tmp_path_factory):
    """A release, and the shards that the command makes of it."""
    root = tmp_path_factory.mktemp("clothing1m")
    release = write_release(root / "release")
    assert convert(release, root / "shards") == 0
    return release, root / "shards"


def load(root, *, dataset="clothing1m", **settings):
    return load_source(
        Config(dataset=dataset, noise="none", image_size=10, data_dir=str(root), **settings))


def pixels_in_memory(images):
    return storage.load_into_memory(images).array


def test_release_has_noisy_training_and_clean_other_labels(release):
    source = load(release)
    assert source.class_names == CLASSES
    assert [len(split) for split in (source.train, source.validation, source.test)] == [12, 3, 3]
    assert source.train.labels.tolist() == [row % 3 for row in range(12)]
    assert source.validation.labels.tolist() == source.test.labels.tolist() == [1, 2, 0]
    assert source.train.record_names()[1] == "images/1/01/10,0.jpg"
    assert (source.train.true_labels == -1).all()
    np.testing.assert_array_equal(source.test.true_labels, source.test.labels)


def test_use_clean_train_adds_clean_training_list(release):
    source = load(release, use_clean_train=True)
    assert len(source.train) == 16
    assert source.train.labels[:12].tolist() == [row % 3 for row in range(12)]
    added = slice(12, None)
    assert source.train.labels[added].tolist() == [1, 2, 0, 1]
    assert source.train.true_labels[added].tolist() == [1, 2, 0, 1]


@pytest.mark.parametrize("limit, storage_class", [
    (2**30, storage.ArrayImages), (0, storage.RecordImages)])
@pytest.mark.parametrize("use_clean_train", [True, False])
def test_shards_have_same_examples_as_release(
        release_and_shards, monkeypatch, limit, storage_class, use_clean_train):
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", limit)
    released, prepared = (load(root, use_clean_train=use_clean_train)
                          for root in release_and_shards)
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", 2**30)
    assert released.class_names == prepared.class_names
    for name in ("train", "validation", "test"):
        expected, actual = getattr(released, name), getattr(prepared, name)
        assert isinstance(actual.images, storage_class)
        # TFDS shuffles the examples when it writes shards.
        records = actual.record_names()
        rows = [records.index(record) for record in expected.record_names()]
        assert len(actual) == len(expected)
        np.testing.assert_array_equal(actual.labels[rows], expected.labels)
        np.testing.assert_array_equal(actual.true_labels[rows], expected.true_labels)
        np.testing.assert_array_equal(
            pixels_in_memory(actual.images)[rows], pixels_in_memory(expected.images))


def test_cached_labels_depend_on_features_that_are_read(release_and_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "MIN_SECONDS", 0)
    _, shards = release_and_shards
    by_name = load(shards, dataset="tfds:clothing1m")
    assert (by_name.test.true_labels == -1).all()
    for _ in range(2):  # The second time from the cache.
        source = load(shards)
        assert (source.test.true_labels >= 0).all()
        assert all(name.endswith(".jpg") for name in source.test.record_names())


def test_existing_shards_are_not_written_again(release_and_shards):
    def newest_change():
        return max(path.stat().st_mtime_ns for path in shards.rglob("*"))

    release, shards = release_and_shards
    before = newest_change()
    assert convert(release, shards) == 0
    assert newest_change() == before


def test_check_accepts_complete_release(release, capsys):
    assert check(release) == 0
    assert ("train: 12 images listed, 3 classes, 0 missing, 0 cannot be decoded"
            in capsys.readouterr().out)


def test_check_counts_and_names_missing_and_damaged_images(release, capsys):
    for row in range(7):
        (release / f"images/{row}/{row:02d}/{row}0,0.jpg").unlink()
    (release / "images/8/08/80,0.jpg").write_bytes(b"")
    assert check(release) == 2
    output = capsys.readouterr().out
    assert "train: 12 images listed, 3 classes, 7 missing, 1 cannot be decoded" in output
    assert "images/0/00/00,0.jpg: No such file or directory" in output
    assert "and 3 more" in output
    assert "test: 3 images listed, 3 classes, 0 missing" in output


def test_every_missing_list_is_named(release, capsys):
    for name in ("clean_label_kv.txt", "clean_val_key_list.txt"):
        (release / name).unlink()
    message = "lacks clean_label_kv.txt, clean_val_key_list.txt"
    with pytest.raises(UserError, match=f"--data_dir={release} {message}"):
        load(release)
    assert check(release) == 2
    assert f"--source_dir={release} {message}" in capsys.readouterr().err


@pytest.mark.parametrize("name, text, message", [
    ("noisy_label_kv.txt", "images/0/00/00,0.jpg 3\n", "line 1 has the label 3, which is out of"),
    ("noisy_label_kv.txt", "images/0/00/00,0.jpg\n", "line 1 is not a path and a label"),
    ("noisy_train_key_list.txt", "images/none.jpg\n",
     "line 1: images/none.jpg has no label in noisy_label_kv.txt"),
    ("clean_test_key_list.txt", "", "clean_test_key_list.txt is empty"),
    ("category_names_eng.txt", "only\n", "two classes")])
def test_damaged_list_is_reported_with_its_line(release, name, text, message):
    (release / name).write_text(text)
    with pytest.raises(UserError, match=message):
        load(release)


def test_repeated_key_is_reported_with_both_lines(release):
    keys = (release / "clean_val_key_list.txt").read_text().splitlines()
    (release / "clean_val_key_list.txt").write_text("\n".join([*keys, keys[0]]) + "\n")
    message = f"clean_val_key_list.txt, line {len(keys) + 1} repeats {keys[0]} of line 1"
    with pytest.raises(UserError, match=message):
        load(release)


@pytest.mark.parametrize("arguments, message", [
    ([], "The data set (none) cannot be prepared"),
    (["fashion"], "The data set fashion cannot be prepared"),
    (["clothing1m"], "--source_dir is missing"),
    (["clothing1m", "--source_dir=/nowhere"], "--data_dir is missing"),
    (["clothing1m", "--nothing=1"], "unrecognized arguments: --nothing=1"),
    (["clothing1m", "--source_dir=/nowhere", "--check"], "--source_dir=/nowhere lacks")])
def test_prepare_reports_mistake_in_one_line(capsys, arguments, message):
    assert run_prepare(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"mlnt_tf: {message}") and error.count("\n") == 1


def test_prepare_reports_interruption_in_one_line(release, capsys, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "check", interrupt)
    assert check(release) == 130
    assert (capsys.readouterr().err
            == "mlnt_tf: interrupted; run the same command to start again.\n")


def test_prepare_refuses_too_many_bad_images(release, tmp_path, capsys):
    (release / "images/3/03/30,0.jpg").write_bytes(b"")
    shards = tmp_path / "shards"
    assert convert(release, shards) == 2
    assert "1 of 22 images cannot be decoded" in capsys.readouterr().err
    assert convert(release, shards, "--max_bad_images=0.1") == 0
    assert len(load(shards).train) == 11


@pytest.mark.slow
def test_clothing_mini_config_trains_on_shards_and_exports(
        release_and_shards, tmp_path, monkeypatch):
    release, shards = release_and_shards
    output_dir = tmp_path / "run"
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", 0)  # Streamed, like the million images.
    assert train.main([
        "train", f"--flagfile={MINI_FLAGS}", f"--data_dir={shards}", f"--output_dir={output_dir}",
        "--epochs=1", "--batch_size=4", "--num_neighbors=3", "--width=2", "--tau=0.01",
        "--iterations=1", "--precision=float32"]) == 0
    model = tf.saved_model.load(str(output_dir / "saved_model/1"))
    encoded = (release / "images/0/00/00,0.jpg").read_bytes()
    prediction = model.signatures["serving_default"](tf.constant([encoded]))
    assert prediction["class_name"][0].numpy().decode() in CLASSES
    assert "images/0/00/00,0.jpg" in (output_dir / "label_issues.csv").read_text()
    results = json.loads((output_dir / "results.json").read_text())
    assert results["noise"]["realized_rate"] is None

"""Clothing1M: the released tree, the shards made of it, and the check before."""

import json
import pathlib

import numpy as np
import pytest

from mlnt_tf import prepare, train
from mlnt_tf.config import Config, UserError
from mlnt_tf.data.images import storage
from mlnt_tf.data.sources import load_source

from pictures import encode, picture, tree

CLASSES = ("T-Shirt", "Down Coat", "Shawl")
SPLITS = {"noisy_train": 12, "clean_train": 4, "clean_val": 3, "clean_test": 3}


def release(root):
    """A tree like the release; of the noisy list's i-th image the label is i % 3, a clean image's is one more."""
    keys = {split: [f"images/{row % 10}/{row:02d}/{row}0,{seed}.jpg" for row in range(count)]
            for seed, (split, count) in enumerate(SPLITS.items())}
    tree(root, {key: encode(picture(seed=seed), "JPEG", quality=95)
                for seed, key in enumerate(key for listed in keys.values() for key in listed)})
    for split, listed in keys.items():
        (root / f"{split}_key_list.txt").write_text("\n".join(listed) + "\n")
    noisy = [(key, row % 3) for row, key in enumerate(keys["noisy_train"])]
    clean = [(key, (row + 1) % 3) for split in ("clean_train", "clean_val", "clean_test")
             for row, key in enumerate(keys[split])]
    for name, rows in (("noisy", [*noisy, (keys["clean_val"][0], 0)]), ("clean", clean)):
        (root / f"{name}_label_kv.txt").write_text("".join(f"{key} {label}\n" for key, label in rows))
    (root / "category_names_eng.txt").write_text("\n".join(CLASSES) + "\n")
    return root


@pytest.fixture
def released(tmp_path):
    return release(tmp_path / "released")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The released tree and the shards that the command makes of it."""
    root = tmp_path_factory.mktemp("clothing1m")
    tree = release(root / "released")
    assert prepare.main(["prepare", "clothing1m", f"--source_dir={tree}", f"--data_dir={root / 'shards'}"]) == 0
    return tree, root / "shards"


def load(root, **settings):
    return load_source(Config(dataset="clothing1m", noise="none", image_size=10, data_dir=str(root), **settings))


def test_the_released_splits_and_labels(released):
    source = load(released)
    assert source.class_names == CLASSES
    assert [len(split) for split in (source.train, source.validation, source.test)] == [12, 3, 3]
    assert source.train.labels.tolist() == [row % 3 for row in range(12)]
    assert source.validation.labels.tolist() == source.test.labels.tolist() == [1, 2, 0]
    assert source.train.record_names()[1] == "images/1/01/10,0.jpg"
    assert (source.train.true_labels == -1).all() and (source.test.true_labels >= 0).all()


def test_the_clean_training_list_is_added_if_asked(released):
    source = load(released, use_clean_train=True)
    assert len(source.train) == 16
    assert source.train.labels[12:].tolist() == source.train.true_labels[12:].tolist() == [1, 2, 0, 1]


@pytest.mark.parametrize("limit", [2**30, 0])
@pytest.mark.parametrize("clean", [True, False])
def test_shards_hold_what_the_tree_holds(both, monkeypatch, limit, clean):
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", limit)
    tree, shards = (load(root, use_clean_train=clean) for root in both)
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", 2**30)
    assert tree.class_names == shards.class_names
    for split in ("train", "validation", "test"):
        one, other = getattr(tree, split), getattr(shards, split)
        assert isinstance(other.images, storage.ArrayImages if limit else storage.RecordImages)
        rows = [other.record_names().index(name) for name in one.record_names()]  # shards are shuffled
        np.testing.assert_array_equal(one.labels, other.labels[rows])
        np.testing.assert_array_equal(one.true_labels, other.true_labels[rows])
        np.testing.assert_array_equal(storage.load_into_memory(one.images).array, storage.load_into_memory(other.images).array[rows])


def test_shards_read_by_their_name_alone_leave_nothing_behind_that_misleads(both, tmp_path, monkeypatch):
    from mlnt_tf.files import cache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "MIN_SECONDS", 0)
    plain = load_source(Config(dataset="tfds:clothing1m", noise="none", image_size=10, data_dir=str(both[1])))
    assert (plain.test.true_labels == -1).all()
    for _ in range(2):
        source = load(both[1])
        assert (source.test.true_labels >= 0).all()
        assert all(name.endswith(".jpg") for name in source.test.record_names())


def test_prepared_shards_are_left_alone(both):
    stamp = max(path.stat().st_mtime_ns for path in both[1].rglob("*"))
    assert prepare.main(["prepare", "clothing1m", f"--source_dir={both[0]}", f"--data_dir={both[1]}"]) == 0
    assert max(path.stat().st_mtime_ns for path in both[1].rglob("*")) == stamp


def test_check_counts_and_names_what_is_missing(released, capsys):
    for row in range(7):
        (released / f"images/{row}/{row:02d}/{row}0,0.jpg").unlink()
    (released / "images/8/08/80,0.jpg").write_bytes(b"")
    assert prepare.main(["prepare", "clothing1m", f"--source_dir={released}", "--check"]) == 2
    told = capsys.readouterr().out
    assert "train: 12 images listed, 3 classes, 7 missing, 1 that do not decode" in told
    assert "images/0/00/00,0.jpg: No such file or directory" in told and "and 3 more" in told
    assert "test: 3 images listed, 3 classes, 0 missing" in told


def test_every_missing_list_is_named(released, capsys):
    for name in ("clean_label_kv.txt", "clean_val_key_list.txt"):
        (released / name).unlink()
    with pytest.raises(UserError, match="lacks clean_label_kv.txt, clean_val_key_list.txt"):
        load(released)
    assert prepare.main(["prepare", "clothing1m", f"--source_dir={released}", "--check"]) == 2
    assert "lacks clean_label_kv.txt, clean_val_key_list.txt" in capsys.readouterr().err


@pytest.mark.parametrize("name, text, message", [
    ("noisy_label_kv.txt", "images/0/00/00,0.jpg 3\n", "line 1: the label 3 is out of range"),
    ("noisy_label_kv.txt", "images/0/00/00,0.jpg\n", "line 1 is not a path and a label"),
    ("noisy_train_key_list.txt", "images/none.jpg\n", "line 1: images/none.jpg has no label in noisy_label_kv.txt"),
    ("clean_test_key_list.txt", "", "clean_test_key_list.txt is empty"),
    ("category_names_eng.txt", "only\n", "two classes")])
def test_a_broken_list_is_told_with_its_line(released, name, text, message):
    (released / name).write_text(text)
    with pytest.raises(UserError, match=message):
        load(released)


def test_a_key_listed_twice_is_told_with_both_lines(released):
    keys = (released / "clean_val_key_list.txt").read_text().splitlines()
    (released / "clean_val_key_list.txt").write_text("\n".join([*keys, keys[0]]) + "\n")
    with pytest.raises(UserError, match=f"clean_val_key_list.txt, line {len(keys) + 1}: .* is in line 1 already"):
        load(released)


@pytest.mark.parametrize("arguments", [["fashion"], ["clothing1m"], ["clothing1m", "--source_dir=/nowhere"],
                                       ["clothing1m", "--nothing=1"],
                                       ["clothing1m", "--source_dir=/nowhere", "--check"]])
def test_a_mistake_costs_one_line(capsys, arguments):
    assert prepare.main(["prepare", *arguments]) == 2
    told = capsys.readouterr().err
    assert told.startswith("mlnt_tf: ") and told.count("\n") == 1


def test_an_interruption_costs_one_line(released, capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "check", interrupted)
    assert prepare.main(["prepare", "clothing1m", f"--source_dir={released}", "--check"]) == 130
    assert capsys.readouterr().err == "mlnt_tf: interrupted; the same command begins again.\n"


def test_too_many_bad_images_are_not_prepared(released, tmp_path, capsys):
    (released / "images/3/03/30,0.jpg").write_bytes(b"")
    arguments = ["prepare", "clothing1m", f"--source_dir={released}", f"--data_dir={tmp_path / 'shards'}"]
    assert prepare.main(arguments) == 2
    assert "1 of 22 images do not decode" in capsys.readouterr().err
    assert prepare.main([*arguments, "--max_bad_images=0.1"]) == 0
    assert len(load(tmp_path / "shards").train) == 11


def test_the_config_of_the_small_set_runs_from_shards_to_saved_model(both, tmp_path, monkeypatch):
    import tensorflow as tf

    flagfile = pathlib.Path(__file__).parents[1] / "configs/clothing_mini.flags"
    tree, shards = both
    place = tmp_path / "run"
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", 0)  # streamed, as the million is
    assert train.main(["train", f"--flagfile={flagfile}", f"--data_dir={shards}", f"--output_dir={place}", "--epochs=1",
                       "--batch_size=4", "--num_neighbors=3", "--width=2", "--tau=0.01", "--iterations=1",
                       "--precision=float32"]) == 0
    model = tf.saved_model.load(str(place / "saved_model/1"))
    answer = model.signatures["serving_default"](tf.constant([(tree / "images/0/00/00,0.jpg").read_bytes()]))
    assert answer["class_name"][0].numpy().decode() in CLASSES
    assert "images/0/00/00,0.jpg" in (place / "suspects.csv").read_text()
    assert json.loads((place / "results.json").read_text())["noise"]["realized_rate"] is None

"""Faults of a disk in every phase: one line, and the run resumes.

A limit of the size of files stands for a full disk.
"""

import json
import resource

import pytest

from mlnt_tf import train
from mlnt_tf.data import load
from mlnt_tf.data.images import storage

import kill
import pictures

pytestmark = pytest.mark.slow
RUN = ["train", "--epochs=2", "--steps_per_epoch=2", "--iterations=1", "--train_examples=200",
       "--batch_size=32", "--width=2", "--num_synthetic=1", "--precision=float32",
       "--checkpoint_every=1"]
LIMITS = (100, 1_000, 6_000, 20_000, 40_000)  # bytes


def results(place):
    return kill.without_seconds(json.loads((place / "results.json").read_text()))


def test_a_run_that_meets_a_full_disk_in_every_phase_ends_like_another(tmp_path, capsys):
    assert train.main([*RUN, f"--output_dir={tmp_path / 'expected'}"]) == 0
    place = tmp_path / "run"
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    codes = []
    for size in LIMITS:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limit[1]))
        try:
            codes.append(train.main([*RUN, f"--output_dir={place}"]))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        error = capsys.readouterr().err
        assert "Traceback" not in error
        if codes[-1]:
            assert "cannot be written (File too large)" in error, f"at {size} bytes"
    assert set(codes) <= {0, 1, 2} and codes[0] and codes[1]
    assert train.main([*RUN, f"--output_dir={place}"]) == 0
    assert results(place) == results(tmp_path / "expected")
    assert not list(place.rglob("writing*"))


def test_an_image_that_vanishes_during_training_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(storage, "IN_MEMORY_BELOW", 1)  # Images are read as they are needed.
    names = [f"pets/{name}/{number}.png" for name in ("cat", "dog") for number in range(30)]
    pictures.tree(tmp_path, dict.fromkeys(names), size=(16, 16))
    load_examples = load.load_examples

    def load_and_delete(config):
        examples = load_examples(config)
        for path in (tmp_path / "pets/cat").iterdir():
            path.unlink()
        return examples

    monkeypatch.setattr(load, "load_examples", load_and_delete)
    arguments = ["train", "--dataset=folder", f"--data_dir={tmp_path / 'pets'}", "--image_size=16",
                 "--method=cross_entropy", "--epochs=1", "--batch_size=8", "--width=2",
                 "--model=cnn", "--precision=float32", f"--output_dir={tmp_path / 'run'}"]
    assert train.main(arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("mlnt_tf: ") and "pets/cat/" in error
    assert ".png cannot be read (No such file or directory). It was readable before." in error

"""A file-size limit stands for a full disk: one line in every phase, and the run resumes."""

import json
import resource

import pytest

from mlnt_tf import train

import kill

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

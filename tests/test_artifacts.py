"""Artifacts: a stored result is only read if it is intact and belongs to the same inputs."""

import json
import os

import numpy as np
import pytest

from mlnt_tf.files import artifacts

TABLE = np.arange(12, dtype=np.int32).reshape(4, 3)


@pytest.fixture
def counted():
    """(function that computes TABLE, list of its calls)."""
    calls = []

    def compute(scratch):
        calls.append(scratch)
        return TABLE, {"recall": 1.0}

    return compute, calls


def test_array_is_computed_once_and_then_read_with_its_report(tmp_path, counted):
    compute, calls = counted
    for _ in range(2):
        table, report = artifacts.load_or_compute(tmp_path / "table.npy", compute, inputs="a")
        np.testing.assert_array_equal(table, TABLE)
        assert report == {"recall": 1.0}
    assert len(calls) == 1


def test_array_of_other_inputs_is_computed_again_with_a_warning(tmp_path, counted, caplog):
    compute, calls = counted
    for inputs in ("a", "b", "b"):
        artifacts.load_or_compute(tmp_path / "table.npy", compute, inputs=inputs)
    assert len(calls) == 2
    assert "table.npy is computed again: it was computed from other inputs" in caplog.text


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def change_last_byte(path):
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")


def truncate_sidecar(path):
    path.with_suffix(".json").write_text("{")


def empty_sidecar(path):
    path.with_suffix(".json").write_text("{}")


@pytest.mark.parametrize("damage", [truncate, change_last_byte, truncate_sidecar, empty_sidecar])
def test_damaged_array_is_computed_again_with_a_warning(tmp_path, counted, caplog, damage):
    compute, calls = counted
    path = tmp_path / "table.npy"
    artifacts.load_or_compute(path, compute, inputs="a")
    damage(path)
    table, _ = artifacts.load_or_compute(path, compute, inputs="a")
    np.testing.assert_array_equal(table, TABLE)
    assert len(calls) == 2
    assert "table.npy is computed again" in caplog.text


def test_array_without_sidecar_is_computed_again(tmp_path, counted):
    compute, calls = counted
    path = tmp_path / "table.npy"
    artifacts.load_or_compute(path, compute, inputs="a")
    path.with_suffix(".json").unlink()  # As after a kill between the two files.
    artifacts.load_or_compute(path, compute, inputs="a")
    assert len(calls) == 2


def test_dict_of_arrays_is_read_back(tmp_path):
    path = tmp_path / "scan.npz"
    arrays = {"good": TABLE > 3, "sizes": TABLE}
    artifacts.load_or_compute(path, lambda scratch: arrays, inputs="a")
    stored, report = artifacts.read(path, inputs="a")
    assert report == {}
    assert stored.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(stored[name], array)


def test_compute_may_write_the_table_to_the_scratch_path(tmp_path):
    def compute(scratch):
        mapped = np.lib.format.open_memmap(scratch, "w+", np.int32, TABLE.shape)
        mapped[:] = TABLE
        return None, {"backend": "exact"}

    table, report = artifacts.load_or_compute(tmp_path / "table.npy", compute, inputs="a")
    np.testing.assert_array_equal(table, TABLE)
    assert report == {"backend": "exact"}


def test_json_is_read_back_without_digest_and_checksum(tmp_path):
    path = tmp_path / "result.json"
    artifacts.write_json(path, {"accuracy": 0.5}, inputs="a")
    assert artifacts.read_json(path, inputs="a") == {"accuracy": 0.5}
    assert set(json.loads(path.read_text())) == {"accuracy", artifacts.STAMP}


@pytest.mark.parametrize("text, reason", [
    ('{"accuracy": 0.', "is computed again"),
    ("[]", "is computed again"),
    ('{"accuracy": 0.9, "artifact": {"inputs": "a", "checksum": "0"}}',
     "its checksum does not match")])
def test_damaged_json_is_not_read(tmp_path, caplog, text, reason):
    path = tmp_path / "result.json"
    path.write_text(text)
    assert artifacts.read_json(path, inputs="a") is None
    assert reason in caplog.text


def test_json_of_other_inputs_is_not_read(tmp_path, caplog):
    path = tmp_path / "result.json"
    artifacts.write_json(path, {"accuracy": 0.5}, inputs="a")
    assert artifacts.read_json(path, inputs="b") is None
    assert "it was computed from other inputs" in caplog.text


def test_missing_json_is_none_without_a_warning(tmp_path, caplog):
    assert artifacts.read_json(tmp_path / "result.json", inputs="a") is None
    assert caplog.text == ""


def test_json_of_an_earlier_version_is_accepted(tmp_path):
    path = tmp_path / "result.json"
    path.write_text('{"accuracy": 0.5}')
    assert artifacts.read_json(path, inputs="a", required=("accuracy",)) == {"accuracy": 0.5}
    assert artifacts.read_json(path, inputs="a", required=("accuracy", "seconds")) is None


def test_json_keys_that_are_numbers_do_not_change_the_checksum(tmp_path):
    path = tmp_path / "result.json"
    artifacts.write_json(path, {"by_class": {2: 0.5, 11: 0.25}}, inputs="a")
    assert artifacts.read_json(path, inputs="a") == {"by_class": {"2": 0.5, "11": 0.25}}


def test_write_replaces_an_array_artifact(tmp_path):
    path = tmp_path / "table.npy"
    for inputs in ("a", "b"):
        artifacts.write(path, TABLE, inputs=inputs)
    np.testing.assert_array_equal(artifacts.read(path, inputs="b")[0], TABLE)


def test_digest_depends_on_values_dtypes_and_shapes():
    parts = [TABLE, TABLE.T, TABLE.astype(np.int64), TABLE + 1, "a", ("a",)]
    assert len({artifacts.digest_of(part) for part in parts}) == len(parts)
    assert artifacts.digest_of(TABLE, "a") == artifacts.digest_of(TABLE.copy(), "a")

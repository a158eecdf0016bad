"""A stored result is read only if it is intact and belongs to the same inputs."""

import json
import os

import numpy as np
import pytest

from mlnt_tf.files import artifacts

TABLE = np.arange(12, dtype=np.int32).reshape(4, 3)


@pytest.fixture
def counted():
    """A function that computes TABLE, and the list of its calls."""
    calls = []

    def compute(scratch):
        calls.append(scratch)
        return TABLE, {"recall": 1.0}

    return compute, calls


def test_an_array_is_computed_once_and_then_read_with_its_report(tmp_path, counted):
    compute, calls = counted
    for _ in range(2):
        table, report = artifacts.load_or_compute(tmp_path / "table.npy", compute, inputs="a")
        np.testing.assert_array_equal(table, TABLE)
        assert report == {"recall": 1.0}
    assert len(calls) == 1


def test_other_inputs_compute_it_again_with_a_warning(tmp_path, counted, caplog):
    compute, calls = counted
    for inputs in ("a", "b", "b"):
        artifacts.load_or_compute(tmp_path / "table.npy", compute, inputs=inputs)
    assert len(calls) == 2
    assert "table.npy is computed again: it was computed from other inputs" in caplog.text


@pytest.mark.parametrize("damage", [
    lambda path: os.truncate(path, path.stat().st_size - 1),
    lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x07"),
    lambda path: path.with_suffix(".json").write_text("{"),
    lambda path: path.with_suffix(".json").write_text("{}")])
def test_a_damaged_artifact_is_computed_again_with_a_warning(tmp_path, counted, caplog, damage):
    compute, calls = counted
    path = tmp_path / "table.npy"
    artifacts.load_or_compute(path, compute, inputs="a")
    damage(path)
    table, _ = artifacts.load_or_compute(path, compute, inputs="a")
    np.testing.assert_array_equal(table, TABLE)
    assert len(calls) == 2 and "table.npy is computed again" in caplog.text


def test_a_kill_before_the_second_file_leaves_nothing_to_read(tmp_path, counted):
    compute, calls = counted
    path = tmp_path / "table.npy"
    artifacts.load_or_compute(path, compute, inputs="a")
    path.with_suffix(".json").unlink()
    artifacts.load_or_compute(path, compute, inputs="a")
    assert len(calls) == 2


def test_a_dictionary_of_arrays_is_stored_too(tmp_path):
    for values in ({"good": TABLE > 3, "sizes": TABLE}, None):
        stored, _ = artifacts.load_or_compute(tmp_path / "scan.npz", lambda scratch: values, inputs="a")
    assert set(stored) == {"good", "sizes"}
    np.testing.assert_array_equal(stored["good"], TABLE > 3)


def test_a_function_may_write_the_table_itself(tmp_path):
    def compute(scratch):
        mapped = np.lib.format.open_memmap(scratch, "w+", np.int32, TABLE.shape)
        mapped[:] = TABLE
        return None, {"backend": "exact"}

    table, report = artifacts.load_or_compute(tmp_path / "table.npy", compute, inputs="a")
    np.testing.assert_array_equal(table, TABLE)
    assert report == {"backend": "exact"}


def test_json_is_read_back_without_the_two_fields(tmp_path):
    path = tmp_path / "result.json"
    artifacts.write_json(path, {"accuracy": 0.5}, inputs="a")
    assert artifacts.read_json(path, inputs="a") == {"accuracy": 0.5}
    assert set(json.loads(path.read_text())) == {"accuracy", artifacts.INPUTS, artifacts.CHECKSUM}


@pytest.mark.parametrize("text, reason", [
    ('{"accuracy": 0.', "is computed again"), ("[]", "is computed again"),
    ('{"accuracy": 0.9, "inputs": "a", "checksum": "0"}', "its checksum does not match")])
def test_damaged_json_is_not_read(tmp_path, caplog, text, reason):
    path = tmp_path / "result.json"
    path.write_text(text)
    assert artifacts.read_json(path, inputs="a") is None
    assert reason in caplog.text


def test_json_of_an_earlier_version_is_taken_as_it_is(tmp_path):
    path = tmp_path / "result.json"
    path.write_text('{"accuracy": 0.5}')
    assert artifacts.read_json(path, inputs="a") == {"accuracy": 0.5}


def test_the_digest_depends_on_values_types_and_shapes():
    parts = [TABLE, TABLE.T, TABLE.astype(np.int64), TABLE + 1, "a", ("a",)]
    assert len({artifacts.digest_of(part) for part in parts}) == len(parts)
    assert artifacts.digest_of(TABLE, "a") == artifacts.digest_of(TABLE.copy(), "a")

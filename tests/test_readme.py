"""The examples in README.md run, and its flags and files exist."""

import pathlib
import re

import pytest

from mlnt_tf.config import CHECK_SECTIONS, config_class, setting_fields

USER_FILES = {"label_smoothing.py", "mine.py"}  # README.md asks the reader to write them.
ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
# Flags of the other commands: compare, benchmark, prepare, tensorboard and launch/test.sh.
OTHER_FLAGS = {
    "flagfile", "help", "logdir", "fast", "source_dir", "check", "json", "points", "methods",
    "seeds", "noises", "noise_rates", "jobs", "set", "report_only", "top", "class",
    "split", "audit"}


def python_example(marker):
    """Returns the first Python example of README.md that contains the marker."""
    examples = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    return next(code for code in examples if marker in code)


def run_example(marker):
    """Runs a Python example of README.md and returns its global names."""
    names = {}
    exec(compile(python_example(marker), "README.md", "exec"), names)
    return names


def test_keras_example_trains_a_student_and_a_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # The example saves the model.
    names = run_example("model.fit")
    assert names["model"].student is names["network"]
    assert names["model"].teacher.output_shape == (None, 10)


def test_user_functions_example_returns_data_and_a_network():
    names = run_example("def data(config)")
    source = names["data"](config=None)
    assert (len(source.train), len(source.test)) == (80, 20)
    network = names["network"](
        width=2, input_shape=source.train.images.shape, num_classes=len(source.class_names))
    assert network.output_shape == (None, 2)


def test_every_flag_in_readme_exists():
    known = set(setting_fields(config_class(CHECK_SECTIONS))) | OTHER_FLAGS
    assert set(re.findall(r"--([a-z]\w+)", TEXT)) <= known


@pytest.mark.parametrize("name", ["BUILD_NOTES.md", "README.md"])
def test_every_file_in_a_document_exists(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    paths = set(re.findall(r"\b(?:configs|launch|tests|mlnt_tf)/[\w/.]*\w", text))
    paths |= set(re.findall(r"`(\w[\w/]*\.py)`", text))
    assert paths
    # BUILD_NOTES.md names modules relative to the package.
    missing = [path for path in sorted(paths)
               if not (ROOT / path).exists() and not (ROOT / "mlnt_tf" / path).exists()]
    assert set(missing) <= USER_FILES


@pytest.mark.parametrize("name", ["BUILD_NOTES.md", "README.md"])
def test_lines_of_documents_have_at_most_100_columns(name):
    text = (ROOT / name).read_text(encoding="utf-8").partition("\n## Measured\n")[0]
    is_table = re.compile(r"\s*\|").match
    assert [line for line in text.splitlines() if len(line) > 100 and not is_table(line)] == []

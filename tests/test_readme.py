"""The pages agree with the code: their examples run, and their flags, files and links exist."""

import os
import pathlib
import re

import pytest
import render_results
from pictures import tree

from mlnt_tf.config import CHECK_SECTIONS, config_class, setting_fields

USER_FILES = {"label_smoothing.py", "mine.py"}  # The pages ask the reader to write them.
ROOT = pathlib.Path(__file__).parents[1]
PAGES = render_results.PAGES
DOCUMENTS = ["BUILD_NOTES.md", *PAGES]
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in DOCUMENTS}
# Flags of other commands: compare, benchmark, prepare, review, tensorboard and launch/test.sh.
OTHER_FLAGS = {
    "flagfile", "help", "logdir", "fast", "source_dir", "check", "json", "points", "methods",
    "seeds", "noises", "noise_rates", "jobs", "set", "report_only", "top", "class", "split",
    "audit", "data", "corrections", "output", "auto", "tree", "copy"}


def run_example(marker, **replaced):
    """Runs the Python example of the pages that contains the marker.

    Args:
      marker: str, text of the example.
      **replaced: values of arguments to replace, such as epochs=1.

    Returns:
      dict, the global names of the example.
    """
    code, = [code for name in PAGES
             for code in re.findall(r"```python\n(.*?)```", TEXTS[name], re.DOTALL)
             if marker in code]
    for name, value in replaced.items():
        code, count = re.subn(rf"\b{name}=\d+", f"{name}={value}", code)
        assert count
    names = {}
    exec(compile(code, "page", "exec"), names)
    return names


def test_keras_example_trains_a_student_and_a_teacher(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # The example saves the model.
    names = run_example("model.save")
    assert names["model"].student is names["network"]
    assert names["model"].teacher.output_shape == (None, 10)


def test_example_of_readme_trains_on_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, {f"photos/{name}/{index}.png": None for name in ("cat", "dog")
                    for index in range(12)})
    names = run_example("image_dataset_from_directory", epochs=1)
    assert names["model"].teacher.output_shape == (None, 2)


def test_user_functions_example_returns_data_and_a_network():
    names = run_example("def data(config)")
    source = names["data"](config=None)
    assert (len(source.train), len(source.test)) == (80, 20)
    network = names["network"](
        width=2, input_shape=source.train.images.shape, num_classes=len(source.class_names))
    assert network.output_shape == (None, 2)


def test_readme_has_at_most_180_lines():
    assert len(TEXTS["README.md"].splitlines()) <= 180


@pytest.mark.parametrize("name", PAGES)
def test_every_flag_of_a_page_exists(name):
    known = set(setting_fields(config_class(CHECK_SECTIONS))) | OTHER_FLAGS
    assert set(re.findall(r"--([a-z]\w+)", TEXTS[name])) <= known


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_file_of_a_document_exists(name):
    text = TEXTS[name]
    paths = set(re.findall(r"\b(?:configs|launch|tests|mlnt_tf)/[\w/.]*\w", text))
    paths |= set(re.findall(r"`(\w[\w/]*\.(?:py|flags))`", text))
    # BUILD_NOTES.md names modules relative to the package, a page relative to itself.
    places = ROOT, ROOT / "mlnt_tf", (ROOT / name).parent
    missing = {path for path in paths if not any((place / path).exists() for place in places)}
    assert missing <= USER_FILES


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_leads_somewhere(name):
    text = re.sub(r"```.*?```", "", TEXTS[name], flags=re.DOTALL)
    for target in re.findall(r"(?:\]\(|src=\")([^):\"]*)[)\"]", text):
        path, _, anchor = target.partition("#")
        linked = os.path.normpath(ROOT / pathlib.Path(name).parent / path) if path else ROOT / name
        assert os.path.exists(linked), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", pathlib.Path(linked).read_text("utf-8"), re.M)
            anchors = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")
                       for heading in headings}
            assert anchor in anchors, target


@pytest.mark.parametrize("name", PAGES)
def test_tables_of_a_page_are_those_of_the_stored_results(name):
    assert render_results.render(TEXTS[name]) == TEXTS[name]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_lines_of_a_document_have_at_most_100_columns(name):
    is_table = re.compile(r"\s*\|").match
    long = [line for line in TEXTS[name].splitlines() if len(line) > 100 and not is_table(line)]
    assert long == []

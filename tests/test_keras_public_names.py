"""Every public name is documented with arguments, errors and an example that runs."""

import inspect
import pathlib
import re
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf

import mlnt_tf

NAMES = [name for name in mlnt_tf.__all__ if name != "__version__"]


def examples_of(name):
    """The code of the Python blocks in the docstring of a public name."""
    text = inspect.cleandoc(vars_doc(getattr(mlnt_tf, name)))
    return [textwrap.dedent(code) for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)]


def vars_doc(value):
    """The docstring of the object itself, not an inherited one."""
    return vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__ or ""


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_public_name_runs(name, tmp_path, capsys):
    examples = examples_of(name)
    assert examples, f"mlnt_tf.{name} has no example in its docstring"
    for code in examples:
        exec(compile(code, name, "exec"), {
            "keras": keras, "np": np, "tf": tf, "mlnt_tf": mlnt_tf, "directory": str(tmp_path)})


@pytest.mark.parametrize("name", NAMES)
def test_the_arguments_of_a_public_name_are_documented(name):
    value = getattr(mlnt_tf, name)
    if name in ("Config", "UserError", "FusedBatchNormalization"):  # Documented elsewhere.
        return
    own = value.__init__ if inspect.isclass(value) else value
    text = vars_doc(value)
    for parameter in inspect.signature(own).parameters.values():
        if parameter.name == "self" or parameter.kind is parameter.VAR_KEYWORD:
            continue
        assert re.search(rf"[ ,]{parameter.name}\b[^\n]*:", text) or (
            "as for `" in text), f"{name}: {parameter.name}"


@pytest.mark.parametrize("name", NAMES)
def test_public_functions_have_type_hints(name):
    value = getattr(mlnt_tf, name)
    if not inspect.isclass(value):
        assert "return" in value.__annotations__
    assert (pathlib.Path(mlnt_tf.__file__).parent / "py.typed").exists()


def test_import_loads_no_tensorflow_and_lists_all_names():
    code = ("import sys, mlnt_tf; dir(mlnt_tf); "
            "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules; "
            "mlnt_tf.Config; assert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_label_issues_keep_the_order_and_the_columns():
    labels = np.arange(30) % 3
    probabilities = np.full([30, 3], .1) + .7 * np.eye(3)[labels]
    issues = mlnt_tf.find_label_issues(labels, probabilities)
    np.testing.assert_array_equal(issues["given_label"], labels)
    assert {"label_score", "is_label_issue", "suggested_label"} <= set(issues)
    assert {len(column) for column in issues.values()} == {30}

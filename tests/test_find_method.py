"""--method: the table of built-in methods, and package.module:function with --method_args."""

import json
import types

import pytest

from mlnt_tf import methods, train
from mlnt_tf.config import METHODS, Config, UserError
from mlnt_tf.experiment.select import last_student

MODULE = '''
from mlnt_tf.methods.cross_entropy import CrossEntropy
from mlnt_tf.experiment.select import Candidate

received = []


def train_once(run, *, name, epochs=1, **more):
    received.append((name, epochs, more))
    stage = run.stage(name)
    stage.train(CrossEntropy, epochs=epochs)


def strict(run, name, strength=0.5):
    return name, strength


def planned_epochs(config, examples):
    return {"cross entropy": 7}


def candidates(stages):
    return [Candidate(stages[-1], "teacher")]


not_a_function = 3
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a module of the user's own, different for each test."""
    name = f"own_methods_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("name", METHODS)
def test_every_built_in_method_is_found_and_plans_its_epochs(name):
    config = Config(method=name)
    method = methods.find(config)
    assert callable(method.train)
    examples = types.SimpleNamespace(injected_matrix=None)
    assert method.planned_epochs(config, examples)["cross entropy"] >= 30


def test_a_module_without_the_optional_functions_gets_the_defaults():
    assert methods.find(Config(method="elr")).check is None
    assert methods.find(Config(method="elr")).candidates is last_student
    assert methods.find(Config(method="mlnt")).check is not None


def test_a_method_without_a_plan_trains_epochs_once():
    assert methods.find(Config(method="gce", epochs=4)).planned_epochs(Config(epochs=4), None) == {
        "cross entropy": 4}


def test_arguments_are_literals_where_they_parse_as_such_and_text_elsewhere(module):
    config = Config(method=f"{module}:strict", method_args="name=a/b.txt, strength=(1, 2.5)")
    method = methods.find(config)
    assert method.train("the run") == ("a/b.txt", (1, 2.5))
    assert method.planned_epochs(config, None) == {"cross entropy": 7}
    assert method.check is None and method.candidates.__module__ == module


@pytest.mark.parametrize("text, message", [
    ("name=1,size=3", "unexpected keyword argument 'size'.*signature is \\(run, name, strength=0.5\\)"),
    ("strength=1", "missing a required argument: 'name'"), ("", "missing a required argument: 'name'"),
    ("run=1,name=2", "multiple values for argument 'run'")])
def test_unknown_and_missing_arguments_are_refused_in_one_line(module, text, message):
    with pytest.raises(UserError, match=f"--method_args={text} does not fit --method={module}:strict "
                       f".*{message}") as caught:
        methods.find(Config(method=f"{module}:strict", method_args=text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function, message", [
    ("absent", "cannot be imported .AttributeError"), ("not_a_function", "has type int instead of function")])
def test_a_function_that_is_not_there_is_refused(module, function, message):
    with pytest.raises(UserError, match=f"--method={module}:{function} {message}"):
        methods.find(Config(method=f"{module}:{function}"))


def test_a_module_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="--method=nowhere.to:be_found cannot be imported"):
        methods.find(Config(method="nowhere.to:be_found"))


def test_a_method_of_ones_own_trains_by_the_command_under_noise_from_a_file(module, tmp_path):
    """The file's name ends like a kind of noise with a rate, and the results still report none."""
    matrix = tmp_path / "my_symmetric"
    matrix.write_text("\n".join(" ".join("0.91" if row == column else "0.01" for column in range(10))
                                for row in range(10)))
    place = tmp_path / "run"
    assert train.main([
        "train", f"--method={module}:train_once", "--method_args=name='my stage',epochs=2,extra=text",
        f"--noise=matrix:{matrix}", "--train_examples=200", "--batch_size=32", "--steps_per_epoch=2",
        "--width=2", "--precision=float32", f"--output_dir={place}"]) == 0
    results = json.loads((place / "results.json").read_text())
    assert results["method"] == f"{module}:train_once"
    assert results["exported"] == "my stage teacher"
    assert len(results["curve"]["validation"]) == 2
    assert results["noise"]["kind"] == f"matrix:{matrix}" and results["noise"]["rate"] is None

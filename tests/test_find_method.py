"""--method: the built-in methods, and package.module:function with --method_args."""

import json
import types

import pytest
import tensorflow as tf

from mlnt_tf import methods, train
from mlnt_tf.config import TRAINED_METHODS, Config, NonFiniteLoss, Terminated, UserError
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


def fail(run):
    raise run


def divide(run):
    return 1 / run


def planned_epochs(config, examples):
    return {"cross entropy": 7}


def candidates(stages):
    return [Candidate(stages[-1], "teacher")]


not_a_function = 3
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The name of a user's module, different for each test."""
    name = f"user_methods_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


@pytest.mark.parametrize("name", TRAINED_METHODS)
def test_built_in_method_has_train_and_planned_epochs(name):
    config = Config(method=name)
    method = methods.find(config)
    assert callable(method.train)
    examples = types.SimpleNamespace(injected_matrix=None)
    assert sum(method.planned_epochs(config, examples).values()) >= 30


def test_missing_optional_functions_have_defaults():
    method = methods.find(Config(method="elr", epochs=4))
    assert method.check is None
    assert method.candidates is last_student
    assert method.planned_epochs(Config(epochs=4), None) == {"cross entropy": 4}


def test_optional_functions_are_those_of_the_module(module):
    config = Config(method=f"{module}:strict", method_args="name=a")
    method = methods.find(config)
    assert method.planned_epochs(config, None) == {"cross entropy": 7}
    assert method.candidates.__module__ == module
    assert methods.find(Config(method="mlnt")).check is not None


def test_method_args_are_literals_or_text(module):
    config = Config(method=f"{module}:strict", method_args="name=a/b.txt, strength=(1, 2.5)")
    assert methods.find(config).train("the run") == ("a/b.txt", (1, 2.5))


@pytest.mark.parametrize("text, message", [
    ("name=1,size=3", "unexpected keyword argument 'size'.*\\(run, name, strength=0.5\\)"),
    ("strength=1", "missing a required argument: 'name'"),
    ("", "missing a required argument: 'name'"),
    ("run=1,name=2", "multiple values for argument 'run'")])
def test_method_args_that_do_not_fit_are_refused_in_one_line(module, text, message):
    message = f"--method_args={text} does not fit --method={module}:strict .*{message}"
    with pytest.raises(UserError, match=message) as caught:
        methods.find(Config(method=f"{module}:strict", method_args=text))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("function, message", [
    ("absent", "cannot be imported .AttributeError"),
    ("not_a_function", "has type int instead of function")])
def test_missing_function_is_refused(module, function, message):
    with pytest.raises(UserError, match=f"--method={module}:{function} {message}"):
        methods.find(Config(method=f"{module}:{function}"))


def test_missing_module_is_refused():
    with pytest.raises(UserError, match="--method=nowhere.to:be_found cannot be imported"):
        methods.find(Config(method="nowhere.to:be_found"))


def test_exception_of_a_users_method_becomes_one_line(module, tmp_path):
    method = methods.find(Config(method=f"{module}:divide"))
    line = MODULE.split("\n").index("    return 1 / run") + 1
    message = (f"--method={module}:divide failed \\(ZeroDivisionError: division by zero, "
               f"{tmp_path / module}.py, line {line}\\)")
    with pytest.raises(UserError, match=message) as caught:
        method.train(0)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_message_of_a_users_exception_is_joined_to_one_line(module):
    method = methods.find(Config(method=f"{module}:fail"))
    with pytest.raises(UserError, match="ValueError: first second, ") as caught:
        method.train(ValueError("first\n  second"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [
    UserError("--flag"), NonFiniteLoss("loss=nan at step 3"), OSError(28, "No space left"),
    tf.errors.UnavailableError(None, None, "task:1"), KeyboardInterrupt(), Terminated()],
    ids=lambda error: type(error).__name__)
def test_exception_with_a_meaning_passes_a_users_method_unchanged(module, error):
    method = methods.find(Config(method=f"{module}:fail"))
    with pytest.raises(type(error)) as caught:
        method.train(error)
    assert caught.value is error


def test_failing_method_ends_the_command_in_one_line(module, tmp_path, capsys):
    assert train.main([
        "train", f"--method={module}:fail", "--train_examples=200", "--batch_size=32",
        "--width=2", "--precision=float32", f"--output_dir={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert f"--method={module}:fail failed (TypeError: exceptions must derive from" in error
    assert error.count("\n") == 1


@pytest.mark.slow
def test_users_method_trains_under_noise_of_a_file(module, tmp_path):
    """The file's name ends like a kind of noise with a rate, but the results report no rate."""
    matrix = tmp_path / "my_symmetric"
    rows = [" ".join("0.91" if row == column else "0.01" for column in range(10))
            for row in range(10)]
    matrix.write_text("\n".join(rows))
    output_dir = tmp_path / "run"
    assert train.main([
        "train", f"--method={module}:train_once",
        "--method_args=name='my stage',epochs=2,extra=text", f"--noise=matrix:{matrix}",
        "--train_examples=200", "--batch_size=32", "--steps_per_epoch=2", "--width=2",
        "--precision=float32", f"--output_dir={output_dir}"]) == 0
    results = json.loads((output_dir / "results.json").read_text())
    assert results["method"] == f"{module}:train_once"
    assert results["exported"] == "my stage teacher"
    assert len(results["curve"]["validation"]) == 2
    assert results["noise"]["kind"] == f"matrix:{matrix}"
    assert results["noise"]["rate"] is None

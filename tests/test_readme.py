import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_the_python_example_runs():
    text = README.read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "model.fit" in block)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["model"].student is names["network"]
    assert names["model"].teacher.output_shape == (None, 10)


def test_every_flag_in_the_readme_is_real():
    import dataclasses

    from mlnt_tf.config import Config

    real = {field.name for field in dataclasses.fields(Config)} | {"flagfile", "help", "logdir", "source_dir", "check", "json",
                                                                 "points", "methods", "seeds", "noises", "noise_rates",
                                                                 "jobs", "set", "report_only"}
    assert set(re.findall(r"--([a-z]\w+)", README.read_text(encoding="utf-8"))) <= real


def test_the_example_of_ones_own_functions_runs():
    text = README.read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def data(config)" in block)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    source = names["data"](config=None)
    assert (len(source.train), len(source.test)) == (80, 20)
    assert names["network"](width=2, input_shape=source.train.images.shape, num_classes=2).output_shape == (None, 2)

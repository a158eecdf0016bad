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

    real = {field.name for field in dataclasses.fields(Config)} | {"flagfile", "help", "logdir"}
    assert set(re.findall(r"--([a-z]\w+)", README.read_text(encoding="utf-8"))) <= real

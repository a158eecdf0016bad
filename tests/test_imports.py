"""The structure of the package: layers, sizes of files and lengths of lines."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parents[1]
# A module may import those of lower layers, and of its own package.
LAYERS = [
    ("mlnt_tf.config.errors",), ("mlnt_tf.config.user_functions",), ("mlnt_tf.config.settings",),
    ("mlnt_tf.config.data", "mlnt_tf.config.devices", "mlnt_tf.config.label_issues",
     "mlnt_tf.config.meta", "mlnt_tf.config.methods", "mlnt_tf.config.network",
     "mlnt_tf.config.recipes", "mlnt_tf.config.teacher", "mlnt_tf.config.training"),
    ("mlnt_tf.config",), ("mlnt_tf.config.flags",), ("mlnt_tf.cli",),
    ("mlnt_tf.losses", "mlnt_tf.progress", "mlnt_tf.files"),
    ("mlnt_tf.meta", "mlnt_tf.models", "mlnt_tf.neighbors", "mlnt_tf.labels"),
    ("mlnt_tf.data",), ("mlnt_tf.hardware", "mlnt_tf.report"),
    ("mlnt_tf.training", "mlnt_tf.serving", "mlnt_tf.review"), ("mlnt_tf.experiment",),
    ("mlnt_tf.methods",), ("mlnt_tf.runner",), ("mlnt_tf.train", "mlnt_tf.python_api"),
    ("mlnt_tf.benchmark",),
    ("mlnt_tf.check", "mlnt_tf.review.__main__", "mlnt_tf.relabel", "mlnt_tf.prepare"),
    ("mlnt_tf.compare",)]
MAX_COLUMNS = 100
MAX_LINES = 340


def place(module):
    """Returns (level, name) of the most specific entry of LAYERS with the module, or None."""
    found = [(level, name) for level, names in enumerate(LAYERS) for name in names
             if module == name or module.startswith(name + ".")]
    return max(found, key=lambda entry: len(entry[1]), default=None)


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_module_has_a_layer_and_imports_run_downward():
    upward = []
    for path in (ROOT / "mlnt_tf").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if module == "mlnt_tf":
            continue
        level, name = place(module)
        for target in filter(None, map(place, imported(path))):
            if target[1] != name and target[0] >= level:
                upward.append(f"{module} imports {target[1]}")
    assert not upward


def test_modules_have_at_most_340_lines():
    lengths = {path.name: len(path.read_text().splitlines())
               for path in (ROOT / "mlnt_tf").rglob("*.py")}
    assert not {name: length for name, length in lengths.items() if length > MAX_LINES}


def test_lines_are_at_most_100_columns():
    paths = [*(ROOT / "mlnt_tf").rglob("*.py"), *(ROOT / "tests").glob("*.py"),
             *(ROOT / "launch").glob("*.sh"), ROOT / "setup.py"]
    wide = [f"{path.relative_to(ROOT)}:{number}" for path in paths
            for number, line in enumerate(path.read_text().splitlines(), start=1)
            if len(line) > MAX_COLUMNS]
    assert not wide

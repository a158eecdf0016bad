"""The layers of the package: imports run downward only."""

import ast
import pathlib
import subprocess
import sys

PACKAGE = pathlib.Path(__file__).parents[1] / "mlnt_tf"
LAYERS = (
    {"config"},
    {"losses", "schedules", "optimizer", "flags", "report", "runtime"},
    {"data", "models", "meta"},
    {"methods", "teacher", "mentor", "export", "callbacks"},
    {"iterate"},
    {"train"},
)
LAYER_OF = {unit: number for number, units in enumerate(LAYERS) for unit in units}


def units_imported(tree):
    """The parts of mlnt_tf, modules or sub-packages, that a source imports, in functions too."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: name the whole module instead of dots"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            head, _, rest = name.partition(".")
            unit = rest.partition(".")[0]
            if head == "mlnt_tf" and ((PACKAGE / unit).is_dir() or (PACKAGE / f"{unit}.py").exists()) and unit:
                yield unit


def upward_imports(unit, source):
    return [found for found in units_imported(ast.parse(source))
            if found != unit and LAYER_OF[found] >= LAYER_OF[unit]]


def test_imports_run_downward_only():
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        unit = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if unit == "__init__":  # it gives out the public names, of every layer
            continue
        assert unit in LAYER_OF, f"{unit} has no layer yet: give it one in this test"
        wrong += [f"{path.relative_to(PACKAGE)} imports {found}" for found in upward_imports(unit, path.read_text())]
    assert not wrong


def test_the_walk_sees_an_upward_import():
    assert upward_imports("config", "from mlnt_tf import flags") == ["flags"]
    assert upward_imports("flags", "import mlnt_tf.report") == ["report"]
    assert upward_imports("flags", "import mlnt_tf\nfrom mlnt_tf.config import Config") == []


def test_flags_and_report_load_neither_tensorflow_nor_keras():
    code = ("import sys, mlnt_tf, mlnt_tf.flags, mlnt_tf.report\n"
            "print(sorted({name.partition('.')[0] for name in sys.modules} & {'tensorflow', 'keras', 'numpy'}))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "[]"

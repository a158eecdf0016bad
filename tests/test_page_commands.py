"""The commands in README.md and the pages are accepted by the programs that they start."""

import pathlib
import re
import shlex

import pytest
import render_results

from mlnt_tf import relabel, report
from mlnt_tf.benchmark import __main__ as benchmark
from mlnt_tf.check import USAGE
from mlnt_tf.compare import grid
from mlnt_tf.config import CHECK_SECTIONS, config_class, flags
from mlnt_tf.review import __main__ as review

ROOT = pathlib.Path(__file__).parents[1]


def commands():
    """Returns the commands of all pages that start a program of this package: lists of words."""
    found = []
    for page in render_results.PAGES:
        text = (ROOT / page).read_text(encoding="utf-8")
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            words = [shlex.split(line, comments=True) for line in lines
                     if line.startswith("python -m mlnt_tf.") and "…" not in line]
            found += [(name.removeprefix("mlnt_tf."), *rest) for _, _, name, *rest in words]
    return sorted(set(found))



@pytest.fixture
def accept(tmp_path, monkeypatch, capsys):
    """A function that parses a command in a directory with the flag files of the repository."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")

    def accept_command(program, *arguments):
        argv = [program, *arguments]
        if program == "train" and "--help" in arguments:
            with pytest.raises(SystemExit) as end:
                flags.parse(argv)
            assert end.value.code == 0
        elif program == "train":
            flags.parse(argv)
        elif program == "check":
            flags.parse(argv, settings=config_class(CHECK_SECTIONS), usage=USAGE)
        elif program == "compare":
            assert grid.cells(*grid.parse(argv))
        elif program == "benchmark":
            benchmark.parse(argv[1:])
        else:  # The run does not exist. Any other mistake is reported without its name.
            main = {"report": report, "relabel": relabel, "review": review}[program].main
            assert main(argv) == 2
            assert "runs/" in capsys.readouterr().err

    return accept_command


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_command_of_a_page_is_accepted(accept, command):
    accept(*command)


def test_every_program_is_on_a_page():
    programs = {path.stem for path in (ROOT / "mlnt_tf").glob("*.py")
                if "__main__" in path.read_text(encoding="utf-8")}
    programs |= {path.parent.name for path in (ROOT / "mlnt_tf").glob("*/__main__.py")}
    text = "".join((ROOT / page).read_text(encoding="utf-8") for page in render_results.PAGES)
    assert [name for name in sorted(programs) if f"python -m mlnt_tf.{name}" not in text] == []

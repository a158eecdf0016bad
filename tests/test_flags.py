import dataclasses
import subprocess
import sys

import pytest

from mlnt_tf import flags
from mlnt_tf.config import Config, UserError


def parse(*arguments):
    return flags.parse(["train", *map(str, arguments)])


def message_of(*arguments):
    with pytest.raises(UserError) as raised:
        parse(*arguments)
    text = str(raised.value)
    assert "\n" not in text
    return text


def test_no_flags_give_the_defaults_and_parsing_repeats():
    assert parse() == Config()
    assert parse("--seed=1").seed == 1
    assert parse() == Config()


def test_values_take_the_types_of_the_fields():
    config = parse("--seed=3", "--tau", "0.5", "--augment", "--nodownload", "--symmetric_includes_true=false",
                   "--meta_ramp_epochs", "-1", "--learning_rate=1")
    assert config == Config(seed=3, tau=0.5, augment=True, symmetric_includes_true=False, learning_rate=1.0)
    assert isinstance(config.learning_rate, float)


@pytest.mark.parametrize("arguments, parts", [
    (["--epoch=3"], ["--epoch=3", "did you mean --epochs?"]),
    (["--zzzz=3"], ["--zzzz=3", "--help"]),
    (["--seed=abc"], ["--seed=abc is not a whole number"]),
    (["--seed=1.5"], ["--seed=1.5 is not a whole number"]),
    (["--tau=a: b"], ["--tau=a: b is not a number"]),
    (["--tau=lots\nof"], ["--tau=lots of"]),
    (["--augment=perhaps"], ["--augment=perhaps is not true or false"]),
    (["--nodownload=1"], ["--nodownload=1"]),
    (["--seed"], ["--seed has no value", "--seed=value"]),
    (["--flagfile"], ["--flagfile has no value"]),
    (["--flagfile=nowhere.flags"], ["--flagfile=nowhere.flags", "No such file"]),
    (["stray", "--seed=1"], ["stray is no flag", "--name=value"]),
    (["--seed=1", "--", "more"], ["more is no flag"]),
    (["--method=magic"], ["--method=magic", "mlnt, cross_entropy"]),
    (["--noise_rate=2"], ["--noise_rate=2.0", "at most 1"]),
    (["--learning_rate=inf"], ["--learning_rate=inf", "finite"]),
    (["--output_dir="], ["--output_dir=", "name a directory"]),
])
def test_a_mistake_is_told_in_one_line(arguments, parts):
    text = message_of(*arguments)
    for part in parts:
        assert part in text


def test_a_flagfile_that_is_no_text_or_holds_no_flags_is_told(tmp_path):
    binary = tmp_path / "noise.bin"
    binary.write_bytes(b"\xff\xfe\x00\x81")
    assert f"--flagfile={binary}" in message_of(f"--flagfile={binary}")
    assert f"--flagfile={tmp_path}" in message_of(f"--flagfile={tmp_path}")
    file = tmp_path / "a.flags"
    file.write_text("seed=3\n")
    assert "seed=3 is no flag" in message_of(f"--flagfile={file}")
    file.write_text("--seed 3\n")
    assert "did you mean --seed?" in message_of(f"--flagfile={file}")


def test_flags_after_a_flagfile_win_and_its_stem_names_the_run(tmp_path):
    first, second = tmp_path / "first.flags", tmp_path / "second.flags"
    first.write_text("# a comment\n--seed=1\n\n--tau=0.2\n")
    second.write_text("--seed=2\n")
    assert parse(f"--flagfile={first}") == Config(seed=1, tau=0.2, output_dir="runs/first")
    assert parse(f"--flagfile={first}", "--seed=5").seed == 5
    both = parse("--flagfile", first, "-flagfile", second)
    assert (both.seed, both.tau, both.output_dir) == (2, 0.2, "runs/second")
    assert parse(f"--flagfile={first}", "--output_dir=here").output_dir == "here"
    first.write_text("--output_dir=runs/named\n")
    assert parse(f"--flagfile={first}").output_dir == "runs/named"


def test_a_home_directory_is_understood_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.csv").touch()
    config = parse("--data_dir=~/data", "--output_dir=~/run", "--noise=matrix:~/t.csv")
    assert config.data_dir == f"{tmp_path}/data"
    assert config.output_dir == f"{tmp_path}/run"
    assert config.noise == f"matrix:{tmp_path}/t.csv"


def test_flag_lines_repeat_the_run_from_any_directory(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    (here / "t.csv").touch()
    config = parse("--noise=matrix:t.csv", "--weight_decay=1e-7", "--augment", "--data_dir=data", "--output_dir=out")
    lines = flags.to_flag_lines(config)
    assert len(lines) == len(dataclasses.fields(Config))
    assert "--augment=true" in lines and f"--data_dir={here}/data" in lines
    assert "--data_dir=" in flags.to_flag_lines(Config())
    assert "--data_dir=gs://bucket/sets" in flags.to_flag_lines(Config(data_dir="gs://bucket/sets"))
    file = here / "flags.txt"
    file.write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(there)
    again = parse(f"--flagfile={file}")
    assert again == dataclasses.replace(config, noise=f"matrix:{here}/t.csv", data_dir=f"{here}/data",
                                        output_dir=f"{here}/out")
    assert flags.differing(again, file) == []


def test_differing_names_the_flags_that_change_the_result(tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("\n".join(flags.to_flag_lines(Config())) + "\n")
    assert flags.differing(Config(output_dir="elsewhere", resume="never", download=True), file) == []
    assert flags.differing(Config(seed=1, augment=True), file) == [
        "--augment=false there, --augment=true here", "--seed=0 there, --seed=1 here"]
    file.write_text("--seed=0\n")  # what it leaves out has its default
    assert flags.differing(Config(), file) == []
    file.write_text("--bygone=1\n")
    assert "--bygone=1" in flags.differing(Config(), file)[0]


def test_a_stored_matrix_that_is_gone_is_a_difference_and_no_error(tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("--noise=matrix:/gone.csv\n")
    assert flags.differing(Config(), file) == ["--noise=matrix:/gone.csv there, --noise=symmetric here"]


@pytest.mark.parametrize("argument", ["--help", "-h", "--helpfull"])
def test_help_shows_every_flag_with_choices_and_range(argument, capsys):
    with pytest.raises(SystemExit) as raised:
        parse(argument)
    assert raised.value.code == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{field.name}=" in shown
    assert "One of digits, cifar10" in shown and "at least 0, below 1" in shown


def test_version_is_shown(capsys):
    with pytest.raises(SystemExit) as raised:
        parse("--version")
    assert raised.value.code == 0 and capsys.readouterr().out.startswith("mlnt_tf ")


def test_a_mistake_is_told_before_tensorflow_loads():
    code = ("import sys\nfrom mlnt_tf import flags\n"
            "try: flags.parse(['train', '--seed=x'])\n"
            "except ValueError as error: print(error)\n"
            "print([name for name in ('tensorflow', 'keras', 'numpy') if name in sys.modules])")
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[0].startswith("--seed=x") and shown.splitlines()[-1] == "[]"

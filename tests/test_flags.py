import pathlib
import re
import subprocess
import sys

import pytest

from mlnt_tf.config import Config, UserError, flags, setting_fields

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def parse(*arguments):
    return flags.parse(["train", *arguments])


def test_without_flags_it_is_the_digits_config():
    assert parse() == Config() == parse(f"--flagfile={CONFIGS / 'digits.flags'}")


def test_a_later_flag_wins_over_the_file():
    assert parse(f"--flagfile={CONFIGS / 'digits.flags'}", "--epochs=3").epochs == 3


@pytest.mark.parametrize("arguments, expected", [
    ([], "runs/digits"), (["--flagfile", "FILE"], "runs/some"), (["--flagfile=FILE"], "runs/some"),
    (["--flagfile=FILE", "--output_dir=here"], "here")])
def test_output_dir_is_named_after_the_config(tmp_path, arguments, expected):
    (tmp_path / "some.flags").write_text("--epochs=2\n")
    arguments = [argument.replace("FILE", str(tmp_path / "some.flags")) for argument in arguments]
    assert parse(*arguments).output_dir == expected


@pytest.mark.parametrize("name, rate", [("symmetric", .5), ("asymmetric", .4)])
def test_the_cifar10_configs_hold_the_papers_settings(name, rate):
    config = parse(f"--flagfile={CONFIGS / f'cifar10_{name}.flags'}")
    assert (config.noise, config.noise_rate, config.model, config.width) == (name, rate, "preact_resnet32", 32)
    assert (config.epochs, config.ramp_epochs, config.decay_epochs, config.iterations) == (120, 20, 80, 3)
    assert (config.batch_size, config.inner_rate, config.learning_rate, config.meta_rate) == (128, .2, .2, .4)
    assert (config.momentum, config.weight_decay, config.ema_decay_start, config.ema_decay) == (.9, 1e-4, .99, .999)
    assert (config.num_synthetic, config.neighbor_scope, config.augment) == (10, "batch", True)


@pytest.mark.parametrize("argument, message", [
    ("--epoch=3", "--epoch is not a flag.*--epochs"), ("--nonsense=1", "--nonsense is not a flag"),
    ("--epochs=many", "epochs=many"), ("--flagfile=nowhere.flags", "nowhere.flags"), ("--download=maybe", "download"),
    ("--nodownload=1", "nodownload"), (f"--flagfile={sys.executable}", "--flagfile=.* is not a text file"),
    ("--noise_rate=half", "noise_rate=half"), ("epochs=3", "'epochs=3' is not a flag"),
    ("--dataset=mnist", "--dataset=mnist is not known")])
def test_a_mistake_is_told_in_one_line(argument, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(argument)
    assert "\n" not in str(caught.value)


def test_stored_flags_give_the_same_config(tmp_path, monkeypatch):
    config = parse("--epochs=7", "--download", "--data_dir=data", f"--output_dir={tmp_path}", "--tau=0.25")
    stored = tmp_path / "flags.txt"
    stored.write_text("\n".join(flags.to_flag_lines(config)))
    lines = flags.identity_lines(config)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    here = pathlib.Path.cwd()
    monkeypatch.chdir(elsewhere)
    again = parse(f"--flagfile={stored}")
    assert (again.epochs, again.download, again.tau) == (7, True, .25)
    assert again.data_dir == str(here / "data")
    assert flags.identity_lines(again) == lines


def test_paths_may_start_at_home_or_lie_in_a_bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.csv").write_text("1")
    config = parse("--noise=matrix:~/t.csv", "--data_dir=gs://bucket/data")
    assert config.noise == f"matrix:{tmp_path}/t.csv"
    assert "--data_dir=gs://bucket/data" in flags.to_flag_lines(config)


def test_differing_names_the_flags_that_change_results():
    other = Config(seed=1, epochs=5, output_dir="elsewhere", resume="never")
    assert flags.differing(Config(), other) == [
        "--epochs=30 there, --epochs=5 here", "--seed=0 there, --seed=1 here"]


def test_help_lists_every_flag_once_the_most_used_first(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    names = re.findall(r"^  --(\w+)=", shown, re.MULTILINE)
    assert sorted(names) == sorted(setting_fields(Config))
    assert tuple(names[:len(flags.MOST_USED)]) == flags.MOST_USED


def test_help_has_the_commands_own_name_and_examples(capsys):
    usage = flags.Usage("check", "Checks a training.", ("--dataset=folder",))
    with pytest.raises(SystemExit):
        flags.parse(["check", "--help"], usage=usage)
    shown = capsys.readouterr().out
    assert shown.startswith("usage: python -m mlnt_tf.check ")
    assert "  python -m mlnt_tf.check --dataset=folder\n" in shown and "mlnt_tf.train" not in shown


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.flags")), ids=lambda path: path.name)
def test_every_config_file_is_parsed(path):
    config = parse(f"--flagfile={path}")
    assert config.output_dir == f"runs/{path.stem}"


def test_flags_are_told_before_tensorflow_loads():
    code = "import sys, mlnt_tf.config.flags, mlnt_tf.train; sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_flag_file_says_what_was_given_explicitly(tmp_path):
    stored = tmp_path / "flags.txt"
    stored.write_text(flags.flag_file(parse("--seed=3", "--tau=0.2")))
    assert stored.read_text().startswith("# Given on the command line: --seed --tau\n")
    assert parse(f"--flagfile={stored}").seed == 3

"""Command lines and flag files become a Config, and a Config becomes a flag file."""

import pathlib
import re
import subprocess
import sys

import pytest

from mlnt_tf.config import Config, UserError, flags, setting_fields

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


def parse(*arguments):
    return flags.parse(["train", *arguments])


def test_defaults_equal_the_digits_config():
    assert parse() == Config() == parse(f"--flagfile={CONFIGS / 'digits.flags'}")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.flags")), ids=lambda path: path.stem)
def test_every_config_file_parses(path):
    config = parse(f"--flagfile={path}")
    assert config.output_dir == f"runs/{path.stem}"
    assert config.explicit == frozenset()


def test_flag_after_a_flag_file_replaces_its_value():
    assert parse(f"--flagfile={CONFIGS / 'digits.flags'}", "--epochs=3").epochs == 3


@pytest.mark.parametrize("arguments, expected", [
    ([], "runs/digits"),
    (["--flagfile", "FILE"], "runs/some"),
    (["--flagfile=FILE"], "runs/some"),
    (["--flagfile=FILE", "--output_dir=here"], "here"),
    (["--dataset=tfds:mnist"], "runs/tfds_mnist"),
])
def test_default_output_dir_is_named_after_flag_file_or_dataset(tmp_path, arguments, expected):
    path = tmp_path / "some.flags"
    path.write_text("--epochs=2\n")
    arguments = [argument.replace("FILE", str(path)) for argument in arguments]
    assert parse(*arguments).output_dir == expected


@pytest.mark.parametrize("name, rate", [("symmetric", 0.5), ("asymmetric", 0.4)])
def test_cifar10_configs_hold_the_settings_of_the_paper(name, rate):
    config = parse(f"--flagfile={CONFIGS / f'cifar10_{name}.flags'}")
    assert (config.noise, config.noise_rate) == (name, rate)
    assert (config.model, config.width, config.augment) == ("preact_resnet32", 32, True)
    assert (config.epochs, config.iterations, config.batch_size) == (120, 3, 128)
    assert (config.ramp_epochs, config.decay_epochs) == (20, (80,))
    assert (config.inner_rate, config.learning_rate, config.meta_rate) == (0.2, 0.2, 0.4)
    assert (config.momentum, config.weight_decay) == (0.9, 1e-4)
    assert (config.ema_decay_start, config.ema_decay) == (0.99, 0.999)
    assert (config.num_synthetic, config.neighbor_scope) == (10, "batch")


def test_clothing1m_config_holds_the_settings_of_the_paper():
    config = parse(f"--flagfile={CONFIGS / 'clothing1m.flags'}")
    assert (config.model, config.pretrained_weights) == ("resnet50", "imagenet")
    assert (config.image_size, config.crop_size) == (256, 224)
    assert (config.epochs, config.iterations, config.batch_size) == (3, 3, 32)
    assert (config.inner_rate, config.learning_rate, config.meta_rate) == (0.02, 8e-4, 8e-4)
    assert (config.momentum, config.weight_decay, config.decay_epochs) == (0.9, 1e-3, ())
    assert (config.num_synthetic, config.transfer_ratio, config.tau) == (10, 0.5, 0.3)
    assert config.ramp_epochs * 1_000_000 / config.batch_size == 2000
    assert config.ema_ramp == "first"


@pytest.mark.parametrize("name, epochs, expected", [
    ("elr_symmetric", 150, {0: .02, 50: .0105, 98: .00102, 100: .02, 150: .0105}),
    ("elr_asymmetric", 120, {0: .02, 399: .02, 400: .0002, 799: .0002, 800: .000002}),
    ("gce_cifar10", 120, {0: .01, 399: .01, 400: .001, 800: .0001})])
def test_configs_of_other_methods_hold_their_published_schedules(name, epochs, expected):
    from mlnt_tf.training.compile import learning_rate_schedule

    config = parse(f"--flagfile={CONFIGS / name}.flags")
    assert (config.method, config.epochs) == (name.partition("_")[0], epochs)
    schedule = learning_rate_schedule(config, 10, epochs)
    rates = {step: float(schedule(step)) for step in expected}
    assert rates == pytest.approx(expected, rel=.01)


@pytest.mark.parametrize("argument, message", [
    ("--epoch=3", "--epoch is not a flag.*--epochs"),
    ("--nonsense=1", "--nonsense is not a flag"),
    ("--epochs=many", "--epochs=many must be a whole number"),
    ("--noise_rate=half", "--noise_rate=half must be a number"),
    ("--download=maybe", "--download=maybe must be true or false"),
    ("--nodownload=1", "nodownload"),
    ("--flagfile=nowhere.flags", "--flagfile cannot be read .*nowhere.flags"),
    (f"--flagfile={sys.executable}", "--flagfile=.* is not a text file"),
    ("epochs=3", "'epochs=3' is not a flag"),
    ("--dataset=mnist", "--dataset=mnist is not known"),
])
def test_mistake_is_reported_in_one_line(argument, message):
    with pytest.raises(UserError, match=message) as caught:
        parse(argument)
    assert "\n" not in str(caught.value)


def test_stored_flags_give_the_same_config_in_another_directory(tmp_path, monkeypatch):
    config = parse("--epochs=7", "--download", "--dataset=cifar10", "--data_dir=data",
                   f"--output_dir={tmp_path}", "--tau=0.25")
    path = tmp_path / "flags.txt"
    path.write_text("\n".join(flags.to_flag_lines(config)))
    identity = flags.identity_lines(config)
    data_dir = pathlib.Path.cwd() / "data"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    stored = parse(f"--flagfile={path}")
    assert (stored.epochs, stored.download, stored.tau) == (7, True, 0.25)
    assert stored.data_dir == str(data_dir)
    assert flags.identity_lines(stored) == identity


def test_flag_file_records_the_explicit_flags(tmp_path):
    path = tmp_path / "flags.txt"
    path.write_text(flags.flag_file(parse("--seed=3", "--tau=0.2")))
    assert path.read_text().startswith("# Given on the command line: --seed --tau\n")
    stored = parse(f"--flagfile={path}")
    assert (stored.seed, stored.tau) == (3, 0.2)
    assert stored.explicit == frozenset()


def test_paths_may_be_in_the_home_directory_or_in_a_bucket(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.csv").write_text("1")
    config = parse("--dataset=cifar10", "--noise=matrix:~/t.csv", "--data_dir=gs://bucket/data")
    assert config.noise == f"matrix:{tmp_path}/t.csv"
    assert "--data_dir=gs://bucket/data" in flags.to_flag_lines(config)


def test_differing_names_only_flags_that_change_results():
    other = Config(seed=1, epochs=5, output_dir="elsewhere", resume="never")
    assert flags.differing(Config(), other) == [
        "--epochs=30 there, --epochs=5 here", "--seed=0 there, --seed=1 here"]


def test_help_lists_every_flag_with_its_default_and_limits(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert [name for name in setting_fields(Config) if f"  --{name}=" not in text] == []
    assert "--num_synthetic=10\n" in text
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())
    assert "(at least 0, at most 1)" in words
    assert "[sequential|joint]" in words
    names = re.findall(r"^  --(\w+)=", text, re.MULTILINE)
    assert sorted(names) == sorted(setting_fields(Config))  # each once
    assert tuple(names[:len(flags.MOST_USED)]) == flags.MOST_USED


def test_help_has_the_commands_own_name_and_examples(capsys):
    usage = flags.Usage("check", "Checks a training.", ("--dataset=folder",))
    with pytest.raises(SystemExit):
        flags.parse(["check", "--help"], usage=usage)
    shown = capsys.readouterr().out
    assert shown.startswith("usage: python -m mlnt_tf.check ")
    assert "  python -m mlnt_tf.check --dataset=folder\n" in shown
    assert "mlnt_tf.train" not in shown


@pytest.mark.parametrize("name", ["data_dir", "class_names"])
def test_path_of_the_data_does_not_identify_a_run(name):
    first, second = (Config(dataset="csv", **{name: f"/{job}/pets"}) for job in ("job1", "job2"))
    assert flags.differing(first, second) == []


def test_directory_of_data_without_its_data_set_is_refused():
    with pytest.raises(UserError, match="--data_dir=pets has no effect .* Add --dataset=folder"):
        parse("--data_dir=pets")


def test_parsing_flags_does_not_import_tensorflow():
    code = ("import sys, mlnt_tf.config.flags, mlnt_tf.train; "
            "sys.exit(bool({'tensorflow', 'keras'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

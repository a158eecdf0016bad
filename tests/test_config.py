"""Settings have limits, sections and defaults, and contradictions between them are refused."""

import dataclasses
import math
import pickle
import re

import pytest

from mlnt_tf.config import (
    METHODS,
    SECTIONS,
    Config,
    Noise,
    Section,
    UserError,
    config_class,
    flags,
    ineffective_flags,
    parse_arguments,
    parse_noise,
    setting,
    setting_fields,
    unread_flags,
)


@dataclasses.dataclass(frozen=True)
class MixupSettings(Section):
    """Mixup (a section defined in a test).

    The rest of the docstring is not part of the heading.
    """

    METHODS = ("mlnt",)

    mixup_alpha: float = setting(0.5, "alpha of the Beta distribution.", minimum=0, below=4)
    mixup_start: int = setting(1, "First epoch with mixup.", minimum=1)

    def check(self):
        if self.mixup_start > self.epochs:
            raise UserError(f"--mixup_start={self.mixup_start} is later than "
                            f"--epochs={self.epochs}.")


WithMixup = config_class((*SECTIONS, MixupSettings))


@pytest.mark.parametrize("name, value, message", [
    ("dataset", "mnist", "--dataset=mnist is not known. Choose one of digits, cifar10"),
    ("model", "vgg", "--model=vgg is not known.*preact_resnet32"),
    ("method", "dividemix", "--method=dividemix is not known. Choose one of mlnt, cross_entropy"),
    ("noise", "pink", "--noise=pink is not known.*matrix:FILE"),
    ("noise", "matrix:nowhere.csv", "--noise=matrix:nowhere.csv names a file that does not exist"),
    ("noise_rate", 1.5, "--noise_rate=1.5 is too large. It must be at most 1"),
    ("noise_rate", -0.1, "--noise_rate=-0.1 is too small. It must be at least 0"),
    ("noise_rate", math.nan, "--noise_rate=nan"),
    ("tau", 1.0, "--tau=1.0 is too large. It must be below 1"),
    ("learning_rate", 0.0, "--learning_rate=0.0 is too small. It must be above 0"),
    ("learning_rate", math.inf, "--learning_rate=inf"),
    ("momentum", 1.0, "--momentum"),
    ("ema_decay", 1.0, "--ema_decay"),
    ("transfer_ratio", 1.1, "--transfer_ratio"),
    ("iterations", 0, "--iterations"),
    ("num_synthetic", -1, "--num_synthetic"),
    ("batch_size", 0, "--batch_size"),
    ("validation_fraction", 1.0, "--validation_fraction"),
    ("meta_order", "third", "--meta_order=third.*first, full"),
    ("seed", 2**31, "--seed"),
    ("output_dir", "", "--output_dir= is empty"),
    ("crop_size", 300, "--crop_size=300 is larger than --image_size=256"),
])
def test_value_outside_its_limits_is_reported_in_one_line(name, value, message):
    with pytest.raises(UserError, match=message) as caught:
        Config(**{"image_size": 256, name: value})
    assert "\n" not in str(caught.value)


def test_neighbors_within_a_batch_need_a_larger_batch():
    message = "--num_neighbors=10 needs a batch larger than 10, but --batch_size=8"
    with pytest.raises(UserError, match=message):
        Config(batch_size=8, neighbor_scope="batch")
    assert Config(batch_size=11, neighbor_scope="batch").batch_size == 11
    assert Config(batch_size=8, neighbor_scope="dataset").batch_size == 8
    assert Config(batch_size=8, neighbor_scope="batch", num_synthetic=0).num_synthetic == 0


def test_lengths_follow_the_epochs_unless_given():
    config = Config(epochs=120)
    assert (config.ramp_epochs, config.decay_epochs, config.baseline_epochs) == (20, (80,), 120)
    config = Config(epochs=120, meta_ramp_epochs=5, learning_rate_decay_epochs=0,
                    pretrain_epochs=7)
    assert (config.ramp_epochs, config.decay_epochs, config.baseline_epochs) == (5, (), 7)


def test_stages_of_joint_optimization_follow_the_epochs_unless_given():
    config = Config(method="joint_optimization", epochs=120)
    assert (config.joint_stage_epochs, config.joint_start) == (200, 70)
    config = Config(method="joint_optimization", epochs=120, joint_epochs=40, joint_start_epoch=3)
    assert (config.joint_stage_epochs, config.joint_start) == (40, 3)


def test_every_flag_has_a_help_text():
    texts = {name: field.metadata["help"] for name, field in setting_fields(Config).items()}
    assert [name for name, text in texts.items() if not text.endswith(".")] == []


@pytest.mark.parametrize("dataset, noise", [
    ("digits", "symmetric"), ("cifar10", "symmetric"), ("folder", "none"), ("csv", "none"),
    ("clothing1m", "none"), ("tfds:mnist", "none"), ("module:function", "none")])
def test_noise_is_injected_into_user_data_only_on_request(dataset, noise):
    assert Config(dataset=dataset).noise == noise
    assert Config(dataset=dataset, noise="asymmetric").noise == "asymmetric"


def test_joint_optimization_that_would_never_update_labels_is_refused():
    message = "--joint_start_epoch=70 is after the end of stage 1, which has 5 epochs"
    with pytest.raises(UserError, match=message):
        Config(method="joint_optimization", joint_epochs=5, joint_start_epoch=70)


def test_new_section_adds_its_flags():
    config = flags.parse(["train", "--mixup_alpha=0.3", "--epochs=4"], settings=WithMixup)
    assert (config.mixup_alpha, config.mixup_start, config.epochs) == (0.3, 1, 4)
    assert "--mixup_alpha=0.3" in flags.to_flag_lines(config)
    assert dataclasses.replace(config, mixup_start=3).mixup_start == 3


def test_a_setting_of_the_same_name_in_two_sections_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Twin(Section):
        """A second tau"""

        tau: float = setting(9.0, "Another one.")

    with pytest.raises(ValueError, match="Received: 'tau' in IterationSettings and in Twin"):
        config_class((*Config.SECTIONS, Twin))


def test_new_section_adds_its_heading_to_help(capsys):
    with pytest.raises(SystemExit):
        flags.parse(["train", "--help"], settings=WithMixup)
    text = capsys.readouterr().out
    heading = "Mixup (a section defined in a test), for --method=mlnt:\n"
    assert text.count(heading) == 1
    assert text.partition(heading)[2].startswith(
        "  --mixup_alpha=0.5\n      alpha of the Beta distribution. (at least 0, below 4)")


@pytest.mark.parametrize("settings, message", [
    (dict(mixup_alpha=4.0), "--mixup_alpha=4.0 is too large. It must be below 4."),
    (dict(mixup_start=0), "--mixup_start=0 is too small. It must be at least 1."),
    (dict(mixup_start=5, epochs=4), "--mixup_start=5 is later than --epochs=4.")])
def test_new_section_checks_its_limits_and_rules(settings, message):
    with pytest.raises(UserError) as caught:
        WithMixup(**settings)
    assert str(caught.value) == message


def test_new_section_reports_flags_without_effect():
    assert unread_flags(WithMixup(method="elr", mixup_alpha=0.3)) == ["--mixup_alpha=0.3"]
    assert unread_flags(WithMixup(method="mlnt", mixup_alpha=0.3)) == []


def test_settings_have_unique_names_in_the_order_of_sections():
    names = [name for section in SECTIONS for name in setting_fields(section)]
    assert list(setting_fields(Config)) == names
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_section_has_a_heading_and_names_existing_methods(section):
    assert set(section.METHODS or ()) <= set(METHODS)
    # A dataclass without a docstring gets one that begins with its signature.
    assert section.__doc__ and not section.__doc__.startswith(section.__name__ + "(")


def test_config_survives_pickling_and_replace():
    config = dataclasses.replace(flags.parse(["train", "--tau=0.2"]), epochs=3)
    copy = pickle.loads(pickle.dumps(config))
    assert copy == config
    assert config.explicit == copy.explicit == {"tau"}


def test_flags_of_other_methods_are_reported_as_unread():
    config = Config(method="elr", elr_lambda=2.0, gce_q=0.5, transition_matrix="true",
                    num_synthetic=2)
    assert unread_flags(config) == ["--num_synthetic=2", "--transition_matrix=true", "--gce_q=0.5"]
    assert unread_flags(Config(method="forward", transition_matrix="true")) == []


@pytest.mark.parametrize("method, unread", [
    ("mlnt", {"gce_q", "transition_matrix", "num_clean_labels"}),
    ("cross_entropy_iterative",
     {"pretrain_epochs", "lambda_max", "meta_every", "gce_q", "transition_matrix",
      "num_clean_labels"}),
    ("cross_entropy",
     {"iterations", "tau", "ema_ramp", "lambda_max", "meta_every", "gce_q", "transition_matrix",
      "num_clean_labels"}),
    ("forward",
     {"iterations", "tau", "ema_ramp", "lambda_max", "meta_every", "gce_q", "num_clean_labels"}),
    ("cnn_crf", {"iterations", "tau", "ema_ramp", "lambda_max", "meta_every", "gce_q"}),
    ("gce",
     {"pretrain_epochs", "iterations", "tau", "ema_ramp", "lambda_max", "meta_every",
      "transition_matrix", "num_clean_labels"}),
    ("package.module:function", set()),
])
def test_method_reads_only_its_own_sections(method, unread):
    config = Config(
        method=method, pretrain_epochs=2, iterations=2, tau=0.5, ema_ramp="first", lambda_max=0.4,
        meta_every=2, gce_q=0.5, transition_matrix="true", num_clean_labels=3, ema_decay=0.9,
        meta_ramp_epochs=2.0, epochs=9)
    assert {flag[2:].partition("=")[0] for flag in unread_flags(config)} == unread


def test_settings_of_a_loss_are_read_by_the_methods_that_take_it():
    assert unread_flags(Config(gce_q=0.5, classification_loss="gce")) == []
    assert unread_flags(Config(elr_beta=0.5, classification_loss="gce")) == ["--elr_beta=0.5"]
    elr = Config(method="mean_teacher", elr_beta=0.5, classification_loss="elr", inner_rate=0.1)
    assert unread_flags(elr) == ["--inner_rate=0.1"]
    forward = Config(method="forward", elr_beta=0.5, classification_loss="elr")
    assert unread_flags(forward) == ["--classification_loss=elr", "--elr_beta=0.5"]


def test_tau_is_a_number_or_auto(tmp_path):
    config = flags.parse(["train", "--tau=auto"])
    (tmp_path / "flags.txt").write_text(flags.flag_file(config))
    assert flags.parse(["train", f"--flagfile={tmp_path}/flags.txt"]).tau == "auto"
    assert flags.parse(["train", "--tau=.25"]).tau == 0.25
    for value, message in (("often", "must be a number or one of auto"), ("1.5", "below 1")):
        with pytest.raises(UserError, match=message):
            flags.parse(["train", f"--tau={value}"])


def test_unread_flags_of_a_flag_file_are_not_reported(tmp_path):
    (tmp_path / "some.flags").write_text("--iterations=2\n--elr_beta=0.1\n")
    config = flags.parse(["train", f"--flagfile={tmp_path}/some.flags", "--method=gce", "--tau=.5",
                          "--num_synthetic", "4", "--noaugment"])
    assert config.explicit == {"method", "tau", "num_synthetic", "augment"}
    assert unread_flags(config) == ["--tau=0.5", "--num_synthetic=4"]


def test_explicit_flags_are_unknown_without_a_command_line():
    assert Config().explicit is None
    assert flags.parse(["train"]).explicit == frozenset()


@pytest.mark.parametrize("settings, expected", [
    ({"dataset": "folder", "noise_rate": .4},
     ["--noise_rate=0.4 has no effect with --noise=none."]),
    ({"dataset": "folder", "noise_rate": .4, "noise": "symmetric"}, []),
    ({"noise": "asymmetric", "symmetric_includes_true": False},
     ["--symmetric_includes_true=false has no effect with --noise=asymmetric."]),
    ({"dataset": "folder", "group_column": "patient"},
     ["--group_column=patient has no effect with --dataset=folder."]),
    ({"dataset": "csv", "group_column": "patient", "csv_columns": "a,b"}, []),
    ({"dataset": "package.module:function", "group_column": "patient"}, []),
    ({"model": "efficientnet_lite0", "width": 64},
     ["--width=64 has no effect with --model=efficientnet_lite0."]),
    ({"model": "package.module:function", "width": 64}, []),
    ({"method": "lda", "learning_rate": .1},
     ["--learning_rate=0.1 has no effect with --method=lda, which has no training steps."]),
    ({"method": "logistic", "class_balance": "weights", "epochs": 2},
     ["--epochs=2 has no effect with --method=logistic, which has no training steps.",
      "--class_balance=weights has no effect with --method=logistic, which has no training "
      "steps."])])
def test_flags_that_others_make_useless_are_reported(settings, expected):
    assert ineffective_flags(Config(**settings)) == expected


def test_unread_flag_with_its_default_value_is_reported_if_given():
    assert unread_flags(flags.parse(["train", "--method=elr", "--gce_q=0.7"])) == ["--gce_q=0.7"]


@pytest.mark.parametrize("text, noise, has_rate, is_injected", [
    ("none", Noise("none"), False, False),
    ("symmetric", Noise("symmetric"), True, True),
    ("asymmetric", Noise("asymmetric"), True, True),
    ("matrix:my_symmetric", Noise("matrix", path="my_symmetric"), False, True),
    ("worse", Noise("human", column="worse"), False, False),
])
def test_noise_flag_is_parsed_into_kind_path_and_column(text, noise, has_rate, is_injected):
    assert parse_noise(text) == noise
    assert (noise.has_rate, noise.is_injected) == (has_rate, is_injected)


def test_human_label_sets_need_cifar10n():
    config = Config(dataset="cifar10_n", noise="worse")
    assert config.noise_source == Noise("human", column="worse")
    message = "--noise=worse needs --dataset=cifar10_n, but --dataset=digits"
    with pytest.raises(UserError, match=message):
        Config(noise="worse")


@pytest.mark.parametrize("noise", ["auto", "symmetric"])
def test_cifar10n_needs_one_of_its_label_sets(noise):
    message = f"--noise={noise} is not a label set of --dataset=cifar10_n"
    with pytest.raises(UserError, match=message):
        Config(dataset="cifar10_n", noise=noise)


@pytest.mark.parametrize("text, arguments", [
    ("", {}), ("a=1,b=text", {"a": 1, "b": "text"}), ("a=None,b=True", {"a": None, "b": True}),
    ("a=[1,2],b={'c': (3,)}", {"a": [1, 2], "b": {"c": (3,)}}),
    ("a='x,y=z',b=", {"a": "x,y=z", "b": ""}),
    ("path=~/a=b", {"path": "~/a=b"}),
])
def test_method_args_are_parsed_as_literals_or_text(text, arguments):
    assert parse_arguments("method_args", text) == arguments


@pytest.mark.parametrize("text, message", [
    ("a=1,b", "has the part 'b', which is not of the form key=value"),
    ("a=1,", "has the part ''"),
    ("=1", "has the part '=1'"),
    ("my-key=1", "'my-key', which is not a valid argument name. Use letters"),
    ("a=1,a=2", "gives a twice"),
    ("a=(1,2", "unmatched bracket or quote"),
    ("a=[1,2),b=3", "unmatched bracket or quote"),
])
def test_malformed_method_args_are_refused_without_an_import(text, message):
    # package.module does not exist, so an import would fail with another message.
    with pytest.raises(UserError, match=f"--method_args={re.escape(text)} .*{message}") as caught:
        Config(method="package.module:function", method_args=text)
    assert "\n" not in str(caught.value)


def test_method_args_of_a_built_in_method_are_refused():
    message = "--method_args=a=1 needs a method given as package.module:function"
    with pytest.raises(UserError, match=message):
        Config(method="elr", method_args="a=1")

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
            raise UserError(f"--mixup_start={self.mixup_start} is later than --epochs={self.epochs}.")


WithMixup = config_class((*SECTIONS, MixupSettings))


@pytest.mark.parametrize("name, value, message", [
    ("dataset", "mnist", "--dataset=mnist is not known. Choose one of digits, cifar10"),
    ("model", "vgg", "--model=vgg is not known.*preact_resnet32"),
    ("method", "dividemix", "--method=dividemix is not known. Choose one of mlnt, cross_entropy"),
    ("noise", "pink", "--noise=pink is not known.*matrix:FILE"),
    ("noise", "matrix:nowhere.csv", "no such file"),
    ("noise_rate", 1.5, "--noise_rate=1.5 is too large. It must be at most 1"),
    ("noise_rate", -0.1, "--noise_rate=-0.1 is too small. It must be at least 0"),
    ("noise_rate", math.nan, "--noise_rate=nan"),
    ("tau", 1.0, "--tau=1.0 is too large. It must be below 1"),
    ("learning_rate", 0.0, "--learning_rate=0.0 is too small. It must be above 0"),
    ("learning_rate", math.inf, "--learning_rate=inf"),
    ("momentum", 1.0, "--momentum"), ("ema_decay", 1.0, "--ema_decay"), ("transfer_ratio", 1.1, "--transfer_ratio"),
    ("iterations", 0, "--iterations"), ("num_synthetic", -1, "--num_synthetic"), ("batch_size", 0, "--batch_size"),
    ("validation_fraction", 1.0, "--validation_fraction"), ("meta_order", "third", "--meta_order=third.*first, full"),
    ("seed", 2**31, "--seed"),
])
def test_a_bad_value_is_told_in_one_line(name, value, message):
    with pytest.raises(UserError, match=message) as caught:
        Config(**{name: value})
    assert "\n" not in str(caught.value)


def test_more_neighbors_than_the_batch_has():
    with pytest.raises(UserError, match="--num_neighbors=10 needs a batch larger than 10, but --batch_size=8"):
        Config(batch_size=8, neighbor_scope="batch")
    Config(batch_size=8, neighbor_scope="dataset")


def test_lengths_follow_the_epochs_unless_set():
    paper = Config(epochs=120)
    assert (paper.ramp_epochs, paper.decay_epochs, paper.baseline_epochs) == (20, 80, 120)
    set_by_hand = Config(epochs=120, meta_ramp_epochs=5, learning_rate_decay_epochs=0, pretrain_epochs=7)
    assert (set_by_hand.ramp_epochs, set_by_hand.decay_epochs, set_by_hand.baseline_epochs) == (5, None, 7)


def test_every_flag_has_a_help():
    assert all(field.metadata["help"].endswith(".") for field in setting_fields(Config).values())


@pytest.mark.parametrize("dataset, noise", [("digits", "symmetric"), ("cifar10", "symmetric"), ("folder", "none"),
                                            ("csv", "none"), ("clothing1m", "none"), ("tfds:mnist", "none"),
                                            ("module:function", "none")])
def test_data_of_ones_own_get_no_noise_unless_asked(dataset, noise):
    assert Config(dataset=dataset).noise == noise
    assert Config(dataset=dataset, noise="asymmetric").noise == "asymmetric"


def test_labels_that_would_never_be_renewed_are_refused():
    with pytest.raises(UserError, match="--joint_start_epoch=70 is later than the 5 epochs"):
        Config(method="joint_optimization", joint_epochs=5, joint_start_epoch=70)


def test_a_new_section_adds_its_flags():
    config = flags.parse(["train", "--mixup_alpha=0.3", "--epochs=4"], settings=WithMixup)
    assert (config.mixup_alpha, config.mixup_start, config.epochs) == (.3, 1, 4)
    assert "--mixup_alpha=0.3" in flags.to_flag_lines(config)
    assert dataclasses.replace(config, mixup_start=3).mixup_start == 3


def test_a_setting_of_the_same_name_in_two_sections_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Twin(Section):
        """A second tau"""

        tau: float = setting(9.0, "Another one.")

    with pytest.raises(ValueError, match="Received: 'tau' in IterationSettings and in Twin"):
        config_class((*Config.SECTIONS, Twin))


def test_a_new_section_adds_its_heading_to_help(capsys):
    with pytest.raises(SystemExit):
        flags.parse(["train", "--help"], settings=WithMixup)
    shown = capsys.readouterr().out
    assert shown.count("Mixup (a section defined in a test), for --method=mlnt:") == 1
    after = shown.partition("Mixup (a section defined in a test), for --method=mlnt:\n")[2]
    assert after.startswith("  --mixup_alpha=0.5\n      alpha of the Beta distribution. (at least 0, below 4)")


@pytest.mark.parametrize("settings, message", [
    (dict(mixup_alpha=4.0), "--mixup_alpha=4.0 is too large. It must be below 4."),
    (dict(mixup_start=0), "--mixup_start=0 is too small. It must be at least 1."),
    (dict(mixup_start=5, epochs=4), "--mixup_start=5 is later than --epochs=4.")])
def test_a_new_section_checks_its_limits_and_rules(settings, message):
    with pytest.raises(UserError) as caught:
        WithMixup(**settings)
    assert str(caught.value) == message


def test_a_new_section_reports_flags_without_effect():
    assert unread_flags(WithMixup(method="elr", mixup_alpha=.3)) == ["--mixup_alpha=0.3"]
    assert unread_flags(WithMixup(method="mlnt", mixup_alpha=.3)) == []


def test_settings_keep_the_order_of_sections():
    names = [name for section in SECTIONS for name in setting_fields(section)]
    assert list(setting_fields(Config)) == names and len(set(names)) == len(names)


def test_sections_name_existing_methods_and_have_a_heading():
    for section in SECTIONS:
        assert set(section.METHODS or ()) <= set(METHODS)
        assert section.__doc__ and not section.__doc__.startswith(section.__name__ + "(")


def test_a_config_survives_pickling_and_replace():
    config = dataclasses.replace(flags.parse(["train", "--tau=0.2"]), epochs=3)
    assert pickle.loads(pickle.dumps(config)) == config
    assert config.explicit == pickle.loads(pickle.dumps(config)).explicit == {"tau"}


def test_flags_of_other_sections_have_no_effect():
    config = Config(method="elr", elr_lambda=2.0, gce_q=0.5, transition_matrix="true", num_synthetic=2)
    assert unread_flags(config) == ["--num_synthetic=2", "--transition_matrix=true", "--gce_q=0.5"]
    assert unread_flags(Config(method="forward", transition_matrix="true")) == []


@pytest.mark.parametrize("method, unread", [
    ("mlnt", {"gce_q", "transition_matrix", "num_clean_labels"}),
    ("cross_entropy_iterative", {"pretrain_epochs", "lambda_max", "meta_every", "gce_q", "transition_matrix",
                                 "num_clean_labels"}),
    ("cross_entropy", {"iterations", "tau", "ema_ramp", "lambda_max", "meta_every", "gce_q", "transition_matrix",
                       "num_clean_labels"}),
    ("forward", {"iterations", "tau", "ema_ramp", "lambda_max", "meta_every", "gce_q", "num_clean_labels"}),
    ("cnn_crf", {"iterations", "tau", "ema_ramp", "lambda_max", "meta_every", "gce_q"}),
    ("gce", {"pretrain_epochs", "iterations", "tau", "ema_ramp", "lambda_max", "meta_every", "transition_matrix",
             "num_clean_labels"}),
    ("package.module:function", set())])
def test_who_reads_what(method, unread):
    config = Config(
        method=method, pretrain_epochs=2, iterations=2, tau=.5, ema_ramp="first", lambda_max=.4, meta_every=2,
        gce_q=.5, transition_matrix="true", num_clean_labels=3, ema_decay=.9, meta_ramp_epochs=2.0, epochs=9)
    assert {flag[2:].partition("=")[0] for flag in unread_flags(config)} == unread


def test_only_flags_of_the_command_line_are_reported_as_without_effect(tmp_path):
    (tmp_path / "some.flags").write_text("--iterations=2\n--elr_beta=0.1\n")
    config = flags.parse(["train", f"--flagfile={tmp_path}/some.flags", "--method=gce", "--tau=.5",
                          "--num_synthetic", "4", "--noaugment"])
    assert config.explicit == {"method", "tau", "num_synthetic", "augment"}
    assert unread_flags(config) == ["--tau=0.5", "--num_synthetic=4"]
    assert Config().explicit is None and flags.parse(["train"]).explicit == frozenset()


def test_a_flag_at_its_default_is_reported_if_it_was_given():
    assert unread_flags(flags.parse(["train", "--method=elr", "--gce_q=0.7"])) == ["--gce_q=0.7"]


@pytest.mark.parametrize("text, noise, has_rate, is_injected", [
    ("none", Noise("none"), False, False), ("symmetric", Noise("symmetric"), True, True),
    ("asymmetric", Noise("asymmetric"), True, True),
    ("matrix:my_symmetric", Noise("matrix", path="my_symmetric"), False, True),
    ("worse", Noise("human", column="worse"), False, False)])
def test_noise_is_parsed_once(text, noise, has_rate, is_injected):
    assert parse_noise(text) == noise
    assert (noise.has_rate, noise.is_injected) == (has_rate, is_injected)


def test_human_noise_belongs_to_cifar10n():
    assert Config(dataset="cifar10_n", noise="worse").noise_source == Noise("human", column="worse")
    with pytest.raises(UserError, match="--noise=worse needs --dataset=cifar10_n, but --dataset=digits"):
        Config(noise="worse")
    with pytest.raises(UserError, match="--noise=symmetric is not a label set of --dataset=cifar10_n"):
        Config(dataset="cifar10_n", noise="symmetric")


@pytest.mark.parametrize("text, arguments", [
    ("", {}), ("a=1,b=text", {"a": 1, "b": "text"}), ("a=None,b=True", {"a": None, "b": True}),
    ("a=[1,2],b={'c': (3,)}", {"a": [1, 2], "b": {"c": (3,)}}), ("a='x,y=z',b=", {"a": "x,y=z", "b": ""}),
    ("path=~/a=b", {"path": "~/a=b"})])
def test_arguments_are_parsed(text, arguments):
    assert parse_arguments("method_args", text) == arguments


@pytest.mark.parametrize("text, message", [
    ("a=1,b", "has the part 'b', which is not of the form key=value"), ("a=1,", "has the part ''"),
    ("=1", "has the part '=1'"), ("a=1,a=2", "gives a twice"), ("a=(1,2", "unmatched bracket or quote"),
    ("a=[1,2),b=3", "unmatched bracket or quote")])
def test_bad_arguments_are_refused_before_anything_is_imported(text, message):
    with pytest.raises(UserError, match=re.escape(f"--method_args={text} ") + f".*{message}") as caught:
        Config(method="package.module:function", method_args=text)
    assert "\n" not in str(caught.value)


def test_arguments_of_a_built_in_method_are_refused():
    with pytest.raises(UserError, match="--method_args=a=1 needs a method given as package.module:function"):
        Config(method="elr", method_args="a=1")

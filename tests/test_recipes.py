"""Recipes: which one a data set gets, what it sets, and how a run records it."""

import dataclasses

import pytest

from mlnt_tf import runner
from mlnt_tf.config import Config, UserError, flags, recipes
from mlnt_tf.data.sources import Survey
from mlnt_tf.experiment import recipe, record

import pictures

PHOTOS = Survey(num_examples=3000, num_classes=10, height=480, width=640, channels=3)


def parse(*arguments):
    return flags.parse(["train", *arguments])


@pytest.mark.parametrize("size, processor, expected", [
    ((28, 28), "gpu", "small_images"), ((64, 300), "avx512", "small_images"),
    ((65, 65), "avx512", "photos"), ((480, 640), "gpu", "photos"),
    ((480, 640), "other", "photos_fast")])
def test_automatic_recipe_follows_from_size_and_processor(size, processor, expected):
    survey = dataclasses.replace(PHOTOS, height=size[0], width=size[1])
    name, reason = recipes.choose(parse(), survey, processor=processor)
    assert name == expected
    assert f"{size[0]} × {size[1]} pixels" in reason


def test_many_photographs_are_fine_tuned_on_a_gpu_only():
    survey = dataclasses.replace(PHOTOS, num_examples=30_000)
    assert recipes.choose(parse(), survey, processor="avx512")[0] == "photos_fast"
    assert recipes.choose(parse(), survey, processor="gpu")[0] == "photos"


@pytest.mark.parametrize("flags, expected", [
    (["--model=preact_resnet8"], "small_images"), (["--pretrained_weights=none"], "small_images"),
    (["--model=keras:MobileNetV2"], "photos"), (["--method=gce"], "photos"),
    (["--model=package.module:function"], "small_images")])
def test_network_without_pretrained_weights_is_not_fine_tuned(flags, expected):
    assert recipes.choose(parse(*flags), PHOTOS, processor="gpu")[0] == expected


@pytest.mark.parametrize("model", ["efficientnet_lite0", "package.module:function"])
@pytest.mark.parametrize("size", [32, 480])
def test_frozen_body_gets_the_recipe_of_frozen_features(model, size):
    config = parse("--freeze=body", f"--model={model}", "--dataset=folder")
    survey = dataclasses.replace(PHOTOS, height=size, width=size)
    name, reason = recipes.choose(config, survey, processor="avx512")
    assert name == "photos_fast"
    assert "--freeze=body" in reason
    assert recipes.apply(config, name, survey).freeze == "body"


def test_network_of_ones_own_keeps_its_initial_weights():
    config = parse("--recipe=photos", "--model=package.module:function")
    assert recipes.apply(config, "photos", PHOTOS).pretrained_weights == "none"
    config = parse("--recipe=photos", "--model=keras:MobileNetV2")
    assert recipes.apply(config, "photos", PHOTOS).pretrained_weights == "imagenet"


def test_recipe_without_its_augmentation_is_valid():
    config = recipes.apply(parse("--noaugment"), "photos", PHOTOS)
    assert (config.augment, config.method) == (False, "forward")


@pytest.mark.parametrize("name", list(recipes.RECIPES))
def test_every_recipe_is_a_valid_config(name):
    survey = PHOTOS if name.startswith("photos") else dataclasses.replace(
        PHOTOS, height=32, width=32)
    config = recipes.apply(Config(), name, survey)
    assert config.recipe == name
    for setting in config.from_recipe:
        assert hasattr(config, setting)


@pytest.mark.parametrize("count", [5, 40, 300, 100_000])
@pytest.mark.parametrize("name", ["photos", "photos_fast", "small_images"])
def test_batch_size_leaves_several_batches_of_any_data_set(name, count):
    values = recipes.RECIPES[name].values(dataclasses.replace(PHOTOS, num_examples=count))
    assert 1 <= values["batch_size"] <= 128
    assert 4 * values["batch_size"] <= count
    assert 3 <= values["epochs"] <= 60


@pytest.mark.parametrize("name", ["photos", "photos_fast", "small_images"])
@pytest.mark.parametrize("size, expected", [((480, 640), True), ((100, 200), True),
                                            ((8, 200), False), ((900, 300), False)])
def test_long_images_are_stretched_instead_of_cut(name, size, expected):
    survey = dataclasses.replace(PHOTOS, height=size[0], width=size[1])
    assert recipes.RECIPES[name].values(survey)["keep_aspect_ratio"] is expected


def test_given_flags_win_over_the_recipe():
    config = parse("--recipe=paper_cifar10", "--epochs=7")
    assert (config.epochs, config.num_synthetic, config.model) == (7, 10, "preact_resnet32")
    assert "epochs" not in config.from_recipe


def test_flag_given_with_its_default_value_wins_over_the_recipe():
    assert parse("--recipe=paper_cifar10", "--ema_decay=0.99").ema_decay == 0.99


def test_flag_file_wins_over_the_recipe_and_may_name_it(tmp_path):
    path = tmp_path / "my.flags"
    path.write_text("--recipe=paper_clothing1m\n--batch_size=64\n")
    config = parse(f"--flagfile={path}", "--seed=3")
    assert (config.batch_size, config.dataset, config.seed) == (64, "clothing1m", 3)
    assert config.output_dir == "runs/my"


def test_settings_that_differ_from_their_default_count_as_given_in_python():
    config = recipes.apply(Config(epochs=7), "paper_cifar10")
    assert (config.epochs, config.batch_size) == (7, 128)


def test_folder_gets_a_recipe_by_the_size_of_its_images(tmp_path):
    layout = {f"{name}/{index}.png": None for name in "ab" for index in range(10)}
    pictures.tree(tmp_path, layout, size=(200, 150))
    config = recipe.resolve_recipe(parse("--dataset=folder", f"--data_dir={tmp_path}"))
    assert config.recipe in ("photos", "photos_fast")
    assert config.model == "efficientnet_lite0"
    assert config.select == "auto"


def test_first_line_of_the_log_names_the_recipe_and_the_reason(tmp_path, caplog):
    pictures.tree(tmp_path, {"a/1.png": None, "b/1.png": None}, size=(40, 30))
    caplog.set_level("INFO", logger="absl")
    recipe.resolve_recipe(parse("--dataset=folder", f"--data_dir={tmp_path}", "--seed=2"))
    assert caplog.messages[0].startswith("recipe small_images (the images have 30 × 40 pixels)")


def test_config_from_python_is_not_changed_by_an_automatic_recipe(tmp_path):
    config = Config(dataset="folder", data_dir=str(tmp_path))
    assert recipe.resolve_recipe(config) is config


def test_data_without_images_keep_their_settings_until_loading_reports_them(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "broken.png").write_bytes(b"no image")
    config = parse("--dataset=folder", f"--data_dir={tmp_path}")
    assert recipe.resolve_recipe(config) is config


def recorded_run(tmp_path, *arguments):
    """Records the settings of a run on a data set that needs a survey. Returns its arguments."""
    arguments = [*arguments, "--dataset=folder", f"--output_dir={tmp_path}"]
    config = recipes.apply(parse(*arguments), "photos", PHOTOS)
    (tmp_path / record.FLAGS_FILE).write_text(flags.flag_file(config))
    return arguments, config


def test_resumed_run_takes_the_recorded_values_of_its_recipe(tmp_path):
    arguments, first = recorded_run(tmp_path)
    config = parse(*arguments)
    resumed = record.adopt(config, record.find_recorded(config))
    assert resumed == first
    assert resumed.from_recipe == first.from_recipe


def test_flags_file_of_a_run_repeats_it(tmp_path):
    _, first = recorded_run(tmp_path)
    repeated = parse(f"--flagfile={tmp_path / record.FLAGS_FILE}")
    assert dataclasses.replace(repeated, output_dir=first.output_dir) == first


def test_resumed_run_with_another_flag_than_the_recipe_is_refused(tmp_path):
    arguments, _ = recorded_run(tmp_path)
    with pytest.raises(Exception, match="holds another run .--epochs=3 there, --epochs=9 here"):
        record.find_recorded(parse(*arguments, "--epochs=9"))


def test_setting_changed_in_python_is_not_replaced_by_the_recorded_one(tmp_path):
    recorded_run(tmp_path)
    config = Config(dataset="folder", output_dir=str(tmp_path), recipe="photos", epochs=9)
    with pytest.raises(UserError, match="--epochs=3 there, --epochs=9 here"):
        record.find_recorded(config)


def test_unused_flags_are_those_of_the_method_of_the_recipe(caplog):
    config = parse("--dataset=folder", "--tau=0.4", "--transition_matrix=anchors")
    runner.warn_of_unused_flags(config, recipes.apply(config, "photos", PHOTOS))
    assert caplog.messages == ["--tau=0.4 has no effect on training with --method=forward."]


def test_value_that_was_given_is_not_taken_for_one_of_the_recipe(tmp_path):
    arguments, _ = recorded_run(tmp_path, "--epochs=9")
    with pytest.raises(Exception, match="--epochs=9 there, --epochs=30 here"):
        record.find_recorded(parse(*[one for one in arguments if "epochs" not in one]))


def test_help_lists_every_recipe_in_a_line(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    for name, each in recipes.RECIPES.items():
        assert f"  {name:17} {each.summary}\n" in text

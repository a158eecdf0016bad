"""The runs of a grid, as its command line asks for them."""

import itertools
import pathlib

from mlnt_tf.compare import grid
from mlnt_tf.config import TRAINED_METHODS


def cells_of(*arguments):
    return grid.cells(*grid.parse(["compare", "--output_dir=out", *arguments]))


def test_grid_combines_methods_noises_rates_and_seeds():
    methods, noises, rates, seeds = (
        ("mlnt", "cross_entropy"), ("symmetric", "asymmetric"), (.3, .5), (0, 7))
    cells = cells_of("--methods=mlnt,cross_entropy", "--seeds=0,7",
                     "--noises=symmetric,asymmetric", "--noise_rates=0.3,0.5")
    assert len({cell.directory for cell in cells}) == 16
    configs = [cell.config for cell in cells]
    assert {(config.method, config.noise, config.noise_rate, config.seed)
            for config in configs} == set(itertools.product(methods, noises, rates, seeds))


def test_seeds_are_the_outermost_loop():
    """An interrupted grid then has a complete table of fewer seeds."""
    cells = cells_of("--methods=mlnt,cross_entropy", "--seeds=0,7")
    assert [cell.seed for cell in cells] == [0, 0, 7, 7]


def test_directory_of_a_run_names_method_noise_rate_and_seed():
    cell = cells_of("--methods=mlnt", "--seeds=0", "--noise_rates=0.3")[0]
    assert cell.directory == pathlib.Path("out/mlnt/symmetric_0.3/seed_0")
    assert cell.log == pathlib.Path("out/mlnt/symmetric_0.3/seed_0.log")


def test_default_grid_compares_every_method_with_three_seeds():
    cells = cells_of("--noises=asymmetric", "--epochs=4")
    assert {(cell.method, cell.seed, cell.rate) for cell in cells} == {
        (method, seed, .5) for method in TRAINED_METHODS for seed in (0, 1, 2)}
    assert {cell.config.epochs for cell in cells} == {4}


def test_flag_file_applies_to_every_run_but_the_grid_takes_precedence(tmp_path):
    (tmp_path / "some.flags").write_text(
        "--seed=5\n--noise=asymmetric\n--noise_rate=0.2\n--epochs=9\n--method=mlnt\n")
    [cell] = cells_of(f"--flagfile={tmp_path}/some.flags", "--methods=cross_entropy", "--seeds=1")
    assert (cell.config.seed, cell.config.method, cell.config.epochs) == (1, "cross_entropy", 9)
    assert (cell.config.noise, cell.config.noise_rate) == ("asymmetric", .2)


def test_set_applies_to_one_method(tmp_path):
    (tmp_path / "gentle.flags").write_text("--learning_rate=0.01\n--momentum=0.5\n")
    cells = cells_of("--methods=mlnt,cross_entropy", "--seeds=0", "--learning_rate=0.3",
                     "--set=mlnt:--epochs=7", f"--set=mlnt:--flagfile={tmp_path}/gentle.flags")
    settings = [(cell.config.learning_rate, cell.config.momentum, cell.config.epochs)
                for cell in cells]
    assert settings == [(.01, .5, 7), (.3, .9, 30)]


def test_set_of_one_noise_takes_precedence_over_set_of_a_method():
    cells = cells_of("--methods=elr,gce", "--seeds=0", "--noises=symmetric,asymmetric:0.4",
                     "--noise_rates=0.3,0.5", "--set=elr@asymmetric:--elr_beta=0.9",
                     "--set=elr@symmetric:.50:--elr_beta=0.6", "--set=elr:--elr_beta=0.8")
    assert {(cell.method, cell.noise, cell.rate): cell.config.elr_beta for cell in cells} == {
        ("elr", "symmetric", .3): .8, ("elr", "symmetric", .5): .6,
        ("elr", "asymmetric", .4): .9, ("gce", "symmetric", .3): .7,
        ("gce", "symmetric", .5): .7, ("gce", "asymmetric", .4): .7}


def test_noise_may_include_its_rate():
    cells = cells_of("--methods=mlnt", "--seeds=0", "--noises=symmetric:0.5,asymmetric:0.4")
    conditions = [(cell.config.noise, cell.config.noise_rate) for cell in cells]
    assert conditions == [("symmetric", .5), ("asymmetric", .4)]


def test_noise_without_a_rate_is_one_run():
    cells = cells_of("--methods=mlnt", "--seeds=0", "--noises=none,symmetric",
                     "--noise_rates=0.3,0.5")
    conditions = [(cell.noise, cell.rate) for cell in cells]
    assert conditions == [("none", None), ("symmetric", .3), ("symmetric", .5)]
    assert cells[0].directory.parent.name == "none"

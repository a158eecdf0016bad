"""`relabel`: from verdicts to a table that trains, and never half of it."""

import csv
import os

import pytest

from mlnt_tf import relabel
from mlnt_tf.config import Config, flags
from mlnt_tf.experiment import corrected_table
from mlnt_tf.files import atomic

from pictures import tree

CLASSES = ("cat", "dog", "=bird")
HEADER = ("id", "record", "given_label", "corrected_label", "verdict", "sample")


class Run:
    """A directory as a run leaves it, and its images."""

    def __init__(self, root, config, rows):
        self.directory, self.config = root / "my run", config
        self.directory.mkdir()
        atomic.write_text(self.directory / "flags.txt", flags.flag_file(config))
        atomic.write_json(self.directory / "label_noise.json", {"class_names": CLASSES})
        atomic.write_csv(self.directory / "records.csv", ("id", "record"),
                         [row[:2] for row in rows])
        atomic.write_csv(
            self.directory / "label_issues.csv",
            ("id", "record", "split", "given_class", "suggested_class", "suggestion_score",
             "true_label"), reversed(rows))

    def relabel(self, *corrections, extra=(), name="corrections.csv"):
        """Returns (exit code, {path: row} of the new table or None)."""
        path = self.directory / name
        atomic.write_csv(path, HEADER, corrections)
        output = self.directory.parent / "labels.csv"
        code = relabel.main(["relabel", str(self.directory), f"--corrections={path}",
                             f"--output={output}", *extra])
        return code, read(output) if output.exists() else None


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return {os.path.basename(row.get("path") or row["file"]): row
                for row in csv.DictReader(file)}


@pytest.fixture
def pets(tmp_path):
    """A run on a folder: four training images, one held out for validation and one for testing."""
    names = ["cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png", "=bird/4.png", "=bird/5.png"]
    folder = tree(tmp_path / "data", {name: None for name in names})
    splits = ["train", "train", "train", "train", "validation", "test"]
    rows = [(index, name, split, name.split("/")[0], CLASSES[index % 3], score, "")
            for index, (name, split, score) in enumerate(
                zip(names, splits, [.1, .97, .2, .99, .5, .96]))]
    return Run(tmp_path, Config(dataset="folder", data_dir=str(folder), image_size=16), rows)


KEEP = (0, "cat/0.png", "cat", "cat", "keep", "review")
CORRECT = (1, "cat/1.png", "cat", "dog", "correct", "review")
DROP = (2, "dog/2.png", "dog", "", "drop", "review")
UNSURE = (3, "dog/3.png", "dog", "", "unsure", "audit")
BIRD = (4, "=bird/4.png", "=bird", "cat", "correct", "audit")


def test_every_verdict_has_its_effect(pets):
    code, rows = pets.relabel(KEEP, CORRECT, DROP, UNSURE)
    assert code == 0 and set(rows) == {"0.png", "1.png", "3.png", "4.png", "5.png"}
    cells = ("label", "true_label", "verdict", "reviewed", "original_label")
    assert [rows["0.png"][name] for name in cells] == ["cat", "cat", "keep", "review", ""]
    assert [rows["1.png"][name] for name in cells] == ["dog", "dog", "correct", "review", "cat"]
    assert [rows["3.png"][name] for name in cells] == ["dog", "", "unsure", "audit", ""]
    assert [rows["4.png"][name] for name in cells] == ["=bird", "", "", "", ""]


def test_none_of_the_classes_omits_the_image_and_several_keeps_it(pets):
    none = (2, "dog/2.png", "dog", "", "none", "review")
    several = (3, "dog/3.png", "dog", "", "several", "review")
    _, rows = pets.relabel(none, several)
    assert "2.png" not in rows and rows["3.png"]["true_label"] == ""


def test_held_out_test_images_stay_and_validation_images_return_to_training(pets):
    _, rows = pets.relabel(KEEP)
    assert [rows[f"{index}.png"]["split"] for index in range(6)] == ["train"] * 5 + ["test"]


def test_validation_images_of_a_data_set_with_such_a_list_stay(pets):
    config = Config(dataset="clothing1m", data_dir=pets.config.data_dir, image_size=16)
    atomic.write_text(pets.directory / "flags.txt", flags.flag_file(config))
    _, rows = pets.relabel(KEEP)
    assert rows["4.png"]["split"] == "validation" and rows["5.png"]["split"] == "test"


def test_formula_like_names_are_restored(pets):
    code, rows = pets.relabel(BIRD)
    assert "'=bird" in (pets.directory / "corrections.csv").read_text()
    assert code == 0 and rows["4.png"]["original_label"] == "=bird"


def test_csv_source_trains_on_the_table(pets, capsys):
    from mlnt_tf.data.sources import load_source  # Imports TensorFlow, which relabel does not.

    code, _ = pets.relabel(KEEP, CORRECT)
    output = pets.directory.parent / "labels.csv"
    names = output.with_name("labels_classes.txt")
    source = load_source(Config(dataset="csv", data_dir=str(output), class_names=str(names),
                                image_size=16))
    assert source.class_names == CLASSES and len(source.train) == 5 and len(source.test) == 1
    known = {str(record): label for record, label in zip(
        source.train.record_names(), source.train.true_labels) if label >= 0}
    assert {os.path.basename(record): label for record, label in known.items()} == {
        "0.png": 0, "1.png": 1}
    command = capsys.readouterr().out.splitlines()[-1]
    assert f"'--flagfile={pets.directory}/flags.txt' --dataset=csv --data_dir={output}" in command


def test_auto_takes_certain_suggestions_and_says_how_many(pets, capsys):
    code, rows = pets.relabel(KEEP, CORRECT, extra=["--auto=0.95"])
    assert [rows[name]["label"] for name in ("1.png", "3.png", "5.png")] == ["dog", "cat", "=bird"]
    assert rows["3.png"]["verdict"] == "auto" and rows["3.png"]["reviewed"] == ""
    assert rows["3.png"]["true_label"] == "" and rows["3.png"]["original_label"] == "dog"
    output = capsys.readouterr().out
    assert "--auto=0.95 replaced 2 labels" in output and "1 of them are test images" in output


def test_auto_works_without_corrections(pets, tmp_path):
    output = tmp_path / "new/labels.csv"
    assert relabel.main(["relabel", str(pets.directory), "--auto=0.98", f"--output={output}"]) == 0
    assert [row["verdict"] for row in read(output).values()].count("auto") == 1


def test_audit_prints_a_wilson_interval(pets, capsys):
    keep = (0, "cat/0.png", "cat", "cat", "keep", "audit")
    pets.relabel(keep, BIRD, UNSURE)
    # Wilson's interval of 1 of 2 is 0.0945 to 0.9055.
    assert ("Audit: 1 of 2 labels drawn at random are wrong, 50.0% (95 % interval 9.5% to 90.5%). "
            "1 without") in capsys.readouterr().out


def test_several_files_count_an_equal_verdict_once_as_audited(pets):
    atomic.write_csv(pets.directory / "corrections audit.csv", HEADER, [(*KEEP[:5], "audit")])
    extra = [f"--corrections={pets.directory / 'corrections audit.csv'}"]
    code, rows = pets.relabel(KEEP, CORRECT, extra=extra)
    assert code == 0 and rows["0.png"]["reviewed"] == "audit"


@pytest.mark.parametrize("rows, message", [
    ([(9, "cat/0.png", "cat", "", "keep", "")], "row 1 has the id '9', which this run"),
    ([(0, "cat/1.png", "cat", "", "keep", "")], "has the record 'cat/1.png', but the image 0"),
    ([(0, "cat/0.png", "dog", "", "keep", "")], "has the given_label 'dog', but"),
    ([(0, "cat/0.png", "cat", "cow", "correct", "")], "'cow', which is not a class"),
    ([(0, "cat/0.png", "cat", "", "correct", "")], "corrected_label ''"),
    ([(0, "cat/0.png", "cat", "dog", "keep", "")], "keeps the label 'cat' and corrects it to"),
    ([(0, "cat/0.png", "cat", "", "maybe", "")], "verdict 'maybe'. Write one of keep"),
    ([(0, "cat/0.png", "cat", "", "keep", "x")], "sample 'x'. Write review or audit"),
    ([KEEP, KEEP], "row 2 repeats the id 0")])
def test_mistakes_give_one_line_and_write_nothing(pets, capsys, rows, message):
    code, table = pets.relabel(CORRECT, *rows)[0], None
    error = capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1
    assert message.replace("row 1", "row 2").replace(
        "row 2 repeats", "row 3 repeats") in error, error
    assert table is None and not (pets.directory.parent / "labels.csv").exists()
    assert not list(pets.directory.parent.glob("*_classes.txt"))


def test_contradicting_files_are_refused(pets, capsys):
    atomic.write_csv(pets.directory / "other.csv", HEADER,
                     [(0, "cat/0.png", "cat", "dog", "correct", "audit")])
    code, _ = pets.relabel(KEEP, extra=[f"--corrections={pets.directory / 'other.csv'}"])
    assert code == 2 and "says correct dog of the id 0, but" in capsys.readouterr().err


@pytest.mark.parametrize("flags_, message", [
    (["--output=/x/labels.csv"], "--corrections=FILE or --auto"),
    (["--auto=2", "--output=x.csv"], "number from 0 to below 1"),
    (["--auto=.9", "--output=x.csv", "--copy"], "Add --tree=DIR"),
    (["--auto=.9", "--output={directory}"], "is a directory"),
    (["--auto=.9", "--output=x.csv", "--tree={directory}"], "already exists")])
def test_mistakes_in_flags_give_one_line(pets, capsys, monkeypatch, flags_, message):
    monkeypatch.chdir(pets.directory.parent)
    given = [flag.format(directory=pets.directory) for flag in flags_]
    assert relabel.main(["relabel", str(pets.directory), *given]) == 2
    assert message in capsys.readouterr().err
    assert not (pets.directory.parent / "x.csv").exists()


def test_missing_image_writes_nothing(pets, capsys):
    os.remove(f"{pets.config.data_dir}/cat/0.png")
    code, rows = pets.relabel(CORRECT)
    assert code == 2 and rows is None
    assert "1 of 6 images, such as cat/0.png, are not files" in capsys.readouterr().err


def test_data_without_files_are_refused(tmp_path, capsys):
    run = Run(tmp_path, Config(), [(0, "digits[0]", "train", "cat", "dog", .1, "")])
    assert run.relabel((0, "digits[0]", "cat", "", "keep", "review"))[0] == 2
    assert "--dataset=digits of this run has no image files" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["--links", "--copy"])
def test_tree_has_the_corrected_images(pets, kind):
    from mlnt_tf.data.sources import load_source

    os.makedirs(f"{pets.config.data_dir}/cat/more")
    target = pets.directory.parent / "tree"
    code, _ = pets.relabel(CORRECT, DROP, extra=[f"--tree={target}", kind])
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*.png"))
    assert code == 0 and found == ["test/=bird/5.png", "train/=bird/4.png", "train/cat/0.png",
                                   "train/dog/1.png", "train/dog/3.png"]
    assert (target / "train/dog/1.png").is_symlink() == (kind == "--links")
    source = load_source(Config(dataset="folder", data_dir=str(target), image_size=16))
    assert len(source.train) == 4 and len(source.test) == 1


@pytest.fixture
def table(tmp_path):
    """A run on a table with columns of the user's own, an absolute path and a broken image."""
    data = tree(tmp_path / "data", {"a b.png": None, "c.png": None, "bad.png": b""})
    atomic.write_csv(data / "mine.csv", ("file", "photographer", "kind", "part", "truth"), [
        ("a b.png", "Ann, B", "cat", "", ""), ("bad.png", "Bo", "dog", "", ""),
        (str(data / "c.png"), "Cy", "dog", "val", "dog")])
    rows = [(0, "a b.png", "train", "cat", "dog", .1, ""),
            (2, str(data / "c.png"), "validation", "dog", "cat", .1, "1")]
    return Run(tmp_path, Config(dataset="csv", data_dir=str(data / "mine.csv"),
                                csv_columns="file,kind,part,truth", image_size=16), rows)


def test_columns_rows_paths_and_splits_of_ones_own_table_are_kept(table, capsys):
    before = (table.directory.parent / "data/mine.csv").read_bytes()
    output = table.directory.parent / "data/labels.csv"
    path = table.directory / "corrections.csv"
    atomic.write_csv(path, HEADER, [(0, "a b.png", "cat", "dog", "correct", "review")])
    assert relabel.main(["relabel", str(table.directory), f"--corrections={path}",
                         f"--output={output}"]) == 0
    with open(output, newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "photographer", "kind", "part", "truth",
                             *corrected_table.ADDED]
    assert [row["photographer"] for row in rows] == ["Ann, B", "Bo", "Cy"]
    assert [row["kind"] for row in rows] == ["dog", "dog", "dog"]
    assert [row["part"] for row in rows] == ["train", "", "val"]
    assert [row["truth"] for row in rows] == ["dog", "", "dog"]
    assert [row["file"] for row in rows][:2] == ["a b.png", "bad.png"]
    assert (table.directory.parent / "data/mine.csv").read_bytes() == before


def test_paths_lead_to_the_same_files_from_another_directory(table):
    table.relabel((0, "a b.png", "cat", "dog", "correct", "review"))
    with open(table.directory.parent / "labels.csv", newline="") as file:
        paths = [row["file"] for row in csv.DictReader(file)]
    assert all((table.directory.parent / path).is_file() for path in paths)


def test_table_of_the_run_is_not_replaced(table, capsys):
    given = ["--auto=.9", f"--output={table.directory.parent / 'data/mine.csv'}"]
    assert relabel.main(["relabel", str(table.directory), *given]) == 2
    assert "is the table that the run has read" in capsys.readouterr().err


def test_verdicts_of_a_corrected_table_are_read_by_the_next_run(pets):
    pets.relabel(KEEP, CORRECT, UNSURE, extra=["--auto=0.95"])
    output = pets.directory.parent / "labels.csv"
    verdicts = corrected_table.read_verdicts(Config(dataset="csv", data_dir=str(output)))
    counts = corrected_table.count_verdicts(verdicts, list(verdicts))
    assert counts == {"reviewed": 3, "audited": 1, "kept": 1, "corrected": 1, "undecided": 1,
                      "auto": 1}
    assert corrected_table.read_verdicts(pets.config) == {}

"""--dataset=csv: tables as users, spreadsheets and labeling tools write them."""

import gzip
import os
import unicodedata

import numpy as np
import pytest

from mlnt_tf.config import Config, UserError
from mlnt_tf.data.sources import csv_table, find_files
from mlnt_tf.data.sources.class_names import read_class_names
from mlnt_tf.data.sources.table_file import read_table

KINDS = ("cat", "dog")


def write(root, text, name="labels.csv"):
    path = root / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(root, text, name="labels.csv", **settings):
    """Returns (class names, {split: list of (path, label, true label)}) of a table."""
    config = Config(dataset="csv", data_dir=str(write(root, text, name)), **settings)
    _, class_names, listings = csv_table.list_table(config)
    return class_names, {
        split: list(zip([os.fsdecode(path) for path in listing.paths], listing.labels.tolist(),
                        listing.true_labels.tolist()))
        for split, listing in listings.items()}


def read_labels(root, text, **settings):
    """Returns (class names, labels of train)."""
    class_names, splits = read(root, text, **settings)
    return class_names, [label for _, label, _ in splits["train"]]


def error_of(root, text, **settings):
    with pytest.raises(UserError) as error:
        read(root, text, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


def rows(labels):
    return "path,label\n" + "".join(f"{row}.png,{label}\n" for row, label in enumerate(labels))


class TestText:
    @pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
    def test_delimiter_is_recognized(self, tmp_path, delimiter):
        text = rows(KINDS).replace(",", delimiter)
        assert read_labels(tmp_path, text) == (KINDS, [0, 1])

    def test_delimiter_within_quotes_is_not_the_delimiter_of_the_table(self, tmp_path):
        _, splits = read(tmp_path, 'path;label\n"a,b,c.png";cat\n"d,e,f.png";dog\n')
        assert splits["train"][0][0] == "a,b,c.png"

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
    def test_encoding_is_recognized(self, tmp_path, encoding):
        assert read_labels(tmp_path, rows(["Kätzchen", "dog"]).encode(encoding)) == (
            ("Kätzchen", "dog"), [0, 1])

    def test_gzip_is_read(self, tmp_path):
        text = gzip.compress(rows(KINDS).encode())
        assert read(tmp_path, text, "labels.csv.gz")[0] == KINDS

    @pytest.mark.parametrize("content, message", [
        (b"PK\x03\x04rest", "is a spreadsheet or ZIP archive. Save the table as CSV"),
        (b"PAR1rest", "is a Parquet file"), (b"path,label\na\0b,cat\n", "line 2 contains a null"),
        (b"path,label\n1.png,cat\ncaf\xe9,dog\n", "line 3 is not UTF-8 text (byte 0xe9)"),
        (gzip.compress(b"path,label", mtime=0)[:-4], "cannot be read"),
        (b"\x1f\x8brest", "cannot be read")])
    def test_other_file_is_refused_with_its_kind(self, tmp_path, content, message):
        assert message in error_of(tmp_path, content)

    def test_fifo_is_not_opened(self, tmp_path):
        os.mkfifo(tmp_path / "names")
        with pytest.raises(UserError, match="not a regular file"):
            read_class_names(tmp_path / "names")

    @pytest.mark.parametrize("text", [
        'path,label\n"0.png,cat\n1.png,dog\n', 'path,label\n0.png,cat\n"1.png,dog\n',
        'path,label\n"0.png,cat\n1.png,dog\n"2.png",cat\n3.png,dog\n',
        'path,label\n"' + "0.png,cat\n" * 20_000])
    def test_quotation_mark_that_is_not_closed_is_refused_with_its_line(self, tmp_path, text):
        line = 3 if text.endswith('"1.png,dog\n') else 2
        message = error_of(tmp_path, text)
        assert f"line {line}" in message and "quotation mark" in message

    def test_line_break_within_quotes_is_read(self, tmp_path):
        text = 'path,label,note\n0.png,cat,"two\nlines"\n1.png,dog,\n'
        assert read_labels(tmp_path, text) == (KINDS, [0, 1])

    def test_own_columns_and_lines_are_kept(self, tmp_path):
        table = read_table(write(tmp_path, "path,note,label\n\n0.png, a ,cat,\n1.png\n"))
        assert table.header == ["path", "note", "label"]
        assert table.rows == [["0.png", "a", "cat"], ["1.png", "", ""]]
        assert table.lines == [3, 4]


class TestColumns:
    def test_two_names_suffice_and_other_columns_keep_their_names(self, tmp_path):
        text = ("id,breed,split\n0.png,cat,train\n1.png,dog,test\n2.png,dog,dev\n"
                "3.png,dog,UNASSIGNED\n")
        _, splits = read(tmp_path, text, csv_columns="id,breed")
        assert {split: len(entries) for split, entries in splits.items()} == {
            "train": 2, "test": 1, "validation": 1}

    def test_letter_case_of_columns_does_not_matter(self, tmp_path):
        assert read(tmp_path, rows(KINDS).replace("path,label", "Path,LABEL"))[0] == KINDS

    def test_two_columns_of_one_name_are_refused_if_they_are_used(self, tmp_path):
        text = "path,label,{0},{0}\n0.png,cat,a,b\n1.png,dog,a,b\n"
        assert "two columns named 'label'" in error_of(
            tmp_path, "path,label,label\n0.png,cat,dog\n")
        assert read(tmp_path, text.format("note"))[0] == KINDS

    @pytest.mark.parametrize("text, header", [
        ("{0}.png,{1}\n", "path,label"), ("TRAIN,{0}.png,{1}\n", "split,path,label"),
        ("{0}.png;{1};x\n", "path;label;column_3"), ("{1},gs://b/{0}.png\n", "label,path")])
    def test_table_without_header_is_refused_and_the_advised_line_works(
            self, tmp_path, text, header):
        body = "".join(text.format(row, KINDS[row % 2]) for row in range(4))
        message = error_of(tmp_path, body)
        assert "has no header" in message and message.endswith(f"Put this line above it: {header}")
        if "gs:" not in text:
            _, splits = read(tmp_path, f"{header}\n{body}")
            assert len(splits["train"]) == 4

    def test_table_without_header_is_recognized_by_its_label_or_by_a_file(self, tmp_path):
        write(tmp_path, b"", "a0.jpg")
        for body in ("a7,cat\na1,dog\na2,cat\n", "a0,cat\na1,dog\n"):
            assert "has no header" in error_of(tmp_path, body)
        message = error_of(tmp_path, "0.png,cat\n1.png,dog\n", csv_columns="0.png,cat")
        assert "has no header" in message

    def test_one_hot_columns_are_read_as_advised(self, tmp_path):
        text = "filename,dog,cat\n0.jpg,1,0\n1.jpg,0,1\n2.jpg,0,1\n3.jpg,0,0\n"
        complete = text.replace("3.jpg,0,0\n", "")
        message = error_of(tmp_path, complete)
        assert "--csv_columns=filename, which takes the one-hot columns dog, cat" in message
        assert read_labels(tmp_path, text, csv_columns="filename") == (
            ("dog", "cat"), [0, 1, 1, -1])

    @pytest.mark.parametrize("text, columns, message", [
        ("p,cat,dog\n0.jpg,1,0\n1.jpg,1,1\n", "p", "line 3 has several classes (cat, dog)"),
        ("p,cat,dog\n0.jpg,1,0\n1.jpg,0,1\n", "p,cat", "Name only the path: --csv_columns=p"),
        ("id,breed,note\na.png,cat,x\nb.png,dog,y\nc.png,cat,z\n", "path,label",
         "Name the columns of path and label: --csv_columns=id,breed"),
        ("path,x\n0.png,1\n", "path,label", "has no column 'label'")])
    def test_columns_that_do_not_fit_are_refused_with_advice(
            self, tmp_path, text, columns, message):
        assert message in error_of(tmp_path, text, csv_columns=columns)

    def test_group_column_must_exist(self, tmp_path):
        assert "--group_column=patient is not a column" in error_of(
            tmp_path, rows(KINDS), group_column="patient")


class TestLabels:
    @pytest.mark.parametrize("unknown", ["", "nan", "NaN", "NA", "null", "None", "-1"])
    def test_missing_value_is_unknown_and_no_class(self, tmp_path, unknown, caplog):
        true = ("0", "1", unknown, unknown) if unknown == "-1" else ("cat", "dog", unknown, unknown)
        given = ("0", "1", "0", "1") if unknown == "-1" else ("cat", "dog", "cat", "dog")
        text = "path,label,true_label\n" + "".join(
            f"{row}.png,{given[row]},{true[row]}\n" for row in range(4))
        with caplog.at_level("INFO", logger="absl"):
            class_names, splits = read(tmp_path, text)
        assert len(class_names) == 2
        assert [true for _, _, true in splits["train"]] == [0, 1, -1, -1]
        assert f"2 cells are unknown ('{unknown or 'empty'}' 2x)" in caplog.text

    def test_missing_values_are_a_setting(self, tmp_path):
        labels = ["None", "scratch", "?", "-1"]
        assert read_labels(tmp_path, rows(labels), missing_values="?") == (
            ("-1", "None", "scratch"), [1, 2, -1, 0])
        assert read_labels(tmp_path, rows([-1, 1]), missing_values="") == (("-1", "1"), [0, 1])

    def test_minus_one_among_names_is_a_name(self, tmp_path):
        assert read_labels(tmp_path, rows(["-1", "cat"])) == (("-1", "cat"), [0, 1])

    def test_row_without_label_keeps_its_true_label_for_scoring_only_in_test(self, tmp_path):
        text = ("path,label,split,true_label\n0.png,cat,,\n1.png,dog,,\n2.png,,test,dog\n"
                "3.png,,test,\n4.png,,,dog\n")
        _, splits = read(tmp_path, text)
        assert splits["test"] == [("2.png", 1, 1)]
        assert splits["train"][2:] == [("3.png", -1, -1), ("4.png", -1, 1)]

    @pytest.mark.parametrize("labels, expected", [
        ((0, 1, 2), ("0", "1", "2")), ((1, 2, 3), ("1", "2", "3")),
        ((50, 5, 10), ("5", "10", "50")), (("1.0", "0.0", "nan"), ("0", "1")),
        (("02", "01", "10"), ("01", "02", "10"))])
    def test_numbers_are_classes_in_numeric_order(self, tmp_path, labels, expected):
        class_names, found = read_labels(tmp_path, rows(labels))
        assert class_names == expected
        assert [class_names[label] for label in found if label >= 0] == [
            str(label).partition(".")[0] for label in labels if label != "nan"]

    def test_integers_and_floats_are_the_same_labels(self, tmp_path):
        text = "path,label,true_label\n0.png,0,0.0\n1.png,1,nan\n2.png,1,0.0\n"
        assert read(tmp_path, text)[1]["train"] == [
            ("0.png", 0, 0), ("1.png", 1, -1), ("2.png", 1, 0)]

    def test_names_in_one_column_and_numbers_in_the_other_are_refused(self, tmp_path):
        text = "path,label,true_label\n0.png,cat,0\n1.png,dog,1\n"
        assert "but column 'true_label' has numbers such as 0" in error_of(tmp_path, text)
        names = str(write(tmp_path, "cat\ndog\n", "names.txt"))
        assert read(tmp_path, text, class_names=names)[1]["train"][1] == ("1.png", 1, 1)

    @pytest.mark.parametrize("cell", ['"cat,dog"', "cat;dog", "cat|dog", "\"['cat', 'dog']\""])
    def test_several_labels_in_one_cell_are_refused(self, tmp_path, cell):
        assert "line 4 has several labels" in error_of(tmp_path, rows(["cat", "dog", cell]))

    def test_class_name_with_a_semicolon_is_read(self, tmp_path):
        assert read(tmp_path, rows(["cat;fat", "dog"]))[0] == ("cat;fat", "dog")

    def test_classes_that_differ_in_letter_case_give_a_warning(self, tmp_path, caplog):
        with caplog.at_level("WARNING", logger="absl"):
            read(tmp_path, rows(["Cat", "cat", "dog"]))
        assert "Cat, cat differ only in letter case" in caplog.text

    def test_report_names_columns_rows_and_classes(self, tmp_path, caplog):
        with caplog.at_level("INFO", logger="absl"):
            read(tmp_path, rows(KINDS).replace(",", ";"))
        assert "2 rows, cells between semicolons; path = path, label = label" in caplog.text
        assert "2 classes: cat, dog" in caplog.text


class TestNames:
    LABELS = rows([0, 1, 2])

    @pytest.mark.parametrize("name, text", [
        ("n.txt", "ash\nbirch\nelm\n"), ("n.json", '["ash", "birch", "elm"]'),
        ("n.json", '{"2": "elm",\n "0": "ash", "1": "birch"}'),
        ("n.txt", '{"elm": 2, "ash": 0, "birch": 1}'),
        ("n.csv", "id,name\n0,ash\n2,elm\n1,birch\n"),
        ("n.tsv", "ash\t0\nbirch\t1\nelm\t2\n"), ("n.txt", "\ufeffash\n\n birch \nelm")])
    def test_names_are_read_from_each_kind_of_file(self, tmp_path, name, text):
        names = str(write(tmp_path, text, name))
        assert read_labels(tmp_path, self.LABELS, class_names=names) == (
            ("ash", "birch", "elm"), [0, 1, 2])

    def test_list_with_a_line_too_many_is_refused(self, tmp_path):
        names = str(write(tmp_path, "name\nash\nbirch\nelm\n", "n.txt"))
        message = error_of(tmp_path, self.LABELS, class_names=names)
        assert "lists 4 names, from 'name' to 'elm', but the labels end at 2" in message

    def test_table_of_names_may_name_classes_without_images(self, tmp_path):
        names = str(write(tmp_path, "1,ash\n2,birch\n3,elm\n9,fir\n", "n.csv"))
        assert read_labels(tmp_path, rows([1, 3]), class_names=names) == (
            ("ash", "birch", "elm", "fir"), [0, 2])

    def test_list_of_names_may_count_from_one(self, tmp_path):
        names = str(write(tmp_path, "ash\nbirch\n", "n.txt"))
        assert read_labels(tmp_path, rows([1, 2]), class_names=names) == (("ash", "birch"), [0, 1])

    @pytest.mark.parametrize("text, message", [
        ("one\n", "at least two classes"), ("a\na\n", "each only once"),
        ("{bad", "is not valid JSON"), ('{"x": "y"}', "must be a list of names"),
        ("[" * 5000, "is not valid JSON"), ("0,a\n0,b\n", "two names to one number"),
        ("0,a\n1,b\n", "label 2, which is out of range")])
    def test_file_that_does_not_fit_is_refused(self, tmp_path, text, message):
        names = str(write(tmp_path, text, "n.txt"))
        assert message in error_of(tmp_path, self.LABELS, class_names=names)


class TestPaths:
    def read_paths(self, root, *paths):
        text = rows(KINDS * 4).splitlines()[1:1 + len(paths)]
        body = "".join(f"{path},{line.partition(',')[2]}\n" for path, line in zip(paths, text))
        _, splits = read(root, f"path,label\n{body}")
        return [path for path, _, _ in splits["train"]]

    def test_suffix_letter_case_and_unicode_form_are_found(self, tmp_path):
        composed, decomposed = (unicodedata.normalize(form, "Zoë.png") for form in ("NFC", "NFD"))
        for name in ("a1.jpg", "B.PNG", decomposed):
            write(tmp_path, b"", name)
        (tmp_path / "Sub").mkdir()
        write(tmp_path / "Sub", b"", "c.webp")
        assert self.read_paths(tmp_path, "a1", "b.png", composed, "sub\\C") == [
            "a1.jpg", "B.PNG", decomposed, "Sub/c.webp"]

    def test_absolute_path_and_missing_file_stay(self, tmp_path):
        write(tmp_path, b"", "a.png")
        assert self.read_paths(tmp_path, tmp_path / "a.png", "none.png") == ["a.png", "none.png"]

    def test_paths_may_start_from_the_only_subdirectory_that_has_them(self, tmp_path):
        for directory in ("test", "train"):
            (tmp_path / directory).mkdir()
        for name in ("a.jpg", "b.jpg"):
            write(tmp_path / "train", b"", name)
        assert self.read_paths(tmp_path, "a", "b") == ["train/a.jpg", "train/b.jpg"]

    def test_path_of_two_files_is_refused(self, tmp_path):
        for name in ("a.jpg", "a.png"):
            write(tmp_path, b"", name)
        assert "stands for several files: a.jpg, a.png" in error_of(tmp_path, "path,label\na,cat\n")

    @pytest.mark.parametrize("scheme", ["gs://bucket", "s3://bucket", "https://example.org"])
    def test_address_is_refused(self, tmp_path, scheme):
        text = f"path,label\n{scheme}/0.png,cat\n{scheme}/1.png,dog\n"
        assert "is an address, but images are read from local files" in error_of(tmp_path, text)

    def test_each_directory_is_listed_once(self, tmp_path, monkeypatch):
        listed = []
        monkeypatch.setattr(find_files.os, "listdir", lambda path: listed.append(path) or [])
        finder = find_files.FileFinder(str(tmp_path))
        assert [finder.find(f"{number}.png") for number in range(9)] == [None] * 9
        assert len(listed) == 1


@pytest.mark.slow
def test_500_mutated_tables_are_read_or_refused_in_one_line(tmp_path):
    rng = np.random.default_rng(0)
    pieces = [b",", b";", b"\t", b'"', b"\n", b"\r", b"\0", b"\xff", b"-1", b"nan", b"label",
              b"path", b"1.0", b"gs://x", b"cat", b"|", b"'", b"[", b"{", b"\xef\xbb\xbf",
              b"../", b"\xc3"]
    valid = (b"path,label,split,true_label,note\n" + b"".join(
        b"%d.png,%s,%s,%s,x\n" % (row, (b"cat", b"dog")[row % 2], (b"", b"test")[row % 5 == 0],
                                  (b"", b"cat")[row % 3 == 0]) for row in range(12)))
    outcomes = {"read": 0, "refused": 0}
    for number in range(500):
        content = bytearray(valid)
        for _ in range(rng.integers(1, 6)):
            place = int(rng.integers(len(content) + 1))
            stop = place + int(rng.integers(0, 8)) * int(rng.integers(2))
            content[place:stop] = pieces[rng.integers(len(pieces))] * int(rng.integers(0, 3))
        settings = {"csv_columns": "path,label"} if number % 3 else {}
        try:
            class_names, splits = read(tmp_path, bytes(content), **settings)
            labels = [label for entries in splits.values() for _, label, _ in entries]
            assert all(-1 <= label < len(class_names) for label in labels)
            outcomes["read"] += 1
        except UserError as error:
            assert len(str(error).splitlines()) == 1 and "--data_dir=" in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50

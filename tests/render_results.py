"""Writes the tables of the pages from the files under configs/results. Not a test.

    python tests/render_results.py

A table is between the lines `<!-- results: NAME -->` and `<!-- end -->` of a page. NAME is a key of
TABLES, or the path of a CSV file relative to configs/results that is shown as it is.
"""

import collections
import csv
import itertools
import pathlib
import re
import statistics

from mlnt_tf import report

ROOT = pathlib.Path(__file__).parents[1]
RESULTS = ROOT / "configs/results"
PAGES = ["README.md", "configs/README.md", "launch/README.md", "tests/README.md",
         *(f"mlnt_tf/{name}README.md" for name in (
             "", "benchmark/", "compare/", "data/", "methods/", "review/", "serving/"))]
BLOCK = re.compile(r"(<!-- results: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def read_rows(name):
    """Returns the rows of configs/results/NAME/table.csv, a list of dict."""
    with open(RESULTS / name / "table.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def mean_and_deviation(values, *, digits, factor=1):
    """Returns "mean ± standard deviation" of numbers, without the latter for a single one."""
    values = [factor * float(value) for value in values]
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def grouped(rows, *keys):
    """Returns {values of the keys: list of rows}, in the order of the rows."""
    groups = collections.defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return groups


def best_method(groups, data, starts, ends):
    """Returns the average precisions of the method with the highest mean among those of a kind."""
    candidates = [[float(row["average_precision"]) for row in rows]
                  for (name, method), rows in groups.items()
                  if name == data and method.startswith(starts) and method.endswith(ends)]
    return max(candidates, key=statistics.mean)


LABEL_SETS = {
    "clothing_mini given": "photographs of clothes, 38 % wrong",
    "cifar10n worse 5000": "CIFAR-10N worse, 40 % wrong",
    "cifar10n random1 5000": "CIFAR-10N random1, 17 % wrong",
    "cifar10n aggre 5000": "CIFAR-10N aggre, 9 % wrong",
    "cifar10n asymmetric:0.4 5000": "CIFAR-10, asymmetric noise, 20 % wrong",
    "cifar10n symmetric:0.5 5000": "CIFAR-10, symmetric noise, 45 % wrong",
    "clothing_mini uniform:0.1": "photographs, 10 % wrong at random",
    "cifar10n uniform:0.1 5000": "CIFAR-10, 10 % wrong at random",
    "cifar10n worse 500": "CIFAR-10N worse, 500 images only",
    "cifar10n aggre 500": "CIFAR-10N aggre, 500 images only"}


def label_issues():
    """Average precision of the ranking of wrong labels, next to cleanlab's best score."""
    groups = grouped(read_rows("label_issues"), "data", "method")
    yield ("labels", "mlnt_tf", "cleanlab, same features", "cleanlab, mlnt_tf's predictions")
    for data, title in LABEL_SETS.items():
        ours = [row["average_precision"] for row in groups[data, "noise-corrected probe"]]
        plain = best_method(groups, data, "cleanlab",
                            ("(cross entropy, 5-fold)", "(logistic, 5-fold)"))
        corrected = best_method(groups, data, "cleanlab", "(noise-corrected, 5-fold)")
        yield title, *(mean_and_deviation(values, digits=3) for values in (ours, plain, corrected))


def small_images():
    """Accuracy of the exported network by method: the choice of recipe small_images."""
    rows = [row for row in read_rows("small_images") if row["row"].startswith("exported")]
    yield "method", "validation, given labels", "test, true labels"
    for (method,), group in grouped([row | {"method": row["run"].rpartition("_")[0]}
                                     for row in rows], "method").items():
        yield f"`{method}`", *(
            mean_and_deviation([row[key] for row in group], digits=1, factor=100)
            for key in ("best_validation", "test_at_best"))


RELABELED = {"clothing_mini given": "photographs of clothes",
             "clothing_mini uniform:0.1": "photographs, 10 % wrong at random",
             "cifar10n worse": "CIFAR-10N worse", "cifar10n aggre": "CIFAR-10N aggre"}


def relabel():
    """Effect of relabel --auto=0.8 on the labels and on the accuracy of the probe."""
    yield ("labels", "wrong, %", "replaced, %", "of these right, %", "still wrong, %",
           "test accuracy before, %", "after, %")
    for (data, auto), rows in grouped(read_rows("relabel"), "data", "auto").items():
        if float(auto) == 0.8:
            replaced = [int(row["replaced"]) / int(row["images"]) for row in rows]
            columns = (replaced, *([row[name] for row in rows] for name in (
                "replaced_right", "wrong_after", "first_accuracy", "second_accuracy")))
            yield RELABELED[data], *(
                mean_and_deviation(values, digits=1, factor=100)
                for values in ([row["wrong_before"] for row in rows], *columns))


# Rows of the photographs: title, run without its seed, and row of the run.
PHOTOGRAPHS = (
    ("linear head, cross entropy", "photos_fast", "cross entropy, student"),
    ("linear head, logistic regression", "fast_logistic", "exported"),
    ("linear head, LDA", "fast_lda", "exported"),
    ("linear head, GCE", "fast_gce", "exported"),
    ("linear head, ELR", "fast_elr", "exported"),
    ("recipe `photos_fast`", "photos_fast", "exported"),
    ("fine-tuned, cross entropy", "finetune_cross_entropy", "exported"),
    ("fine-tuned, GCE", "finetune_gce", "exported"),
    ("fine-tuned, ELR", "finetune_elr", "exported"),
    ("fine-tuned, MLNT", "finetune_mlnt", "exported"),
    ("recipe `photos`", "photos", "exported"),
    ("linear head, true labels", "fast_true", "exported"),
    ("fine-tuned, true labels", "finetune_true", "exported"))
HEADLINE = (0, 3, 5, 6, 10, 12)  # The rows in README.md.


def photograph_rows():
    """Returns {title: rows of configs/results/photos, one per seed}, without empty lists."""
    rows = read_rows("photos")
    found = {}
    for title, run, kind in PHOTOGRAPHS:
        found[title] = [row for row in rows if row["run"].rpartition("_")[0] == run
                        and row["row"].startswith(kind)]
    return {title: group for title, group in found.items() if group}


def photos(titles=tuple(title for title, _, _ in PHOTOGRAPHS)):
    """Test accuracy and seconds of methods on photographs."""
    yield "photographs of clothes, 38 % wrong labels", "test accuracy, %", "seconds", "seeds"
    for title, rows in photograph_rows().items():
        if title in titles:
            yield (title, mean_and_deviation([row["test_at_best"] for row in rows], digits=1,
                                             factor=100),
                   f"{statistics.mean(float(row['seconds']) for row in rows):.0f}", str(len(rows)))


def headline():
    """The rows of `photos` that README.md shows."""
    yield from photos([PHOTOGRAPHS[index][0] for index in HEADLINE])


def printed_run():
    """Returns the table that `train` printed for recipe photos, without the last validation."""
    lines = [("", "best validation", "test at best", "test at last", "seconds")]
    rows = [row for row in read_rows("photos") if row["run"] == "photos_0"
            and not row["row"].startswith("exported")]
    for row, following in itertools.zip_longest(rows, rows[1:], fillvalue={"row": ""}):
        stage, _, network = row["row"].rpartition(", ")
        is_last = not following["row"].startswith(f"{stage}, ")
        lines.append((stage + report.row_suffix(network, False),
                      *(f"{100 * float(row[name]):.1f}"
                        for name in ("best_validation", "test_at_best", "test_last")),
                      f"{float(row['seconds']):.0f}" if is_last else ""))
    table = [line.rstrip() for line in report.align_columns(lines).splitlines()]
    return "\n".join(["```", *table, "```", ""])


def suspicious_photographs():
    """The first rows of label_issues.csv."""
    rows = read_rows("suspicious_photographs")
    yield tuple(rows[0])
    yield from (tuple(row.values()) for row in rows[:3])


def compared_on_digits():
    """Test accuracy of methods on the digits, at the best epoch, the last one, and of the EMA."""
    rows = read_rows("digits_methods")
    noises = list(dict.fromkeys((row["noise"], row["noise_rate"]) for row in rows))
    titles = ("best", "last", "EMA, best")
    yield "method", *(f"{noise} {rate}, {title}" for noise, rate in noises for title in titles), \
        "seconds"
    for (method,), group in grouped(rows, "method").items():
        cells = [f"{100 * float(row[f'{name}_accuracy']):.1f} ± "
                 f"{100 * float(row[f'{name}_standard_error']):.1f}"
                 for row in group for name in ("best", "last", "ema_best")]
        yield f"`{method}`", *cells, f"{float(group[0]['seconds']):.0f}"


REPAIR_COLUMNS = {"best": "best", "last": "last", "kept_correct": "kept labels correct",
                  "label_recall": "correct labels kept"}


def repair_digits():
    """Label repair on the digits, mean over seeds."""
    rows = read_rows("repair_digits")
    noises = list(dict.fromkeys(row["noise"] for row in rows))
    yield "second iteration", *(f"{noise}, {title}" for noise in noises
                                for title in REPAIR_COLUMNS.values())
    for (variant,), group in grouped(rows, "variant").items():
        yield variant, *(mean_of(row[name] for row in group if row["noise"] == noise)
                         for noise in noises for name in REPAIR_COLUMNS)


def mean_of(cells):
    """Returns the mean of cells with numbers, or "" if they are empty."""
    numbers = [float(cell) for cell in cells if cell]
    return f"{statistics.mean(numbers):.1f}" if numbers else ""


TABLES = {
    "label_issues": label_issues, "relabel": relabel, "small_images": small_images,
    "photos": photos, "headline": headline, "digits_methods": compared_on_digits,
    "repair_digits": repair_digits, "suspicious_photographs": suspicious_photographs}


def content_of(name):
    """Returns the text between the lines of a block."""
    return printed_run() if name == "printed_run" else to_markdown(lines_of(name))


def lines_of(name):
    """Yields the rows of a table, the headings first."""
    if name in TABLES:
        yield from TABLES[name]()
        return
    with open(RESULTS / name, newline="", encoding="utf-8") as file:
        yield from csv.reader(file)


def to_markdown(lines):
    """Returns a Markdown table of rows of str, the headings first."""
    head, *body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|" + "---|" * (head.count(" | ") + 1), *body]) + "\n"


def render(text):
    """Returns the text of a page with every table computed again."""
    return BLOCK.sub(lambda block: block[1] + content_of(block[2]) + block[3], text)


def main():
    for name in PAGES:
        page = ROOT / name
        page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

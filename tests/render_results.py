"""Writes the tables of the pages from the files under configs/results. Not a test.

    python tests/render_results.py

A table is between the lines `<!-- results: NAME -->` and `<!-- end -->` of a page. NAME is a key of
TABLES, or the path of a CSV file relative to configs/results that is shown as it is.
"""

import collections
import csv
import pathlib
import re
import statistics

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
    "cifar10n worse 500": "CIFAR-10N worse, 500 images only"}


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


TABLES = {"label_issues": label_issues, "small_images": small_images}


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
    return BLOCK.sub(lambda block: block[1] + to_markdown(lines_of(block[2])) + block[3], text)


def main():
    for name in PAGES:
        page = ROOT / name
        page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()

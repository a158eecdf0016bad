"""Cells of a CSV table that a spreadsheet would take for formulas.

Spreadsheets compute a cell that begins with `=`, `+`, `-`, `@`, a tab or a carriage return. Such a
cell is written with one apostrophe in front. A cell that already begins with apostrophes and then
one of these characters gets one more, so that `restore_cell` returns every text unchanged.
"""

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def protect_cell(text):
    """Returns the text as a cell that no spreadsheet computes: `=A1` becomes `'=A1`."""
    return f"'{text}" if text.lstrip("'").startswith(FORMULA_STARTS) else text


def restore_cell(cell):
    """Returns the text of a cell that `protect_cell` wrote: `'=A1` becomes `=A1`."""
    is_protected = cell.startswith("'") and cell.lstrip("'").startswith(FORMULA_STARTS)
    return cell[1:] if is_protected else cell

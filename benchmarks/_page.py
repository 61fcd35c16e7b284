"""Puts what a benchmark prints into a page; tables for it."""

import pathlib


def put(page, mark, lines):
    """Replaces what stands between <!-- mark --> and <!-- end of mark --> in a page.

    Args:
        page: path of the page.
        mark: e.g. "tables".
        lines: what shall stand there.

    Raises:
        ValueError: the marks are not in the page.
    """
    page = pathlib.Path(page)
    begin, end = f"<!-- {mark} -->\n", f"<!-- end of {mark} -->\n"
    head, found, rest = page.read_text().partition(begin)
    _, ended, tail = rest.partition(end)
    if not (found and ended):
        raise ValueError(f"{page} has no marks {begin.strip()} and {end.strip()}")
    text = "\n".join(lines)
    page.write_text(f"{head}{begin}\n{text}\n\n{end}{tail}")


def row(cells):
    """Returns a line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def table(head, rows):
    """Returns the lines of a table."""
    return [row(head), "|---" * len(head) + "|", *map(row, rows)]

"""Numbers and Markdown tables for the output of the programs. Standard library only: the Locust image has little else."""

from collections.abc import Iterable, Sequence


def number(value: float | None, *, digits: int = 1) -> str:
    """Formats a number for a table; None is a dash."""
    return "-" if value is None else f"{value:,.{digits}f}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table; the first column is aligned to the left, the others to the right."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(heads))]
    rule = ["-" * width if column == 0 else "-" * (width - 1) + ":" for column, width in enumerate(widths)]

    def draw(line: Sequence[str]) -> str:
        cells = (
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        return "| " + " | ".join(cells) + " |"

    return "\n".join([draw(lines[0]), draw(rule), *(draw(line) for line in lines[1:])])

"""The house's figures: files, length of functions, helpers that are named once, and entries of each folder.

    python -m tests.meta.house_figures            # of this clone
    python -m tests.meta.house_figures ROOT --list batching/scheduler

A helper is a module-level or private function. It is named once when its name occurs once outside its definition.
"""

from __future__ import annotations

import argparse
import ast
import io
import statistics
import sys
import tokenize
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOMS = ("batching", "models", "service")


class Function(NamedTuple):
    """One function: its name, its length, where it is, and whether it is module-level or private."""

    name: str
    lines: int
    file: Path
    is_helper: bool


class Figures(NamedTuple):
    """What one tree has; `named_once` are the helpers that one place names."""

    files: int
    functions: list[Function]
    named_once: list[Function]

    @property
    def median_lines(self) -> float:
        """Of a function, its signature and docstring included."""
        return statistics.median(function.lines for function in self.functions)

    @property
    def longest(self) -> Function:
        """The function with the most lines."""
        return max(self.functions, key=lambda function: function.lines)

    @property
    def share_named_once(self) -> float:
        """The helpers named once as a share of all functions."""
        return len(self.named_once) / len(self.functions)


def figures(root: Path, rooms: Sequence[str] = ROOMS) -> Figures:
    """The figures of the Python files below `rooms`, counted together."""
    files = [path for room in rooms for path in sorted((root / room).rglob("*.py"))]
    names: Counter[str] = Counter()
    functions: list[Function] = []
    for path in files:
        text = path.read_text(encoding="utf-8")
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        names.update(token.string for token in tokens if token.type == tokenize.NAME)
        functions += functions_of(ast.parse(text), path.relative_to(root))
    definitions = Counter(function.name for function in functions)

    def is_named_once(function: Function) -> bool:
        name = function.name
        return function.is_helper and definitions[name] == 1 and names[name] == 2 and not name.startswith("__")

    return Figures(len(files), functions, [function for function in functions if is_named_once(function)])


def functions_of(tree: ast.Module, file: Path) -> list[Function]:
    """Every function of a module, those of classes and of functions included."""
    at_top = set(tree.body)
    return [
        Function(
            node.name, (node.end_lineno or node.lineno) - node.lineno + 1, file, node in at_top or node.name[0] == "_"
        )
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]


def entries(folder: Path) -> set[str]:
    """The names in a folder, its `__init__` and what Python and the editor leave there aside."""
    return {path.name for path in folder.iterdir()} - {"__init__.py", "__pycache__"}


def report(root: Path, listed: str | None) -> str:
    """The figures of a tree, a line for each folder, and the helpers named once below `listed`."""
    found = figures(root)
    folders = sorted({function.file.parent for function in found.functions})
    longest = f"{found.longest.lines} ({found.longest.name} of {found.longest.file})"
    lines = [
        f"{found.files} files, {len(found.functions)} functions: median {found.median_lines:g} lines, longest {longest}",
        f"helpers named once: {len(found.named_once)}, {found.share_named_once:.1%} of the functions",
    ]
    for folder in folders:
        every = sum(function.file.parent == folder for function in found.functions)
        once = sum(function.file.parent == folder for function in found.named_once)
        lines.append(f"  {folder}: {len(entries(root / folder))} entries, {once} of {every} functions named once")
    if listed is not None:
        helpers = [helper for helper in found.named_once if str(helper.file).startswith(listed)]
        lines += [f"{helper.file}: {helper.name}, {helper.lines} lines" for helper in helpers]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Counts and prints; returns 0."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.meta.house_figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("root", type=Path, nargs="?", default=Path(__file__).parents[2], help="the clone [this one]")
    parser.add_argument("--list", metavar="FOLDER", help="also name the helpers named once below this folder")
    options = parser.parse_args(arguments)
    print(report(options.root, options.list))  # noqa: T201 - a program
    return 0


if __name__ == "__main__":
    sys.exit(main())

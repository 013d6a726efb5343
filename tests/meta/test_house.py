"""The house's own rules, checked on its files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from service.api import addresses
from service.app import create_app
from service.settings import Settings
from service.tables import DOCS, metrics_page, settings_page

ROOT = Path(__file__).parents[2]
ROOMS = ("batching", "models", "service")
# Which room may import which, and which outside package only one room may import.
ARROWS = {"batching": set(), "models": set(), "service": {"batching", "models"}}
OWNERS = {
    "tensorflow": "models",
    "keras": "models",
    "sanic": "service",
    "orjson": "service",
    "prometheus_client": "service",
}
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
PROSE = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("Makefile"), ROOT / "docker-compose.yml"]


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_inward_and_each_library_has_one_room(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    imported = _imports(path)
    assert (imported & set(ROOMS)) - {room} <= ARROWS[room]
    assert {name for name, owner in OWNERS.items() if owner != room} & imported == set()


def test_the_scheduler_needs_the_standard_library_only() -> None:
    import sys  # noqa: PLC0415 - only this test asks it

    imported = set().union(*(_imports(path) for path in FILES if path.relative_to(ROOT).parts[0] == "batching"))
    assert imported - {"batching"} <= sys.stdlib_module_names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_says_what_it_is_for(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    limit = 200 if path.relative_to(ROOT).parts[0] == "batching" else 300
    assert len(text.splitlines()) <= limit
    assert ast.get_docstring(ast.parse(text))


def test_the_tables_of_the_docs_are_what_the_code_says() -> None:
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == settings_page(), "run `make docs`"
    assert (DOCS / "metrics.md").read_text(encoding="utf-8") == metrics_page(), "run `make docs`"


def test_every_route_is_documented() -> None:
    app = create_app(Settings())
    text = (DOCS / "dialects.md").read_text(encoding="utf-8")
    routes = {f"/{route.path}" for route in app.router.routes}
    paths = {re.sub(r"<(\w+):\w+>", lambda found: found[1].upper(), path) for path in routes - {addresses.ANY}}
    paths |= {template for _, template in addresses.ROUTES}
    assert len(paths) > 8
    assert {path for path in paths if f"`{path}`" not in text} == set()


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_the_pages_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_nothing_is_left_to_do_in_the_code() -> None:
    words = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")
    found = [str(path.relative_to(ROOT)) for path in FILES if words.search(path.read_text(encoding="utf-8"))]
    assert found == []

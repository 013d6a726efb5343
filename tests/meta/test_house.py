"""The house's own rules, checked on its files."""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from darkroom.service.api.tensorflow_serving import paths
from darkroom.service.app import create_app
from darkroom.service.cli.doc_tables import DOCS, metrics_page, settings_page
from darkroom.service.config.settings import Settings
from darkroom.service.errors import HTTP_CODES, TABLE
from tests.meta.house_figures import entries, figures

ROOT = Path(__file__).parents[2]
ROOMS = ("batching", "models", "service")
# Which outside package only one room may import.
OWNERS = {
    "tensorflow": "models",
    "keras": "models",
    "obstore": "models",
    "sanic": "service",
    "orjson": "service",
    "prometheus_client": "service",
}
# What each place may import of the rest of the house, its own folder aside. The most exact name that fits a module counts.
MODELS_WORDS = ["models.errors", "models.rows", "models.spec", "models.engine"]
SERVICE_GROUND = ["service.errors", "service.config", "service.telemetry"]
MAY_IMPORT = {
    "batching": [],
    "batching.backend": [],
    "batching.errors": [],
    "batching.limits": [],
    "batching.entry": ["batching.backend"],
    "batching.observer": ["batching.entry", "batching.errors", "batching.backend"],
    "batching.scheduler": ["batching.entry", "batching.limits", "batching.errors"],
    "batching.driver": ["batching.backend", "batching.entry", "batching.errors", "batching.limits", "batching.observer", "batching.scheduler"],
    "batching.batcher": ["batching"],
    "models": MODELS_WORDS,
    "models.runtime": MODELS_WORDS,
    "models.graph": [*MODELS_WORDS, "models.runtime"],
    "models.saved_model": [*MODELS_WORDS, "models.runtime", "models.graph"],
    "models.rewriting": [*MODELS_WORDS, "models.runtime", "models.graph", "models.saved_model"],
    "models.engines": [*MODELS_WORDS, "models.runtime", "models.graph", "models.saved_model", "models.rewriting"],
    "models.versions": [*MODELS_WORDS, "models.runtime", "models.saved_model", "models.rewriting", "models.engines"],
    "models.export": [*MODELS_WORDS, "models.runtime", "models.graph", "models.saved_model"],
    "models.profile": [*MODELS_WORDS, "models.runtime", "models.saved_model", "models.rewriting", "models.engines"],
    "service.config": ["batching", "models", "service.errors"],
    "service.errors": ["batching", "models"],
    "service.telemetry": ["batching", "models", "service.errors", "service.config"],
    "service.serving": ["batching", "models", *SERVICE_GROUND],
    "service.predict": ["batching", "models", *SERVICE_GROUND, "service.serving"],
    "service.http": ["batching", "models", *SERVICE_GROUND, "service.serving", "service.predict"],
    "service.workers": ["batching", "models", *SERVICE_GROUND, "service.serving"],
    "service.api": [
        "batching", "models", *SERVICE_GROUND, "service.serving", "service.predict", "service.http", "service.parts",
    ],
    "service.parts": ["batching", "models", *SERVICE_GROUND, "service.serving", "service.predict", "service.http", "service.workers"],
    "service.app": ["batching", "models", "service"],
    "service.server": ["batching", "models", "service"],
    "service.cli": ["batching", "models", "service"],
}  # fmt: skip
ENTRIES = 12  # of a folder at most, its __init__ aside
MEDIAN_LINES, MOST_LINES = 7, 60  # of a function
NAMED_ONCE = 0.14  # share of the functions that are helpers and are named once
FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
PROSE = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("Makefile"), ROOT / "docker-compose.yml"]


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_name(path): path for path in FILES}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it and for whatever purpose, types included; the house's by path."""
    names: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = node.module.removeprefix("darkroom.")
            names |= {
                f"{node.module}.{alias.name}" if f"{inner}.{alias.name}" in MODULES else node.module
                for alias in node.names
            }
    return {name.removeprefix("darkroom.") for name in names}


def _is_within(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


GRAPH = {name: {found for found in _imports(path) if found in MODULES} for name, path in MODULES.items()}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_what_the_arrows_allow(name: str) -> None:
    place = max((place for place in MAY_IMPORT if _is_within(name, place)), key=len, default=None)
    if place is None:
        assert GRAPH[name] == set(), "a package's page holds no imports"
        return
    own = place if place.count(".") else name
    allowed = [*MAY_IMPORT[place], own]
    assert {found for found in GRAPH[name] if not any(_is_within(found, each) for each in allowed)} == set()


def test_no_imports_go_in_a_circle_between_modules_types_included() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as err:
        pytest.fail(" → ".join(err.args[1]))


def test_no_imports_go_in_a_circle_between_packages() -> None:
    packages: dict[str, set[str]] = defaultdict(set)

    def place_of(name: str) -> str:
        return max((place for place in MAY_IMPORT if _is_within(name, place)), key=len, default=name)

    for name, found in GRAPH.items():
        packages[place_of(name)] |= {place_of(each) for each in found} - {place_of(name)}
    try:
        TopologicalSorter(packages).prepare()
    except CycleError as err:
        pytest.fail(" → ".join(err.args[1]))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_library_has_one_room(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    imported = {name.split(".")[0] for name in _imports(path)}
    assert {name for name, owner in OWNERS.items() if owner != room} & imported == set()


def test_the_scheduler_needs_the_standard_library_only() -> None:
    imported = set().union(*(_imports(path) for name, path in MODULES.items() if _is_within(name, "batching")))
    assert {name.split(".")[0] for name in imported} - {"batching", "darkroom"} <= sys.stdlib_module_names


@pytest.mark.parametrize("room", [*ROOMS, "loadtest"])
def test_a_folder_has_about_ten_entries(room: str) -> None:
    for folder in [ROOT / room, *(path for path in (ROOT / room).rglob("*") if path.is_dir())]:
        if folder.name != "__pycache__":
            found = entries(folder)
            assert len(found) <= ENTRIES, f"{folder.relative_to(ROOT)}: {sorted(found)}"


def test_functions_are_short_and_few_are_helpers_that_one_place_names() -> None:
    found = figures(ROOT)
    assert found.median_lines <= MEDIAN_LINES
    assert [function for function in found.functions if function.lines > MOST_LINES] == []
    assert found.share_named_once <= NAMED_ONCE


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(_tree(path))


def test_a_class_name_is_used_once() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in [*FILES, *(ROOT / "loadtest").rglob("*.py")]:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(str(path.relative_to(ROOT)))
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_the_tables_of_the_docs_are_what_the_code_says() -> None:
    assert (DOCS / "settings.md").read_text(encoding="utf-8") == settings_page(), "run `make docs`"
    assert (DOCS / "metrics.md").read_text(encoding="utf-8") == metrics_page(), "run `make docs`"


def test_every_route_is_documented() -> None:
    app = create_app(Settings())
    text = (DOCS / "dialects.md").read_text(encoding="utf-8")
    routes = {f"/{route.path}" for route in app.router.routes}
    found = {re.sub(r"<(\w+):\w+>", lambda name: name[1].upper(), path) for path in routes - {paths.ANY}}
    found |= {template for _, template in paths.ROUTES}
    assert len(found) > 8
    assert {path for path in found if f"`{path}`" not in text} == set()


def test_every_error_code_is_documented() -> None:
    text = (DOCS / "dialects.md").read_text(encoding="utf-8")
    codes = {verdict.code for verdict in TABLE.values()} | set(HTTP_CODES.values())
    assert {code for code in codes if f"`{code}`" not in text} == set()


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_the_pages_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_nothing_is_left_to_do_in_the_code() -> None:
    words = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b")
    found = [str(path.relative_to(ROOT)) for path in FILES if words.search(path.read_text(encoding="utf-8"))]
    assert found == []

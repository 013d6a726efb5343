"""The panels of the four dashboards, in the order of questions during an incident. `generate.py` writes the JSON."""

from dataclasses import dataclass, field

RED, AMBER, GREEN, BLUE = "semi-dark-red", "semi-dark-orange", "semi-dark-green", "semi-dark-blue"
PURPLE, GREY, YELLOW = "semi-dark-purple", "#8e8e8e", "semi-dark-yellow"
OUTCOMES = {
    "ok": GREEN,
    "invalid_input": PURPLE,
    "queue_full": AMBER,
    "predicted_late": YELLOW,
    "expired": "dark-orange",
    "cancelled": GREY,
    "model_error": RED,
    "out_of_memory": "dark-red",
    "draining": BLUE,
}
QUANTILES = {"p50": GREEN, "p90": AMBER, "p99": RED}


@dataclass(frozen=True)
class Panel:
    """One panel: its queries, their unit, and how to read it."""

    title: str
    about: str
    queries: dict[str, str]  # legend → PromQL
    unit: str = "short"
    width: int = 6
    height: int = 8
    kind: str = "timeseries"
    is_stacked: bool = False
    is_signed: bool = False  # values may be negative
    colours: dict[str, str] = field(default_factory=dict)
    steps: tuple[tuple[float, str], ...] = ()  # (value, colour): the colour from this value on


@dataclass(frozen=True)
class Dashboard:
    """One dashboard: rows of panels.

    Attributes:
        name: of its file and of its uid.
        rows: title → panels.
    """

    name: str
    title: str
    about: str
    rows: dict[str, tuple[Panel, ...]]


def stat(title: str, about: str, query: str, *, unit: str = "short", steps: dict[float, str] | None = None) -> Panel:
    """Returns a panel with one number; `steps` maps a value to the colour from that value on."""
    colours = tuple((steps or {}).items())
    return Panel(title, about, {title: query}, unit=unit, width=3, height=4, kind="stat", steps=colours)


def bars(title: str, about: str, queries: dict[str, str], *, unit: str, width: int) -> Panel:
    """Returns a panel with a bar for the last value of each series."""
    return Panel(title, about, queries, unit=unit, width=width, kind="bargauge", colours={})

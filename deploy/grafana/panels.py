"""What the Grafana dashboard shows, in the order in which a person in trouble asks. `generate.py` makes it JSON."""  # noqa: INP001 - part of a program, not of a package

from dataclasses import dataclass, field

from promql import HOST, PROCESS, M, chosen, mean, quantile, rate, share

RED, AMBER, GREEN, BLUE = "semi-dark-red", "semi-dark-orange", "semi-dark-green", "semi-dark-blue"
PURPLE, GREY = "semi-dark-purple", "#8e8e8e"
OUTCOMES = {
    "ok": GREEN,
    "invalid_input": PURPLE,
    "queue_full": AMBER,
    "predicted_late": "semi-dark-yellow",
    "expired": "dark-orange",
    "cancelled": GREY,
    "model_error": RED,
    "out_of_memory": "dark-red",
    "draining": BLUE,
}


@dataclass(frozen=True)
class Panel:
    """One panel: what it asks, in whose unit, and what a reader is to make of it."""

    title: str
    about: str
    queries: dict[str, str]  # legend → PromQL
    unit: str = "short"
    width: int = 6
    height: int = 8
    kind: str = "timeseries"
    is_stacked: bool = False
    colours: dict[str, str] = field(default_factory=dict)
    steps: tuple[tuple[float, str], ...] = ()  # from this value on, this colour


def stat(title: str, about: str, query: str, *, unit: str = "short", steps: dict[float, str] | None = None) -> Panel:
    """One number; `steps` says from which value on it has which colour."""
    colours = tuple((steps or {}).items())
    return Panel(title, about, {title: query}, unit=unit, width=3, height=4, kind="stat", steps=colours)


LATENCY = "darkroom_request_duration_seconds"
REQUESTS = rate("darkroom_requests_total")
SERVER_FAULT = rate("darkroom_requests_total", 'outcome=~"model_error|out_of_memory"')
REFUSED = rate("darkroom_requests_total", 'outcome=~"queue_full|predicted_late|expired|draining"')
READY = "darkroom_workers" + chosen('state="ready"', HOST)
ABSENT = "darkroom_workers" + chosen('state="absent"', HOST)
AVAILABLE = "darkroom_model_state" + chosen('state="AVAILABLE"')
LAG = f"rate(darkroom_event_loop_lag_seconds_bucket{HOST}[$__rate_interval])"

IS_IT_WELL = (
    stat(
        "Alerts firing",
        "Names and what to do: docs/operations.md. Prometheus lists them under /alerts.",
        'count(ALERTS{alertstate="firing", alertname=~"Darkroom.+"}) or vector(0)',
        steps={0: GREEN, 1: RED},
    ),
    stat(
        "Servers up",
        "Instances that answered the last scrape.",
        'sum(up{job="darkroom"})',
        steps={0: RED, 1: GREEN},
    ),
    stat(
        "Versions available",
        "Model versions that take requests, over all chosen instances. 0: none; look at the log of the start.",
        f"sum({AVAILABLE})",
        steps={0: RED, 1: GREEN},
    ),
    stat("Requests", "All outcomes.", f"sum ({REQUESTS})", unit="reqps"),
    stat("p99", "The slowest hundredth of all requests took at least this long.", quantile(0.99, LATENCY), unit="s"),
    stat(
        "Failed",
        "Requests that failed by the server's fault. Pages above 1 %.",
        share(SERVER_FAULT, REQUESTS),
        unit="percentunit",
        steps={0: GREEN, 0.001: AMBER, 0.01: RED},
    ),
    stat(
        "Refused",
        "Requests refused at the door, expired in the queue or met while draining. Pages above 5 %.",
        share(REFUSED, REQUESTS),
        unit="percentunit",
        steps={0: GREEN, 0.01: AMBER, 0.05: RED},
    ),
    stat(
        "Queue full",
        "The fullest queue's share of --max_queue_images. Pages above 80 %.",
        f"max(darkroom_queue_images{M} / darkroom_queue_capacity_images{M})",
        unit="percentunit",
        steps={0: GREEN, 0.5: AMBER, 0.8: RED},
    ),
    Panel(
        "Requests by outcome",
        "What is not green was not answered with a prediction. Purple is the client's doing, "
        "orange and yellow are load, red is the server.",
        {"{{outcome}}": f"sum by (outcome) ({REQUESTS})"},
        unit="reqps",
        is_stacked=True,
        colours=OUTCOMES,
    ),
    Panel(
        "Latency and SLO",
        "Every outcome is in it: refusals are fast and pull p50 down under overload. SLO 0: none promised.",
        {
            "p50": quantile(0.5, LATENCY),
            "p90": quantile(0.9, LATENCY),
            "p99": quantile(0.99, LATENCY),
            "SLO": f"max(darkroom_slo_seconds{M})",
        },
        unit="s",
        colours={"p50": GREEN, "p90": AMBER, "p99": RED, "SLO": BLUE},
    ),
    Panel(
        "Shares that got no prediction",
        "Failed: the server's fault. Refused: too much load. Bad pictures: the client's fault.",
        {
            "failed": share(SERVER_FAULT, REQUESTS),
            "refused": share(REFUSED, REQUESTS),
            "bad pictures": share(rate("darkroom_requests_total", 'outcome="invalid_input"'), REQUESTS),
        },
        unit="percentunit",
        colours={"failed": RED, "refused": AMBER, "bad pictures": PURPLE},
    ),
    Panel(
        "Queue",
        "Images waiting, and how long the oldest has waited. A queue that is never empty is normal under load; "
        "an age that only grows is not.",
        {
            "images {{model}}/{{version}}": f"sum by (model, version) (darkroom_queue_images{M})",
            "oldest, s": f"max(darkroom_queue_oldest_age_seconds{M})",
        },
    ),
)

WHERE_THE_TIME_GOES = (
    Panel(
        "Mean time of a request, by stage",
        "In the order of its way; decode is base64, inspect the picture's header. A request mostly rides in one batch, "
        "so the height of the stack is about its latency.",
        {
            "parse": mean("darkroom_stage_duration_seconds", 'stage="parse"'),
            "decode": mean("darkroom_stage_duration_seconds", 'stage="decode"'),
            "inspect": mean("darkroom_stage_duration_seconds", 'stage="inspect"'),
            "queue wait": mean("darkroom_queue_wait_seconds"),
            "collate": mean("darkroom_stage_duration_seconds", 'stage="collate"'),
            "execute": mean("darkroom_stage_duration_seconds", 'stage="execute"'),
            "split": mean("darkroom_stage_duration_seconds", 'stage="split"'),
            "serialize": mean("darkroom_stage_duration_seconds", 'stage="serialize"'),
        },
        unit="s",
        width=12,
        height=9,
        is_stacked=True,
    ),
    Panel(
        "p99 of each stage",
        "Which stage makes the slow ones slow. They do not add up: each has its own slowest hundredth.",
        {
            "{{stage}}": quantile(0.99, "darkroom_stage_duration_seconds", by="stage"),
            "queue wait": quantile(0.99, "darkroom_queue_wait_seconds"),
        },
        unit="s",
        width=12,
        height=9,
    ),
    Panel(
        "One engine call",
        "Grows with the batch. If it grows while batches do not, something else takes the CPU.",
        {
            "p50": quantile(0.5, "darkroom_batch_execution_seconds"),
            "p99": quantile(0.99, "darkroom_batch_execution_seconds"),
        },
        unit="s",
        width=8,
        colours={"p50": GREEN, "p99": RED},
    ),
    Panel(
        "Event loop lag",
        "How late the loop wakes a timer: every request waits at least this long, several times.",
        {
            "p50": f"histogram_quantile(0.5, sum by (le) ({LAG}))",
            "p99": f"histogram_quantile(0.99, sum by (le) ({LAG}))",
        },
        unit="s",
        width=8,
        colours={"p50": GREEN, "p99": RED},
    ),
    Panel(
        "HTTP requests by route and code",
        "What arrives at the door, health checks and scrapes too.",
        {"{{route}} {{code}}": f"sum by (route, code) (rate(darkroom_http_requests_total{HOST}[$__rate_interval]))"},
        unit="reqps",
        width=8,
    ),
)

HOW_BATCHES_FORM = (
    Panel(
        "Images in a batch",
        "Each column is a moment; the darker a cell, the more batches of that size. "
        "An idle server makes batches of 1, load makes larger ones.",
        {"{{le}}": f"sum by (le) ({rate('darkroom_batch_images_bucket')})"},
        width=8,
        kind="heatmap",
    ),
    Panel(
        "Mean and target size",
        "The target is the size with the best measured throughput; with an SLO, the largest that is in time.",
        {
            "mean": mean("darkroom_batch_images"),
            "target {{model}}": f"max by (model) (darkroom_batch_target_images{M})",
        },
        width=8,
    ),
    Panel(
        "Batches by reason",
        "idle: the engine was free. full, bytes, pixels: a limit was reached. slack: the SLO left no more time. "
        "linger: the window closed. retry: the search for a bad picture. drain: the server stops.",
        {"{{reason}}": f"sum by (reason) ({rate('darkroom_batches_total')})"},
        unit="suffix: batches/s",
        width=8,
        is_stacked=True,
    ),
    Panel(
        "Padding",
        "The share of executed rows that only filled a batch up to one of --allowed_batch_sizes.",
        {"padding": f"sum ({rate('darkroom_padding_images_total')}) / sum ({rate('darkroom_batch_images_sum')})"},
        unit="percentunit",
        width=12,
        height=6,
    ),
    Panel(
        "Retries",
        "Engine calls per second spent on finding bad pictures. Above a quarter of all calls: a ticket.",
        {"retries {{model}}": f"sum by (model) ({rate('darkroom_batch_retries_total')})"},
        unit="suffix: calls/s",
        width=12,
        height=6,
    ),
)

PICTURES_AND_PROCESS = (
    Panel(
        "Images by outcome",
        "Rows, not requests: what the engine has to do.",
        {"{{outcome}}": f"sum by (outcome) ({rate('darkroom_images_total')})"},
        unit="suffix: images/s",
        is_stacked=True,
        colours=OUTCOMES,
    ),
    Panel(
        "Bad pictures by reason",
        "base64, format, pixels, bytes: refused at the door. graph: the header was well, the rest did not decode.",
        {"{{reason}}": f"sum by (reason) ({rate('darkroom_poison_images_total')})"},
        unit="suffix: images/s",
        is_stacked=True,
    ),
    Panel(
        "Memory",
        "Resident memory of the serving process, and what TensorFlow uses of a GPU's. "
        "The container's limit is not in it: see docker-compose.yml.",
        {
            "{{instance}}": f"process_resident_memory_bytes{PROCESS}",
            "{{instance}} {{device}} {{kind}}": f"darkroom_device_memory_bytes{HOST}",
        },
        unit="bytes",
    ),
    Panel(
        "CPU",
        "Cores in use. At the container's limit the engine is throttled and every latency grows.",
        {"{{instance}}": f"rate(process_cpu_seconds_total{PROCESS}[$__rate_interval])"},
        unit="suffix: cores",
    ),
    Panel(
        "Requests in flight and open files",
        "Each connection is a file.",
        {
            "in flight": f"sum(darkroom_http_requests_in_flight{HOST})",
            "open files": f"sum(process_open_fds{PROCESS})",
        },
        width=8,
        height=6,
    ),
    Panel(
        "Bytes in and out",
        "Bodies of all routes.",
        {
            "in": f"sum(rate(darkroom_http_request_size_bytes_sum{HOST}[$__rate_interval]))",
            "out": f"sum(rate(darkroom_http_response_size_bytes_sum{HOST}[$__rate_interval]))",
        },
        unit="Bps",
        width=8,
        height=6,
    ),
    Panel(
        "Processes that serve",
        "Those of --workers, or one a server. Absent ones start or are being replaced; the log tells why.",
        {
            "ready": f"sum(max by (instance) ({READY}) or max by (instance) (up{PROCESS}))",
            "absent": f"sum({ABSENT}) or vector(0)",
            "replaced a minute": f"sum(rate(darkroom_worker_restarts_total{HOST}[$__rate_interval])) * 60 or vector(0)",
        },
        width=8,
        height=6,
        colours={"ready": GREEN, "absent": RED, "replaced a minute": AMBER},
    ),
)

ROWS = {
    "Is it well?": IS_IT_WELL,
    "Where does the time go?": WHERE_THE_TIME_GOES,
    "How do batches form?": HOW_BATCHES_FORM,
    "Pictures and the process": PICTURES_AND_PROCESS,
}

"""The panels of the Grafana dashboard, in the order of questions during an incident. `generate.py` writes the JSON."""  # noqa: INP001 - part of a program, not of a package

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
    """One panel: its queries, their unit, and how to read it."""

    title: str
    about: str
    queries: dict[str, str]  # legend → PromQL
    unit: str = "short"
    width: int = 6
    height: int = 8
    kind: str = "timeseries"
    is_stacked: bool = False
    colours: dict[str, str] = field(default_factory=dict)
    steps: tuple[tuple[float, str], ...] = ()  # (value, colour): the colour from this value on


def stat(title: str, about: str, query: str, *, unit: str = "short", steps: dict[float, str] | None = None) -> Panel:
    """Returns a panel with one number; `steps` maps a value to the colour from that value on."""
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
        "docs/operations.md says what each alert means and what to do. Prometheus lists them under /alerts.",
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
        "Model versions that take requests, over all selected instances. 0: none is loaded; the log of the start says why.",
        f"sum({AVAILABLE})",
        steps={0: RED, 1: GREEN},
    ),
    stat("Requests", "Requests per second with any outcome.", f"sum ({REQUESTS})", unit="reqps"),
    stat("p99", "One of a hundred requests took at least this long.", quantile(0.99, LATENCY), unit="s"),
    stat(
        "Failed",
        "Share of requests that failed because of the server. Above 1 % an alert pages.",
        share(SERVER_FAULT, REQUESTS),
        unit="percentunit",
        steps={0: GREEN, 0.001: AMBER, 0.01: RED},
    ),
    stat(
        "Refused",
        "Share of requests that were refused by admission or during a drain, or expired in the queue. Above 5 % an alert pages.",
        share(REFUSED, REQUESTS),
        unit="percentunit",
        steps={0: GREEN, 0.01: AMBER, 0.05: RED},
    ),
    stat(
        "Queue full",
        "The fullest queue, as a share of --max_queue_images. Above 80 % an alert pages.",
        f"max(darkroom_queue_images{M} / darkroom_queue_capacity_images{M})",
        unit="percentunit",
        steps={0: GREEN, 0.5: AMBER, 0.8: RED},
    ),
    Panel(
        "Requests by outcome",
        "Only green requests got a prediction. Purple: an error of the client. Orange and yellow: too much load. "
        "Red: an error of the server.",
        {"{{outcome}}": f"sum by (outcome) ({REQUESTS})"},
        unit="reqps",
        is_stacked=True,
        colours=OUTCOMES,
    ),
    Panel(
        "Latency and SLO",
        "Requests of all outcomes. Refusals are fast, so they lower p50 under overload. SLO 0: none is set.",
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
        "Shares without a prediction",
        "Failed: errors of the server. Refused: too much load. Bad pictures: errors of clients.",
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
        "Images that wait, and how long the oldest has waited. Under load a queue that is never empty is normal; "
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
        "In the order of processing; decode is base64, inspect reads the picture's header. Most requests are in one "
        "batch only, so the height of the stack is close to the latency.",
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
        "Shows which stage makes slow requests slow. The values do not add up: each stage has its own slowest requests.",
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
        "Grows with the batch size. If it grows and batches do not, another program uses the CPU.",
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
        "How late timers of the event loop fire. Every request waits this long several times.",
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
        "All HTTP requests, including health checks and scrapes.",
        {"{{route}} {{code}}": f"sum by (route, code) (rate(darkroom_http_requests_total{HOST}[$__rate_interval]))"},
        unit="reqps",
        width=8,
    ),
)

HOW_BATCHES_FORM = (
    Panel(
        "Images in a batch",
        "Each column is a moment. The darker a cell, the more batches of that size. "
        "An idle server runs batches of 1; under load they grow.",
        {"{{le}}": f"sum by (le) ({rate('darkroom_batch_images_bucket')})"},
        width=8,
        kind="heatmap",
    ),
    Panel(
        "Mean and target size",
        "The target is the size with the best measured throughput, or, with an SLO, the largest that meets it.",
        {
            "mean": mean("darkroom_batch_images"),
            "target {{model}}": f"max by (model) (darkroom_batch_target_images{M})",
        },
        width=8,
    ),
    Panel(
        "Batches by reason",
        "idle: the engine was free. full, bytes, pixels: a limit was reached. slack: the SLO left no more time. "
        "linger: the linger time was over. retry: the search for a bad picture. drain: the server stops.",
        {"{{reason}}": f"sum by (reason) ({rate('darkroom_batches_total')})"},
        unit="suffix: batches/s",
        width=8,
        is_stacked=True,
    ),
    Panel(
        "Padding",
        "Share of executed rows that only fill a batch up to one of --allowed_batch_sizes.",
        {"padding": share(rate("darkroom_padding_images_total"), rate("darkroom_batch_images_sum"))},
        unit="percentunit",
        width=12,
        height=6,
    ),
    Panel(
        "Retries",
        "Engine calls per second that search for bad pictures. Above a quarter of all calls an alert opens a ticket.",
        {"retries {{model}}": f"sum by (model) ({rate('darkroom_batch_retries_total')})"},
        unit="suffix: calls/s",
        width=12,
        height=6,
    ),
)

PICTURES_AND_PROCESS = (
    Panel(
        "Images by outcome",
        "Pictures, not requests: the work of the engine.",
        {"{{outcome}}": f"sum by (outcome) ({rate('darkroom_images_total')})"},
        unit="suffix: images/s",
        is_stacked=True,
        colours=OUTCOMES,
    ),
    Panel(
        "Bad pictures by reason",
        "base64, format, pixels, bytes: refused by the header check. graph: the header was valid, the pixels did not decode.",
        {"{{reason}}": f"sum by (reason) ({rate('darkroom_poison_images_total')})"},
        unit="suffix: images/s",
        is_stacked=True,
    ),
    Panel(
        "Memory",
        "Resident memory of the server's processes, and the GPU memory that TensorFlow uses. "
        "The container's limit is in docker-compose.yml.",
        {
            "{{instance}} {{device}} {{kind}}": f"process_resident_memory_bytes{PROCESS} or darkroom_device_memory_bytes{HOST}"
        },
        unit="bytes",
    ),
    Panel(
        "CPU",
        "Cores in use. At the container's limit the engine is throttled and all latencies grow.",
        {"{{instance}}": f"rate(process_cpu_seconds_total{PROCESS}[$__rate_interval])"},
        unit="suffix: cores",
    ),
    Panel(
        "Requests in flight and open files",
        "Each connection is an open file.",
        {
            "in flight": f"sum(darkroom_http_requests_in_flight{HOST})",
            "open files": f"sum(process_open_fds{PROCESS})",
        },
        width=8,
        height=6,
    ),
    Panel(
        "Bytes in and out",
        "Request and response bodies of all routes.",
        {
            "in": f"sum(rate(darkroom_http_request_size_bytes_sum{HOST}[$__rate_interval]))",
            "out": f"sum(rate(darkroom_http_response_size_bytes_sum{HOST}[$__rate_interval]))",
        },
        unit="Bps",
        width=8,
        height=6,
    ),
    Panel(
        "Serving processes",
        "Workers, or one process per server where there is no supervisor. Absent ones are starting or being replaced; the log says why.",
        {
            "ready": f"sum(max by (instance) ({READY}) or max by (instance) (up{PROCESS}))",
            "absent": f"sum({ABSENT}) or vector(0)",
            "replaced per minute": f"sum(rate(darkroom_worker_restarts_total{HOST}[$__rate_interval])) * 60 or vector(0)",
        },
        width=8,
        height=6,
        colours={"ready": GREEN, "absent": RED, "replaced per minute": AMBER},
    ),
    Panel(
        "Versions by state",
        "Model versions, over all selected instances. START and LOADING: on their way. END: could not be loaded, or was unloaded.",
        {"{{state}}": f"sum by (state) (darkroom_model_state{M})"},
        width=8,
        height=6,
        is_stacked=True,
        colours={"AVAILABLE": GREEN, "LOADING": BLUE, "END": RED},
    ),
    Panel(
        "Failed loads",
        "Tries to load a version that failed, since the version is known. A version that fails beside one that serves opens a ticket.",
        {"{{instance}} {{model}}/{{version}}": f"darkroom_model_load_failures_total{M} > 0"},
        width=8,
        height=6,
    ),
    Panel(
        "Traced requests",
        "sent: the collector has their spans. dropped: too many waited. failed: the collector was away or refused them. "
        "None without OTEL_EXPORTER_OTLP_ENDPOINT.",
        {"{{result}}": f"sum by (result) (rate(darkroom_traces_total{HOST}[$__rate_interval]))"},
        unit="reqps",
        width=8,
        height=6,
        is_stacked=True,
        colours={"sent": GREEN, "dropped": AMBER, "failed": RED},
    ),
)

ROWS = {
    "Is the service healthy?": IS_IT_WELL,
    "Where does the time go?": WHERE_THE_TIME_GOES,
    "How do batches form?": HOW_BATCHES_FORM,
    "Pictures and processes": PICTURES_AND_PROCESS,
}

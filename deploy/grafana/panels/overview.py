"""Is it well, does the budget burn, what is saturated, where does the time go."""

from promql import AVAILABLE, HOST, PROCESS, RECORDED, M, mean, or_zero, quantile, rate, share

from panels import AMBER, BLUE, GREEN, OUTCOMES, PURPLE, QUANTILES, RED, Dashboard, Panel, stat

LATENCY = "darkroom_request_duration_seconds"
REQUESTS = rate("darkroom_requests_total")
ANSWERED = rate("darkroom_requests_total", 'outcome="ok"')
LATE = rate("darkroom_late_requests_total")
SERVER_FAULT = rate("darkroom_requests_total", 'outcome=~"model_error|out_of_memory"')
REFUSED = rate("darkroom_requests_total", 'outcome=~"queue_full|predicted_late|expired|draining"')
GOODPUT = f"sum ({ANSWERED}) - sum ({LATE})"
BURN = {0: GREEN, 1: AMBER, 6: RED}


def burn(objective: str, window: str) -> str:
    """Returns the fastest burn of the selected models; 0 without requests or without an objective."""
    return or_zero(f"max(model:darkroom_{objective}:burn{window}{RECORDED})")


IS_IT_WELL = (
    stat(
        "Alerts firing",
        "docs/operations.md says what each alert means and what to do. Prometheus lists them under /alerts.",
        or_zero('count(ALERTS{alertstate="firing", alertname=~"Darkroom.+"})'),
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
    stat(
        "Goodput",
        "Requests per second that were answered within the SLO; all that were answered, if there is none.",
        GOODPUT,
        unit="reqps",
    ),
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
        "Goodput",
        "Asked: all requests. Answered: those that got a prediction. Good: those that got it within the SLO. Under overload good "
        "should stay level while asked grows.",
        {"asked": f"sum ({REQUESTS})", "answered": f"sum ({ANSWERED})", "good": GOODPUT},
        unit="reqps",
        colours={"asked": BLUE, "answered": AMBER, "good": GREEN},
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
        colours=QUANTILES | {"SLO": BLUE},
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
)

DOES_THE_BUDGET_BURN = (
    stat(
        "Availability",
        "Burn of the last hour; 1 spends the budget of 30 days in 30 days.",
        burn("availability", "1h"),
        steps=BURN,
    ),
    stat("Latency", "Burn of the last hour; 0 without an SLO.", burn("latency", "1h"), steps=BURN),
    Panel(
        "Availability burn",
        "How many times too fast the error budget is spent, of the worst model. Above 14.4 over 1h and 5m, or 6 over 6h and 30m, an "
        "alert pages; above 1 over 3d a ticket opens.",
        {window: burn("availability", window) for window in ("5m", "1h", "6h", "3d")},
        width=9,
        height=7,
    ),
    Panel(
        "Latency burn",
        "The same for answers later than the SLO. 0 without an SLO.",
        {window: burn("latency", window) for window in ("5m", "1h", "6h", "3d")},
        width=9,
        height=7,
    ),
)

WHAT_IS_SATURATED = (
    Panel(
        "Engines",
        "The busy share of the places for engine calls. Near 1 more servers help.",
        {"{{instance}}": f"instance:darkroom_engine_utilisation:ratio{HOST}"},
        unit="percentunit",
    ),
    Panel(
        "Queue full",
        "The fullest queue, as a share of --max_queue_images. Above 80 % an alert pages.",
        {"fullest": f"max(darkroom_queue_images{M} / darkroom_queue_capacity_images{M})"},
        unit="percentunit",
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
    Panel(
        "CPU",
        "Cores in use. At the container's limit the engine is throttled and all latencies grow: dashboard Runtime.",
        {"{{instance}}": f"rate(process_cpu_seconds_total{PROCESS}[$__rate_interval])"},
        unit="suffix: cores",
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
)

DASHBOARD = Dashboard(
    "darkroom",
    "Darkroom",
    "Is the service healthy? If not: how badly, and where to look.",
    {
        "Is the service healthy?": IS_IT_WELL,
        "Is the error budget burning?": DOES_THE_BUDGET_BURN,
        "What is saturated?": WHAT_IS_SATURATED,
        "Where does the time go?": WHERE_THE_TIME_GOES,
    },
)

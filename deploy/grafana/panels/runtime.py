"""The processes: event loop, memory, CPU, workers, devices."""

from promql import HOST, PROCESS, chosen, or_zero, quantile, rate

from panels import AMBER, GREEN, QUANTILES, RED, Dashboard, Panel

READY = "darkroom_workers" + chosen('state="ready"', HOST)
ABSENT = "darkroom_workers" + chosen('state="absent"', HOST)
LAG = "darkroom_event_loop_lag_seconds"
THROTTLED = rate("darkroom_cgroup_cpu_throttled_periods_total", of=HOST)
PERIODS = rate("darkroom_cgroup_cpu_periods_total", of=HOST)

EVENT_LOOP = (
    Panel(
        "Event loop lag",
        "How late timers of the event loop fire. Every request waits this long several times.",
        {"p50": quantile(0.5, LAG, of=HOST), "p99": quantile(0.99, LAG, of=HOST)},
        unit="s",
        colours=QUANTILES,
    ),
    Panel(
        "HTTP requests by route and code",
        "All HTTP requests, including health checks and scrapes.",
        {"{{route}} {{code}}": f"sum by (route, code) ({rate('darkroom_http_requests_total', of=HOST)})"},
        unit="reqps",
    ),
    Panel(
        "Requests in flight and open files",
        "Each connection is an open file.",
        {
            "in flight": f"sum(darkroom_http_requests_in_flight{HOST})",
            "open files": f"sum(process_open_fds{PROCESS})",
        },
    ),
    Panel(
        "Bytes in and out",
        "Request and response bodies of all routes.",
        {
            "in": f"sum({rate('darkroom_http_request_size_bytes_sum', of=HOST)})",
            "out": f"sum({rate('darkroom_http_response_size_bytes_sum', of=HOST)})",
        },
        unit="Bps",
    ),
)

MEMORY_AND_CPU = (
    Panel(
        "Memory of the processes",
        "Resident memory, all processes of a server together.",
        {"{{instance}}": f"process_resident_memory_bytes{PROCESS}"},
        unit="bytes",
    ),
    Panel(
        "Memory and its limit",
        "Of the container or systemd unit, without files that the kernel can drop. At the limit the kernel ends a process. 0: there "
        "is no limit, or none that can be read.",
        {
            "used {{instance}}": or_zero(f"darkroom_cgroup_memory_bytes{HOST}"),
            "limit {{instance}}": or_zero(f"darkroom_cgroup_memory_limit_bytes{HOST}"),
        },
        unit="bytes",
    ),
    Panel(
        "CPU",
        "Cores in use.",
        {"{{instance}}": f"rate(process_cpu_seconds_total{PROCESS}[$__rate_interval])"},
        unit="suffix: cores",
    ),
    Panel(
        "CPU throttling",
        "Share of the quota's periods in which the server was stopped: more threads than the quota has cores. 0 without a quota.",
        {"throttled {{instance}}": or_zero(f"{THROTTLED} / ({PERIODS} > 0)")},
        unit="percentunit",
    ),
)

PROCESSES = (
    Panel(
        "Serving processes",
        "Workers, or one process per server where there is no supervisor. Absent ones are starting or being replaced; the log says why.",
        {
            "ready": f"sum(max by (instance) ({READY}) or max by (instance) (up{PROCESS}))",
            "absent": or_zero(f"sum({ABSENT})"),
            "replaced per minute": or_zero(f"sum({rate('darkroom_worker_restarts_total', of=HOST)}) * 60"),
        },
        colours={"ready": GREEN, "absent": RED, "replaced per minute": AMBER},
    ),
    Panel(
        "Background tasks that failed",
        "Failures since the start; each task was started again. An alert opens a ticket.",
        {"{{task}}": f"sum by (task) (darkroom_task_failures_total{HOST})"},
    ),
    Panel(
        "Traced requests",
        "sent: the collector has their spans. dropped: too many waited. failed: the collector was away or refused them. "
        "None without OTEL_EXPORTER_OTLP_ENDPOINT.",
        {"{{result}}": f"sum by (result) ({rate('darkroom_traces_total', of=HOST)})"},
        unit="reqps",
        is_stacked=True,
        colours={"sent": GREEN, "dropped": AMBER, "failed": RED},
    ),
    Panel(
        "Age of the processes",
        "Seconds since the start of the oldest process of each server: it falls at a restart.",
        {"{{instance}}": f"time() - process_start_time_seconds{PROCESS}"},
        unit="s",
    ),
)

DEVICES = (
    Panel(
        "Engine calls by device",
        "cpu:0 for a model that no GPU runs.",
        {"{{device}}": f"sum by (device) ({rate('darkroom_device_batches_total')})"},
        unit="suffix: batches/s",
        width=8,
        is_stacked=True,
    ),
    Panel(
        "Engines in trouble",
        "Stuck: calls that run far longer than they should. Failing: engines whose calls fail with a known good row. An alert pages.",
        {
            "stuck": or_zero(f"sum(darkroom_engine_stuck{HOST})"),
            "failing": or_zero(f"sum(darkroom_engine_failing{HOST})"),
        },
        width=8,
        colours={"stuck": AMBER, "failing": RED},
    ),
    Panel(
        "GPU memory",
        "What TensorFlow uses of it, now and at its peak. 0 without a GPU.",
        {"memory {{instance}} {{device}} {{kind}}": or_zero(f"darkroom_device_memory_bytes{HOST}")},
        unit="bytes",
        width=8,
    ),
)

DASHBOARD = Dashboard(
    "darkroom_runtime",
    "Darkroom: runtime",
    "Event loop, memory, CPU, workers and devices.",
    {
        "Event loop and HTTP": EVENT_LOOP,
        "Memory and CPU": MEMORY_AND_CPU,
        "Processes": PROCESSES,
        "Devices": DEVICES,
    },
)

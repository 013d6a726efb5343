"""Which versions are served, how they were loaded and rewritten, and who gets the traffic."""

from promql import AVAILABLE, HOST, M, mean, or_zero, rate

from panels import AMBER, BLUE, GREEN, PURPLE, RED, Dashboard, Panel, bars

VERSION = "{{model}}/{{version}}"

WHAT_IS_SERVED = (
    Panel(
        "Versions by state",
        "Model versions, over all selected instances. START and LOADING: on their way. END: could not be loaded, or was unloaded.",
        {"{{state}}": f"sum by (state) (darkroom_model_state{M})"},
        is_stacked=True,
        colours={"AVAILABLE": GREEN, "LOADING": BLUE, "END": RED},
    ),
    Panel(
        "Swaps",
        "Servers on which a version is available: during a swap one rises and another one falls.",
        {VERSION: f"sum by (model, version) ({AVAILABLE})"},
        is_stacked=True,
    ),
    Panel(
        "Requests by version",
        "Which version answered. A new one takes over within a second of its swap, if it is the latest that the policy names.",
        {VERSION: f"sum by (model, version) ({rate('darkroom_requests_total')})"},
        unit="reqps",
        is_stacked=True,
    ),
    Panel(
        "One engine call, mean",
        "A version that is slower than the one before it shows here.",
        {VERSION: mean("darkroom_batch_execution_seconds", by="model, version")},
        unit="s",
    ),
)

HOW_IT_WAS_LOADED = (
    Panel(
        "Failed loads",
        "Tries to load a version that failed, since the version is known. A version that fails beside one that serves opens a ticket.",
        {"{{instance}} " + VERSION: f"darkroom_model_load_failures_total{M}"},
    ),
    bars(
        "Load and warm-up",
        "Seconds of the last load of each version, all its servers and workers averaged. What is in --cache_dir is not prepared again.",
        {
            "load " + VERSION: f"sum by (model, version) (darkroom_model_load_seconds_sum{M}) "
            f"/ (sum by (model, version) (darkroom_model_load_seconds_count{M}) > 0)",
            "warm-up " + VERSION: f"sum by (model, version) (darkroom_model_warmup_seconds_sum{M}) "
            f"/ (sum by (model, version) (darkroom_model_warmup_seconds_count{M}) > 0)",
        },
        unit="s",
        width=6,
    ),
    bars(
        "Rewrites",
        "Servers on which a pass changed the graph and was verified. 0: it did not apply, or did not hold.",
        {"{{pass}}": f"sum by (pass) (darkroom_rewrite_applied{M})"},
        unit="short",
        width=6,
    ),
    Panel(
        "Signatures that are not batched",
        "Their requests run alone, one engine call each. GET /v1/models/NAME says why.",
        {"not batched": or_zero(f"count(darkroom_signature_batched{M} == 0)")},
    ),
)

WHO_GETS_THE_TRAFFIC = (
    Panel(
        "Share by --traffic",
        "The share that each version should get of requests that name none; 0: it should get some and is not served. None without "
        "--traffic.",
        {"share " + VERSION: or_zero(f"max by (model, version) (darkroom_traffic_share{M})")},
        unit="percentunit",
    ),
    Panel(
        "Shadow answers",
        "Images that a shadow got, by how its answer compares. Many dropped ones: the server is rarely idle. None without a shadow.",
        {"shadow {{outcome}}": or_zero(f"sum by (outcome) ({rate('darkroom_shadow_images_total')})")},
        unit="suffix: images/s",
        is_stacked=True,
        colours={"shadow same": GREEN, "shadow different": AMBER, "shadow unranked": PURPLE, "shadow failed": RED},
    ),
    Panel(
        "Shadow's engine time",
        "Engine seconds per second of the shadow's calls, and of calls of the same sizes by the version that answered.",
        {"seconds {{side}}": or_zero(f"sum by (side) ({rate('darkroom_shadow_engine_seconds_total')})")},
        unit="s",
    ),
    Panel(
        "Stores",
        "Models whose store can't be read, and bytes per second that are fetched. 0 without a store.",
        {
            "failing": or_zero(f"sum(darkroom_store_failing{M})"),
            "fetched, B/s": or_zero(f"sum(rate(darkroom_store_fetched_bytes_total{HOST}[$__rate_interval]))"),
        },
    ),
)

DASHBOARD = Dashboard(
    "darkroom_models",
    "Darkroom: models",
    "Versions, their loads, rewrites and swaps.",
    {
        "What is served?": WHAT_IS_SERVED,
        "How was it loaded?": HOW_IT_WAS_LOADED,
        "Who gets the traffic?": WHO_GETS_THE_TRAFFIC,
    },
)

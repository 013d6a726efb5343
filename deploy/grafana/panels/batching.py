"""How batches form, how well the scheduler predicts, and which pictures it gets."""

from promql import M, mean, quantile, rate, share

from panels import OUTCOMES, QUANTILES, Dashboard, Panel

ERROR = "darkroom_predicted_wait_error_seconds"

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
)

HOW_WELL_IT_PREDICTS = (
    Panel(
        "Predicted wait, error",
        "Actual wait minus predicted wait. Above 0: requests waited longer than admission thought. Far below 0: it refuses some "
        "that would have been in time.",
        {
            "p10": quantile(0.1, ERROR),
            "p50": quantile(0.5, ERROR),
            "p90": quantile(0.9, ERROR),
            "p99": quantile(0.99, ERROR),
        },
        unit="s",
        width=8,
        is_signed=True,
        colours=QUANTILES,
    ),
    Panel(
        "Service curve",
        "What an engine call takes now, by its size (images, rounded up to a power of two). A call of 8 should take far less than "
        "eight calls of 1: that is what batching is for.",
        {
            "{{images}}": f"sum by (images) ({rate('darkroom_service_curve_seconds_total')}) "
            f"/ (sum by (images) ({rate('darkroom_service_curve_calls_total')}) > 0)"
        },
        unit="s",
        width=8,
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
        colours=QUANTILES,
    ),
)

WHICH_PICTURES = (
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
        "Retries",
        "Engine calls per second that search for bad pictures. Above a quarter of all calls an alert opens a ticket.",
        {"retries {{model}}": f"sum by (model) ({rate('darkroom_batch_retries_total')})"},
        unit="suffix: calls/s",
    ),
    Panel(
        "Padding",
        "Share of executed rows that only fill a batch up to one of --allowed_batch_sizes.",
        {"padding": share(rate("darkroom_padding_images_total"), rate("darkroom_batch_images_sum"))},
        unit="percentunit",
    ),
)

DASHBOARD = Dashboard(
    "darkroom_batching",
    "Darkroom: batching",
    "How pictures of many requests become engine calls.",
    {
        "How do batches form?": HOW_BATCHES_FORM,
        "How well does the scheduler predict?": HOW_WELL_IT_PREDICTS,
        "Which pictures?": WHICH_PICTURES,
    },
)

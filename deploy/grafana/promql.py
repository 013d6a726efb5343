"""PromQL that several panels share: selectors with the dashboard's variables, rates, means, quantiles, shares."""  # noqa: INP001 - part of a program

M = '{instance=~"$instance", model=~"$model"}'  # series of a model
HOST = '{instance=~"$instance"}'  # series of a server
PROCESS = '{job="darkroom", instance=~"$instance"}'  # series that every Python program has
RECORDED = '{model=~"$model"}'  # series that a recording rule made for each model


def chosen(more: str = "", of: str = M) -> str:
    """Returns the selector `of`, by default the selected instances and models, narrowed by `more`."""
    return of.replace("}", f", {more}}}") if more else of


AVAILABLE = "darkroom_model_state" + chosen('state="AVAILABLE"')  # 1 for each version that takes requests


def rate(counter: str, more: str = "", of: str = M) -> str:
    """Returns a counter's rate on the selected instances and models, narrowed by `more`."""
    return f"rate({counter}{chosen(more, of)}[$__rate_interval])"


def quantile(share: float, histogram: str, by: str = "", of: str = M) -> str:
    """Returns a quantile of a histogram over all selected series, or one for each value of the label `by`.

    Where nothing arrived there is no value: the comparison drops the NaN.
    """
    buckets = rate(histogram + "_bucket", of=of)
    return f"histogram_quantile({share}, sum by ({by + ', ' if by else ''}le) ({buckets})) > -Inf"


def mean(histogram: str, more: str = "", by: str = "") -> str:
    """Returns the mean of the values in a histogram; no value if nothing arrived."""
    head = f"sum by ({by})" if by else "sum"
    return f"{head} ({rate(histogram + '_sum', more)}) / ({head} ({rate(histogram + '_count', more)}) > 0)"


def share(part: str, whole: str) -> str:
    """Returns part / whole: 0 if the part has no series yet, no value if nothing arrived."""
    return f"(sum ({part}) or vector(0)) / (sum ({whole}) > 0)"


def or_zero(expression: str) -> str:
    """Returns the expression, or a line at 0 if it has no series at all."""
    return f"{expression} or on () vector(0)"

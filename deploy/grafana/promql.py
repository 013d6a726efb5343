"""The PromQL that the panels share: selectors of the dashboard's variables, rates, means, quantiles, shares."""  # noqa: INP001 - part of a program

M = '{instance=~"$instance", model=~"$model"}'  # series of a model
HOST = '{instance=~"$instance"}'  # series of a server
PROCESS = '{job="darkroom", instance=~"$instance"}'  # series that every Python program has


def chosen(more: str = "", of: str = M) -> str:
    """The selector of the chosen instances and models, or another one; `more` narrows it."""
    return of.replace("}", f", {more}}}") if more else of


def rate(counter: str, more: str = "") -> str:
    """The counter's rate on the chosen instances and models; `more` narrows it."""
    return f"rate({counter}{chosen(more)}[$__rate_interval])"


def quantile(share: float, histogram: str, by: str = "") -> str:
    """A quantile of a histogram over all chosen series, or of each value of the label `by`."""
    return f"histogram_quantile({share}, sum by ({by + ', ' if by else ''}le) ({rate(histogram + '_bucket')}))"


def mean(histogram: str, more: str = "", by: str = "") -> str:
    """The mean of what a histogram saw."""
    head = f"sum by ({by})" if by else "sum"
    return f"{head} ({rate(histogram + '_sum', more)}) / {head} ({rate(histogram + '_count', more)})"


def share(part: str, whole: str) -> str:
    """A ratio that is 0 where the part has no series yet and nothing where nothing arrived."""
    return f"(sum ({part}) or vector(0)) / sum ({whole})"

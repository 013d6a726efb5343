"""Reads figures from a server's `/metrics`. Standard library only."""

import re


def total(exposition: str, metric: str, labels: str = "") -> float:
    """Returns the sum of a metric over all its series; `labels` is a regular expression that theirs must contain."""
    series = rf"(?m)^{metric}\{{.*{labels}.*\}} (\S+)$" if labels else rf"(?m)^{metric}(?:\{{.*\}})? (\S+)$"
    return sum(map(float, re.findall(series, exposition)))

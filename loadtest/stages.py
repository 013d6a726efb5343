"""The number of users of a shaped load over time: shares of the maximum, each for an equal part of the run."""

# step: up to all users in steps, and down at the end. spike: a tenth of the users, all at once, a tenth again.
SHAPES = {
    "step": (0.1, 0.25, 0.5, 0.75, 1.0, 0.25),
    "spike": (0.1, 0.1, 1.0, 1.0, 0.1, 0.1),
}


def users_at(shape: str, at_s: float, *, length_s: float, most: int) -> int | None:
    """Returns the number of users, at least 1, at `at_s` of a run of `length_s`; None after its end.

    Raises:
        KeyError: there is no such shape.
    """
    shares = SHAPES[shape]
    stage = int(at_s / length_s * len(shares))
    return max(1, round(shares[stage] * most)) if stage < len(shares) else None

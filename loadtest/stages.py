"""How many users a shaped load has at each moment: shares of the most, each for an equal part of the time."""

# In steps up to all, down again at the end; and a tenth of the users, all at once, a tenth again.
SHAPES = {
    "step": (0.1, 0.25, 0.5, 0.75, 1.0, 0.25),
    "spike": (0.1, 0.1, 1.0, 1.0, 0.1, 0.1),
}


def users_at(shape: str, at_s: float, *, length_s: float, most: int) -> int | None:
    """The users at `at_s` of a run of `length_s`, 1 at least; None when it is over.

    Raises:
        KeyError: there is no such shape.
    """
    shares = SHAPES[shape]
    stage = int(at_s / length_s * len(shares))
    return max(1, round(shares[stage] * most)) if stage < len(shares) else None

"""One model: where its versions come from, and what became of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable

    from darkroom.models.versions.folder import Source
    from darkroom.models.versions.policy import Failure, Policy
    from darkroom.service.serving.servable import Servable


class Model:
    """One model: where its versions come from, which of them are wanted, which are served and which failed."""

    def __init__(self, name: str, source: Source, policy: Policy) -> None:
        self.name = name
        self.source = source
        self.policy = policy
        self.is_wanted = True  # until it is unloaded on request
        self.served: dict[int, tuple[Hashable, Servable]] = {}  # version → its stamp when it was loaded, itself
        self.failures: dict[int, Failure] = {}
        self.inflight: dict[str, int] = {}  # signature → calls at once of the version that came last
        self.trouble = ""  # why its source could not be looked into, last time

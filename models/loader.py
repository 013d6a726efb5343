"""Loads SavedModels for a server that goes on serving."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.custom_ops import load_custom_ops
from models.engine import load_model
from models.loaded import LoadedModel


class Loader:
    """Loads the versions of one model; each call blocks for seconds, and belongs in a thread."""

    def __init__(
        self,
        name: str,
        *,
        session_config: Mapping[str, Any],
        custom_op_paths: Sequence[Path],
        intra_op_threads: int,
        inter_op_threads: int,
    ) -> None:
        self._name = name
        self._session_config = session_config
        self._custom_op_paths = custom_op_paths
        self._intra_op_threads = intra_op_threads
        self._inter_op_threads = inter_op_threads

    def load(self, path: Path, version: int) -> LoadedModel:
        """The version at `path`, ready to answer.

        Raises:
            LoadFailed: it cannot be served; the message says why and names no path.
        """
        load_custom_ops(self._custom_op_paths)
        return load_model(
            path,
            name=self._name,
            version=version,
            intra_op_threads=self._intra_op_threads,
            inter_op_threads=self._inter_op_threads,
            session_config=self._session_config,
        )

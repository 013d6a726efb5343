"""What an operator writes: the model config file, the token file, and settings in the environment, one a line."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from darkroom.service.config.model_config import BadSettingsError, read_model_config
from darkroom.service.config.settings import PREFIX, Settings, read_settings
from darkroom.service.config.tokens import Token, read_tokens

FILE = Path(tempfile.mkdtemp(prefix="darkroom-fuzz-")) / "file"
NAMES = [name for name in sorted(Settings.model_fields) if "file" not in name]


def check(data: bytes) -> None:
    """A file or a value that is wrong is told as such; a token file that is read can be written again."""
    FILE.write_bytes(data)
    with suppress(BadSettingsError):
        models = read_model_config(FILE)
        assert models
        assert len({model.name for model in models}) == len(models)
    with suppress(ValueError):
        tokens = read_tokens(FILE)
        FILE.write_text("\n".join(map(Token.line, tokens)), encoding="utf-8")
        assert read_tokens(FILE) == tokens
    text = data.decode("latin-1")
    environment = {}
    for line in text.split("\n"):
        name, _, value = line.partition("=")
        known = NAMES[int(name) % len(NAMES)] if name.isascii() and name.isdigit() and len(name) < 5 else name
        environment[PREFIX + known.upper()] = value
    with suppress(BadSettingsError):
        read_settings({}, environment)

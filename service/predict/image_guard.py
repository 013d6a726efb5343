"""The door: each picture is judged alone, by its header, before it can reach a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from darkroom.models.errors import InvalidInput
from darkroom.service.errors import CodecError, TooLarge
from darkroom.service.predict.image_header import measure

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from darkroom.models.spec import SignatureSpec


class ImageGuard(NamedTuple):
    """The limits of one server, each named after its flag."""

    max_images: int
    max_image_bytes: int
    max_image_pixels: int

    def admit(
        self, pictures: Sequence[bytes], spec: SignatureSpec, field: str, poison: Counter[str]
    ) -> tuple[list[int], list[int]]:
        """The encoded bytes and the decoded pixels of each picture; refused pictures are counted in `poison`.

        Raises:
            TooLarge: a picture, or their number, is over a limit; names `field[index]` and the flag.
            CodecError: a picture is empty or not of a format that the graph decodes; names `field[index]`.
        """
        self.check_count(len(pictures), field)
        pixels = [self.inspect(data, spec, field, index, poison) for index, data in enumerate(pictures)]
        return [len(data) for data in pictures], pixels

    def check_count(self, count: int, field: str) -> None:
        """Lets a request of `count` pictures pass.

        Raises:
            TooLarge: they are too many; names the flag.
        """
        if count > self.max_images:
            raise TooLarge(f"{field}: {count} images are over --max_images={self.max_images}")

    def inspect(self, data: bytes, spec: SignatureSpec, field: str, index: int, poison: Counter[str]) -> int:
        """The decoded pixels of one picture: width x height, read from its header, of all its frames.

        Raises:
            TooLarge, CodecError: as `admit`.
        """
        if len(data) > self.max_image_bytes:
            poison["bytes"] += 1
            limit = self.max_image_bytes
            raise TooLarge(f"{field}[{index}]: {len(data)} bytes are over --max_image_bytes={limit}")
        try:
            kind, width, height, frames = measure(data)
        except InvalidInput as err:
            poison["format"] += 1
            raise CodecError(f"{field}[{index}]: {err}") from err
        if kind not in spec.formats:
            poison["format"] += 1
            takes = ", ".join(sorted(spec.formats))
            raise CodecError(f"{field}[{index}]: is a {kind} picture; this model decodes {takes}")
        if frames > 1 and spec.one_frame:
            poison["format"] += 1
            what = f"an animation of {frames} frames"
            raise CodecError(f"{field}[{index}]: is {what}; this model decodes single pictures")
        pixels = width * height * frames
        if pixels > self.max_image_pixels:
            poison["pixels"] += 1
            raise TooLarge(
                f"{field}[{index}]: {width}x{height} of {frames} frame(s) is {pixels / 1e6:.0f} MP, "
                f"over --max_image_pixels={self.max_image_pixels}"
            )
        return pixels

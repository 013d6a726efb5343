"""The image guard: inspects the header of each image by itself, before the image can reach a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from darkroom.models.errors import InvalidInput
from darkroom.service.errors import BadImage, TooLarge
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

    def check_count(self, count: int, field: str) -> None:
        """Returns if a request may have `count` images.

        Raises:
            TooLarge: they are too many; names the flag.
        """
        if count > self.max_images:
            raise TooLarge(f"{field}: {count} images are over --max_images={self.max_images}")

    def inspect_all(
        self, pictures: Sequence[bytes], spec: SignatureSpec, field: str, poison: Counter[str]
    ) -> list[int]:
        """The decoded pixels of each encoded image; stops at the first that is refused.

        Raises:
            TooLarge, BadImage: as `check_count` and `inspect`.
        """
        self.check_count(len(pictures), field)
        return [self.inspect(data, spec, field, index, poison) for index, data in enumerate(pictures)]

    def inspect(self, data: bytes, spec: SignatureSpec, field: str, index: int, poison: Counter[str]) -> int:
        """The decoded pixels of one encoded image: width x height of all its frames, read from its header.

        A refused image is counted in `poison`, by what is wrong with it.

        Raises:
            TooLarge: over a limit; names `field[index]` and the flag.
            BadImage: empty, or not in a format that the graph decodes; names `field[index]`.
        """
        if len(data) > self.max_image_bytes:
            poison["bytes"] += 1
            limit = self.max_image_bytes
            raise TooLarge(f"{field}[{index}]: {len(data)} bytes are over --max_image_bytes={limit}")
        try:
            kind, width, height, frames = measure(data)
        except InvalidInput as err:
            poison["format"] += 1
            raise BadImage(f"{field}[{index}]: {err}") from err
        if kind not in spec.formats:
            poison["format"] += 1
            takes = ", ".join(sorted(spec.formats))
            raise BadImage(f"{field}[{index}]: is a {kind} picture; this model decodes {takes}")
        if frames > 1 and spec.one_frame:
            poison["format"] += 1
            what = f"an animation of {frames} frames"
            raise BadImage(f"{field}[{index}]: is {what}; this model decodes single pictures")
        pixels = width * height * frames
        if pixels > self.max_image_pixels:
            poison["pixels"] += 1
            raise TooLarge(
                f"{field}[{index}]: {width}x{height} of {frames} frame(s) is {pixels / 1e6:.0f} MP, "
                f"over --max_image_pixels={self.max_image_pixels}"
            )
        return pixels

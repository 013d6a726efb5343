"""The bounds of one batch and of one queue."""

from bisect import bisect_left
from dataclasses import dataclass

_MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a batch and a queue may hold at most.

    Attributes:
        max_batch_images: rows of one engine call. 32: precedent (Triton's and TF Serving's examples).
        max_batch_bytes: encoded bytes of one call; one row alone may be larger. 64 MiB: guess.
        max_batch_pixels: decoded pixels of one call; one row alone may be larger. 200 million, 600 MB as RGB: guess.
        max_queue_images: waiting rows. 2,048: guess, 14 s of EfficientNet-Lite0 on 2 cores.
        max_queue_bytes: encoded bytes of waiting rows. 512 MiB: guess.
        allowed_batch_sizes: ascending; a batch is padded up to one of them (cuDNN). Empty: any size.
        max_inflight_batches: calls that the backend may have at once. 1: safe anywhere; the service measures it at
            warm-up.
        linger_s: how long the first entry may wait for others while the engine is free. 0: measured best for latency.
    """

    max_batch_images: int = 32
    max_batch_bytes: int = 64 * _MEBIBYTE
    max_batch_pixels: int = 200_000_000
    max_queue_images: int = 2048
    max_queue_bytes: int = 512 * _MEBIBYTE
    allowed_batch_sizes: tuple[int, ...] = ()
    max_inflight_batches: int = 1
    linger_s: float = 0.0

    def __post_init__(self) -> None:
        """Checks the bounds.

        Raises:
            ValueError: a bound is out of range; the message names the first.
        """
        for name in ("batch_images", "batch_bytes", "batch_pixels", "queue_images", "queue_bytes", "inflight_batches"):
            if (value := getattr(self, f"max_{name}")) < 1:
                raise ValueError(f"max_{name}={value} must be at least 1")
        if self.linger_s < 0:
            raise ValueError(f"linger_s={self.linger_s} must not be negative")
        sizes = self.allowed_batch_sizes
        if list(sizes) != sorted(set(sizes)) or any(not 1 <= size <= self.max_batch_images for size in sizes):
            raise ValueError(
                f"allowed_batch_sizes={sizes} must ascend, each between 1 and max_batch_images={self.max_batch_images}"
            )

    @property
    def top_images(self) -> int:
        """The most rows that one call may carry: the largest allowed size, if sizes are given."""
        return self.allowed_batch_sizes[-1] if self.allowed_batch_sizes else self.max_batch_images

    def padding(self, images: int) -> int:
        """The rows to add to `images` for an allowed size; 0 if `images` is larger than all of them (a whole entry)."""
        sizes = self.allowed_batch_sizes
        if not sizes or images > sizes[-1]:
            return 0
        return sizes[bisect_left(sizes, images)] - images

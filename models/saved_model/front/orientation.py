r"""The EXIF orientation of a JPEG, read in the graph, and turning a picture upright. TensorFlow's decoders ignore it.

JPEG: segments of `FF`, marker, length. The segment `FF E1` with "Exif\0\0" holds a TIFF file, whose first directory has
12 bytes an entry: tag, type, count, value. Orientation is tag 0x0112 (EXIF 2.32, 4.6.4).
"""

from __future__ import annotations

from typing import Any

from darkroom.models.runtime.tensorflow import tf
from darkroom.models.saved_model.front.geometry import APP1, ENTRIES, EXIF, HEAD_BYTES, SEGMENTS, TAG


def orientation(data: Any) -> Any:
    """Returns the orientation of one encoded picture, 1 to 8; 1 where it says none: `string[]` → `int32[]`."""
    # `==` of tensors is the identity of Python objects in a tf.Graph of a session, so everything here is tf.equal.
    # At least one byte, or there would be nothing to gather.
    head = tf.io.decode_raw(tf.strings.join([tf.strings.substr(data, 0, HEAD_BYTES), b"\0"]), tf.uint8)
    last = tf.size(head) - 1

    def number(at: Any, count: int, *, little: Any = False) -> Any:
        """The unsigned number of `count` bytes at each place `at`; beyond the end are zeros."""
        places = at[..., tf.newaxis] + tf.range(count)
        found = tf.cast(tf.gather(head, tf.clip_by_value(places, 0, last)), tf.int32)
        powers = tf.constant([256**power for power in reversed(range(count))])
        return tf.reduce_sum(tf.where(little, found[..., ::-1], found) * powers, -1)

    def is_before_exif(start: Any) -> Any:
        is_segment = tf.logical_and(tf.equal(number(start, 1), 0xFF), number(start + 1, 1) >= 0xE0)
        is_exif = tf.logical_and(tf.equal(number(start + 1, 1), APP1), tf.equal(number(start + 4, 4), EXIF))
        return tf.logical_and(start < last, tf.logical_and(is_segment, tf.logical_not(is_exif)))

    (start,) = tf.while_loop(
        is_before_exif,
        lambda start: (start + 2 + number(start + 2, 2),),
        (tf.constant(2),),
        maximum_iterations=SEGMENTS,
    )
    has_exif = tf.logical_and(tf.equal(number(start + 1, 1), APP1), tf.equal(number(start + 4, 4), EXIF))
    is_jpeg = tf.equal(number(tf.constant(0), 2), 0xFFD8)
    tiff = start + 10
    little = tf.equal(number(tiff, 1), 0x49)
    directory = tiff + number(tiff + 4, 4, little=little)
    entries = directory + 2 + 12 * tf.range(ENTRIES)
    is_tag = tf.equal(number(entries, 2, little=little), TAG)
    is_wanted = tf.logical_and(is_tag, tf.range(ENTRIES) < number(directory, 2, little=little))
    found = tf.reduce_max(tf.where(is_wanted, number(entries + 8, 2, little=little), 0))
    is_known = tf.logical_and(found >= 1, found <= 8)
    return tf.where(tf.logical_and(tf.logical_and(is_jpeg, has_exif), is_known), found, 1)


def upright(pixels: Any, oriented: Any) -> Any:
    """Returns a picture `[height, width, channels]` as a viewer shows it."""

    def turned(*, swaps: bool, axes: list[int]) -> Any:
        swapped = tf.transpose(pixels, [1, 0, 2]) if swaps else pixels
        return tf.reverse(swapped, axes) if axes else swapped

    # For each orientation: whether rows become columns, and the axes that are then mirrored.
    turns: tuple[tuple[bool, list[int]], ...] = (
        *((False, axes) for axes in ([], [1], [0, 1], [0])),
        *((True, axes) for axes in ([], [1], [0, 1], [0])),
    )
    made = [lambda swaps=swaps, axes=axes: turned(swaps=swaps, axes=axes) for swaps, axes in turns]
    return tf.switch_case(oriented - 1, made)

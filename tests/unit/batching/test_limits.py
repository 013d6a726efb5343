import pytest

from darkroom.batching.limits import Limits


def test_padding_fills_up_to_the_next_allowed_size() -> None:
    limits = Limits(allowed_batch_sizes=(1, 4, 8))
    assert [limits.padding(images) for images in (1, 2, 4, 5, 8)] == [0, 2, 0, 3, 0]


def test_without_allowed_sizes_nothing_is_padded() -> None:
    assert Limits().padding(5) == 0


def test_a_whole_entry_past_the_largest_allowed_size_is_not_padded() -> None:
    assert Limits(allowed_batch_sizes=(1, 4)).padding(5) == 0


def test_no_batch_is_larger_than_the_largest_allowed_size() -> None:
    assert Limits(max_batch_images=32, allowed_batch_sizes=(1, 8)).top_images == 8
    assert Limits(max_batch_images=32).top_images == 32


@pytest.mark.parametrize(
    "name",
    [
        "max_batch_images",
        "max_batch_bytes",
        "max_batch_pixels",
        "max_queue_images",
        "max_queue_bytes",
        "max_inflight_batches",
    ],
)
def test_a_bound_below_one_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}=0"):
        Limits(**{name: 0})  # type: ignore[arg-type]  # each of them is a number


def test_a_negative_linger_is_refused() -> None:
    with pytest.raises(ValueError, match="linger_s=-1"):
        Limits(linger_s=-1)


@pytest.mark.parametrize("sizes", [(4, 1), (1, 1), (0, 4), (4, 64)])
def test_allowed_sizes_must_ascend_within_the_batch(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="allowed_batch_sizes"):
        Limits(max_batch_images=32, allowed_batch_sizes=sizes)

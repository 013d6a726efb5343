from darkroom.batching.scheduler.poison_cache import PoisonCache


def test_a_guilty_row_is_remembered_for_its_time_and_no_longer() -> None:
    memory, error = PoisonCache(ttl_s=60), ValueError("bad")
    memory.add("row", error, now=0.0)
    assert not memory.is_empty(now=59.9)
    assert memory.find("row") is error
    assert memory.is_empty(now=60.0)
    assert memory.find("row") is None


def test_the_oldest_is_forgotten_first_when_there_are_too_many() -> None:
    memory = PoisonCache(rows=2)
    for number, name in enumerate("abc"):
        memory.add(name, ValueError(name), now=float(number))
    assert memory.find("a") is None
    assert str(memory.find("c")) == "c"


def test_a_row_that_is_guilty_again_is_the_youngest_again() -> None:
    memory = PoisonCache(ttl_s=60, rows=2)
    for now, name in enumerate(["a", "b", "a", "c"]):
        memory.add(name, ValueError(name), now=float(now))
    assert memory.find("a") is not None
    assert memory.find("b") is None

"""The engines that are shipped for tests do what they say."""

import subprocess
import sys
from zlib import crc32

import numpy as np
import pytest

from darkroom.models.engines.fakes import EchoEngine, FailingEngine, SlowEngine, fake_model
from darkroom.models.errors import InvalidInput
from darkroom.models.rows import Rows

ROWS = Rows({"images": [b"one", b"three"]})


def test_echo_tells_the_length_and_the_checksum_of_each_picture() -> None:
    answer = EchoEngine().run(ROWS)
    assert np.asarray(answer.columns["length"]).tolist() == [3, 5]
    assert np.asarray(answer.columns["digest"]).tolist() == [crc32(b"one"), crc32(b"three")]


def test_echo_computes_only_what_is_asked() -> None:
    assert set(EchoEngine().run(ROWS.asking(["length"])).columns) == {"length"}


def test_slow_waits_as_long_as_its_batch_is_large() -> None:
    waited: list[float] = []
    SlowEngine(EchoEngine(), lambda rows: rows * 0.5, sleep=waited.append).run(ROWS)
    assert waited == [1.0]


def test_failing_refuses_a_batch_with_a_guilty_picture_and_takes_any_other() -> None:
    engine = FailingEngine(EchoEngine(), lambda picture: picture == b"three")
    with pytest.raises(InvalidInput):
        engine.run(ROWS)
    assert len(engine.run(ROWS.cut(0, 1))) == 1


def test_the_fake_model_is_one_version_with_one_signature() -> None:
    model = fake_model(name="toy", version=3)
    assert (model.spec.name, model.spec.version, list(model.engines)) == ("toy", 3, ["serving_default"])
    model.close()


def test_the_fakes_need_no_tensorflow() -> None:
    program = "import sys, darkroom.models.engines.fakes, darkroom.models.engines.runner, darkroom.service.predict.image_guard; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0

"""What an operator reads of a version that came."""

from models.fake import fake_model
from service.servable import story


def test_the_story_of_a_version_names_the_devices_of_each_signature() -> None:
    model = fake_model()
    assert "batched=True devices=cpu:0 " in str(story(model)["serving_default"])
    model.replicas = {"serving_default": dict.fromkeys(("gpu:0", "gpu:1"), model.engines["serving_default"])}
    assert "batched=True devices=gpu:0,gpu:1 " in str(story(model)["serving_default"])

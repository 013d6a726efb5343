"""What an output is, by its name, its shape and what is known of its values, or as the operator says."""

from __future__ import annotations

from typing import Any

import pytest

from darkroom.models.errors import LoadFailed
from darkroom.models.saved_model.output_kinds import OutputSaid, check_said, kinds_of, read_said
from darkroom.models.spec import ModelSpec, PictureFit, SignatureSpec, TensorSpec

LABELS = tuple("abcde")
PICTURES = (TensorSpec("images", "string", (None,)),)


def signature(
    *outputs: TensorSpec, image_input: str | None = "images", front: PictureFit | None = None
) -> SignatureSpec:
    return SignatureSpec("serving_default", PICTURES, outputs, image_input=image_input, front=front)


def output(name: str, *shape: int | None, dtype: str = "float32", activation: str = "") -> TensorSpec:
    return TensorSpec(name, dtype, shape, activation=activation)


@pytest.mark.parametrize(
    ("tensor", "labels", "kind"),
    [
        (output("output_0", None, 1000, activation="softmax"), (), "scores"),
        (output("output_0", None, 1000, activation="linear"), (), "scores"),
        (output("x", None, 5), LABELS, "scores"),
        (output("x", None, 7, 5), LABELS, "scores"),
        (output("x", 5), LABELS, "scores"),
        (output("embedding", None, 5), LABELS, "embedding"),
        (output("feature_vector", None, 1280), (), "embedding"),
        (output("x", None, 1280), LABELS, "embedding"),
        (output("x", None, 4), LABELS, "numbers"),
        (output("age", None, 1), (), "numbers"),
        (output("predict", None, dtype="int64"), LABELS, "numbers"),
        (output("name", None, dtype="string"), LABELS, "text"),
        (output("mask", None, 64, 64, 21), (), "mask"),
        (output("mask", None, None, None, 2), (), "mask"),
        (output("map", None, 64, 64, dtype="int32"), (), "mask"),
        (output("block5", None, 7, 7, 512), (), "numbers"),
        (output("y", None, 64, 64, 3), (), "image"),
        (output("y", None, 64, 64, 1, dtype="uint8"), (), "image"),
        (output("boxes", None, 100, 4), (), "numbers"),
        (TensorSpec("any", "float32", None), LABELS, "numbers"),
    ],
)
def test_the_kind_is_what_name_shape_and_values_show(tensor: TensorSpec, labels: tuple[str, ...], kind: str) -> None:
    found = kinds_of(signature(tensor), labels)[tensor.name]
    assert found.kind == kind
    assert found.has_labels == (kind == "scores" and bool(labels))
    assert found.forms[:2] == ("numbers", "base64")


def test_logits_are_said_as_such_and_only_they_have_a_softmax() -> None:
    tensors = [output(each, None, 5, activation=each) for each in ("softmax", "sigmoid", "linear")]
    kinds = kinds_of(signature(*tensors, output("unknown", None, 5)), LABELS)
    assert {name: kind.describe()["values"] for name, kind in kinds.items()} == {
        "softmax": "softmax", "sigmoid": "sigmoid", "linear": "logits", "unknown": "unknown",
    }  # fmt: skip
    assert [name for name, kind in kinds.items() if "softmax" in kind.forms] == ["linear", "unknown"]


DETECTION = (
    output("detection_boxes", None, 100, 4),
    output("detection_scores", None, 100),
    output("detection_classes", None, 100),
    output("num_detections", None),
)


def test_a_detection_is_known_by_the_names_of_tensorflow_s_object_detection() -> None:
    kinds = kinds_of(signature(*DETECTION, front=PictureFit((3, 4), "pad")), LABELS)
    assert kinds["detection_boxes"].describe() == {
        "kind": "boxes",
        "as": ["numbers", "base64", "pixels", "objects"],
        "default": "numbers",
        "scores": "detection_scores",
        "classes": "detection_classes",
        "count": "num_detections",
        "order": "yxyx",
        "unit": "normalised",
        "first_class": 1,
    }
    assert {kinds[each.name].kind for each in DETECTION[1:]} == {"detection"}
    assert kinds["detection_scores"].describe()["boxes"] == "detection_boxes"
    detection = kinds["detection_boxes"].detection
    assert detection is not None
    assert detection.fit == PictureFit((3, 4), "pad")


def test_labels_that_begin_with_a_background_begin_at_class_0() -> None:
    detection = kinds_of(signature(*DETECTION), ("???", "a"))["detection_boxes"].detection
    assert detection is not None
    assert detection.first_class == 0


def test_the_labels_are_not_those_of_as_many_boxes() -> None:
    boxes, scores = output("detection_boxes", None, 5, 4), output("detection_scores", None, 5)
    assert not kinds_of(signature(boxes, scores), LABELS)["detection_scores"].has_labels


def test_boxes_of_a_signature_without_encoded_pictures_have_no_pixels() -> None:
    kind = kinds_of(signature(*DETECTION, image_input=None), ())["detection_boxes"]
    assert kind.forms == ("numbers", "base64")
    assert "encoded pictures" in kind.why_not("objects")


def said(**outputs: dict[str, Any]) -> dict[str, OutputSaid]:
    return read_said(outputs)


def test_what_the_operator_says_wins() -> None:
    tensors = (
        output("b", None, 9, 4),
        output("s", None, 9),
        output("m", None, 64, 64, 3),
        output("f", None, dtype="string"),
    )
    told = said(
        b={"kind": "boxes", "scores": "s", "order": "xyxy", "unit": "pixels", "size": [320, 320], "fit": "pad", "as": "objects"},
        m={"kind": "mask", "as": "png"},
        f={"kind": "image"},
    )  # fmt: skip
    kinds = kinds_of(signature(*tensors), (), told)
    assert {name: (kind.kind, kind.default) for name, kind in kinds.items()} == {
        "b": ("boxes", "objects"), "s": ("detection", "numbers"), "m": ("mask", "png"), "f": ("image", "numbers"),
    }  # fmt: skip
    assert kinds["b"].detection is not None
    assert kinds["b"].detection.fit == PictureFit((320, 320), "pad")
    assert "png" in kinds["f"].forms


def test_an_image_without_a_range_has_no_png_and_says_how_it_gets_one() -> None:
    tensors = [output(each, None, 64, 64, 3, activation=each) for each in ("", "sigmoid", "tanh")]
    plain, sigmoid, tanh = kinds_of(signature(*tensors), ()).values()
    assert "png" not in plain.forms
    assert '"range": [0, 1]' in plain.why_not("png")
    assert [sigmoid.range, tanh.range] == [(0, 1), (-1, 1)]
    wide = kinds_of(signature(tensors[0]), (), {"": OutputSaid(kind="image", range=(0.0, 255.0))})
    assert "png" in wide[""].forms


def test_an_output_that_no_signature_has_fails_the_load() -> None:
    specs = {"one": signature(output("y", None, 5)), "two": signature(output("z", None, 5))}
    model = ModelSpec("m", 1, specs)
    check_said(model, said(z={"kind": "embedding"}))
    with pytest.raises(LoadFailed, match="there is no output 'x'; there are: y, z"):
        check_said(model, said(x={}))


def test_a_form_that_one_signature_has_is_left_out_in_others_and_one_that_none_has_fails_the_load() -> None:
    specs = {"pictures": signature(*DETECTION), "tensors": signature(*DETECTION, image_input=None)}
    told = said(detection_boxes={"as": "objects"})
    check_said(ModelSpec("m", 1, specs), told)
    forms = [kinds_of(each, (), told)["detection_boxes"].default for each in specs.values()]
    assert forms == ["objects", "numbers"]
    with pytest.raises(
        LoadFailed, match="as: an output of the kind 'boxes' has numbers, base64, not 'objects': the sig"
    ):
        check_said(ModelSpec("m", 1, {"tensors": specs["tensors"]}), told)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("mask", "expected an object"),
        ({"king": "mask"}, "unknown key 'king'; is kind meant? There are: kind, as, "),
        ({"kind": "masks"}, "kind: 'masks' isn't one of scores, boxes, "),
        ({"as": "jpeg"}, "as: 'jpeg' isn't one of numbers, base64, "),
        ({"as": ["png"]}, "as: "),
        ({"range": [0, 1]}, "range: is for an output of the kind 'image'"),
        ({"kind": "image", "range": [1, 0]}, "range: "),
        ({"kind": "image", "range": 1}, "range: "),
        ({"kind": "boxes", "fit": "pad"}, "fit: 'pad' needs size"),
        ({"kind": "boxes", "size": [0, 1]}, "size: "),
        ({"kind": "boxes", "order": "yx"}, "order: "),
        ({"kind": "boxes", "first_class": True}, "first_class: "),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_output_and_the_key(told: Any, words: str) -> None:
    with pytest.raises(ValueError, match=r"'?y'?: ") as refusal:
        read_said({"y": told})
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"kind": "boxes"}, r"float32\[-1, 5\] is no boxes"),
        ({"kind": "image"}, r"float32\[-1, 5\] is no image"),
        ({"kind": "text"}, r"float32\[-1, 5\] is no text"),
    ],
)
def test_what_does_not_go_with_the_output_fails_the_load(told: dict[str, Any], words: str) -> None:
    with pytest.raises(LoadFailed, match=f"--outputs: output 'y': {words}"):
        kinds_of(signature(output("y", None, 5)), (), said(y=told))


def test_boxes_name_outputs_that_exist_and_pixels_need_a_size() -> None:
    boxes = output("b", None, 9, 4)
    with pytest.raises(LoadFailed, match="there is no output 's', only b"):
        kinds_of(signature(boxes), (), said(b={"kind": "boxes", "scores": "s"}))
    with pytest.raises(LoadFailed, match="need its size"):
        kinds_of(signature(boxes), (), said(b={"kind": "boxes", "unit": "pixels"}))

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from darkroom.service.api.tensorflow_serving import paths as addresses
from darkroom.service.api.tensorflow_serving.paths import Address
from darkroom.service.errors import CodecError

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(NAMES, NAMES, st.integers(0, 2**63 - 1), st.sampled_from(["predict", "classify", "regress"]))
def test_a_name_of_any_letters_comes_back_from_its_path(model: str, label: str, version: int, act: str) -> None:
    at = f"/v1/models/{quote(model, safe='')}"
    assert addresses.posted(f"{at}:{act}") == Address(model, None, None, act, f"/v1/models/NAME:{act}")
    by_version = addresses.posted(f"{at}/versions/00{version}:{act}")
    assert by_version == Address(model, version, None, act, f"/v1/models/NAME/versions/VERSION:{act}")
    by_label = addresses.read(f"{at}/labels/{quote(label, safe='')}/metadata")
    assert by_label == Address(model, None, label, "metadata", "/v1/models/NAME/labels/LABEL/metadata")


@given(st.text(max_size=60), st.sampled_from(["", "/v1/models/", "/v1/models/a/versions/", "/v1/models/a/labels/"]))
def test_any_path_is_an_address_or_none_or_a_version_that_is_no_number(text: str, start: str) -> None:
    for parse in (addresses.posted, addresses.read):
        try:
            address = parse(start + text)
        except CodecError as err:
            assert "Failed to convert version" in str(err)  # noqa: PT017 - both ends are right
        else:
            assert address is None or address.template in {template for _, template in addresses.ROUTES}


def test_the_words_are_taken_in_any_case_and_the_names_and_acts_as_they_are() -> None:
    address = addresses.posted("/V1/mOdels/ABC/Labels/Def:predict")
    assert address is not None
    assert (address.model, address.label) == ("ABC", "Def")
    assert addresses.posted("/v1/models/ABC:Predict") is None
    read = addresses.read("/v1/MODELS/ABC/METADATA")
    assert read is not None
    assert read.act == "metadata"


@pytest.mark.parametrize("method_and_template", addresses.ROUTES, ids=" ".join)
def test_every_route_is_what_its_own_example_is_read_as(method_and_template: tuple[str, str]) -> None:
    method, template = method_and_template
    path = template.replace("NAME", "x").replace("VERSION", "1").replace("LABEL", "y")
    address = (addresses.posted if method == "POST" else addresses.read)(path)
    assert address is not None
    assert address.template == template

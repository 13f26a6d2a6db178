"""Finding the model in a body."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aitherd.proxy.bodies import FormModel, json_model, json_renamed
from aitherd.proxy.refusals import BadRequest, WrongMediaType

TYPE = b"multipart/form-data; boundary=XX"
FORM = (
    b'preamble\r\n--XX\r\nContent-Disposition: form-data; name="file"; filename="model; name=\\"model\\""\r\n'
    b'Content-Type: audio/wav\r\n\r\n--X --XY\r\n\r\nname="model"\r\n-\r\n--XX\r\n'
    b"content-disposition: form-data; name=model\r\n\r\nwhisper-1\r\n--XX\r\n"
    b'Content-Disposition: form-data; name="language"\r\n\r\nen\r\n--XX--\r\n'
)


def test_the_last_of_several_models_counts_and_one_is_left() -> None:
    body = b'{"model":"a","model":"b","x":[1.50,"\xc3\xa9"]}'
    assert json_model(body) == "b"
    renamed = json_renamed(body, 'c"d')
    assert renamed == b'{"model":"c\\"d","x":[1.50,"\xc3\xa9"]}'
    assert msgspec.json.decode(renamed)["model"] == 'c"d'


@given(st.binary())
def test_any_bytes_are_a_body_or_a_bad_request(body: bytes) -> None:
    try:
        json_model(body)
    except BadRequest:
        return
    assert isinstance(msgspec.json.decode(body), dict)


@given(st.lists(st.integers(0, len(FORM))))
def test_a_form_is_read_the_same_however_it_is_cut(cuts: list[int]) -> None:
    form = FormModel(TYPE)
    edges = [0, *sorted(cuts), len(FORM)]
    fed = 0
    for start, stop in itertools.pairwise(edges):
        fed = stop
        if form.feed(FORM[start:stop]):
            break
    assert form.model == "whisper-1"
    assert form.taken() == FORM[:fed]
    assert form.taken("large") == FORM[:fed].replace(b"whisper-1", b"large")
    assert len(form) == fed


@given(
    st.binary(), st.lists(st.sampled_from([b"--XX", b"\r\n", b"name=model", b"\r\n\r\n", b'form-data; name="model"']))
)
def test_any_form_is_found_wanting_at_worst(noise: bytes, pieces: list[bytes]) -> None:
    form = FormModel(TYPE)
    try:
        for piece in [noise, *pieces, noise]:
            if form.feed(piece):
                break
    except BadRequest:
        return
    assert form.model is None or form.taken()


@pytest.mark.parametrize(
    "text",
    [b"--XX\r\n" + b"X: y\r\n" * 3000, b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\n' + b"x" * 3000],
)
def test_a_part_without_end_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequest):
        FormModel(TYPE).feed(text)


@pytest.mark.parametrize(
    "content_type", [b"", b"application/json", b"multipart/form-data", b"multipart/mixed; boundary=x"]
)
def test_only_forms_are_forms(content_type: bytes) -> None:
    with pytest.raises(WrongMediaType):
        FormModel(content_type)

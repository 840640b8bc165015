import json

import pytest

from train_lm.checked.digests import SEAL, sealed, unsealed, verify
from train_lm.checked.records import Fields, parse_json


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1', "got Expecting"),
        (b'{"a": "\xff"}', "expected UTF-8 in card.json, got byte 0xff"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": 1, "b": {"a": 1, "a": 2}}', "the key 'a' twice"),
        (b"1" * 5000, "limit"),
        (b'{"a": 1}'.decode().encode("utf-16"), "UTF-8"),
    ],
)
def test_what_is_no_json_is_one_error_that_names_its_place(text: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_json(text, "card.json")
    assert "card.json" in str(caught.value)


def test_fields_are_read_by_type_and_range() -> None:
    card = {"n": 3, "x": 0.5, "t": "text", "flag": True, "ns": [1, 2], "xs": [1, 0.5], "none": None}
    fields = Fields.of({**card, "inner": card, "inners": [card]}, "card.json", "make it again")
    assert (fields.whole("n"), fields.number("x"), fields.number("n")) == (3, 0.5, 3.0)
    assert (fields.text("t"), fields.flag("flag")) == ("text", True)
    assert (fields.wholes("ns"), fields.numbers("xs")) == ([1, 2], [1.0, 0.5])
    assert fields.or_none("none", fields.text) is None
    assert fields.inner("inner").whole("n") == fields.inners("inners")[0].whole("n") == 3


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (True, "whole"),
        (-1, "whole"),
        (2**64, "whole"),
        (1.0, "whole"),
        ("1", "whole"),
        (True, "number"),
        (float("nan"), "number"),
        (float("inf"), "number"),
        (10**400, "number"),
        (None, "number"),
        (1, "text"),
        (1, "flag"),
        ([1, True], "wholes"),
        ({"a": 1}, "wholes"),
        ([0.5, float("nan")], "numbers"),
        (["a", 1], "texts"),
        ([], "inner"),
        ([1], "inners"),
    ],
)
def test_a_field_of_another_kind_is_refused_by_name(value: object, read: str) -> None:
    fields = Fields.of({"a": value}, "card.json", "make it again")
    for name in ("a", "missing"):
        with pytest.raises(ValueError, match=rf"{name}.*card\.json.*make it again"):
            getattr(fields, read)(name)


def test_no_object_has_no_fields() -> None:
    with pytest.raises(ValueError, match=r"expected an object in card\.json, got a list"):
        Fields.of([1], "card.json")


def test_a_seal_tells_any_change() -> None:
    value = {"b": (1, 2), "a": {3: 0.1}, "none": None}
    text = json.dumps(sealed(value))
    assert unsealed(json.loads(text), "card.json") == {"b": [1, 2], "a": {"3": 0.1}, "none": None}
    found = json.loads(text)
    for name in value:
        for wrong in ({**found, name: 5}, {k: v for k, v in found.items() if k != name}):
            with pytest.raises(ValueError, match=r"card\.json as it was written"):
                unsealed(wrong, "card.json")
    older = {k: v for k, v in found.items() if k != SEAL}
    assert unsealed(older, "card.json") == older


def test_a_file_is_read_again_when_it_was_changed(tmp_path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert verify(file, sha256)
    assert verify(file, sha256)
    file.write_bytes(b"abd")
    assert not verify(file, sha256)

"""Tensors as bytes: the very bytes of the safetensors library, read without a copy, and nothing else is ever read."""

import json
import struct
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from agentkd import canonical
from agentkd.errors import ContractError, RemoteProtocolError, Rule
from agentkd.knowledge import tensors


@settings(max_examples=200)
@given(data=st.data())
def test_our_safetensors_bytes_are_those_of_the_library_and_come_back_equal(data) -> None:
    dtypes = st.sampled_from(list(tensors.DTYPES.values()))
    shapes = st.lists(st.integers(0, 4), max_size=4)
    names = st.text("abcxyz0189._", min_size=1, max_size=8)
    described = data.draw(st.dictionaries(names, st.tuples(dtypes, shapes), max_size=8))
    made = {name: (torch.randn(shape) * 3).to(dtype) for name, (dtype, shape) in described.items()}
    metadata = data.draw(st.none() | st.just({"kind": "weights", "n": 1, "of": "Zürich"}))
    told = {tensors.METADATA_KEY: canonical.encode(metadata).decode()} if metadata else None
    encoded = tensors.encode(made, metadata)
    assert encoded == save(made, metadata=told)
    scattered = {name: value.T.contiguous().T if value.dim() == 2 else value for name, value in made.items()}
    assert tensors.encode(scattered, metadata) == encoded, "wherever the numbers lie"
    assert tensors.digest(scattered, metadata) == canonical.digest_bytes(encoded)
    back = tensors.decode(encoded)
    assert back.keys() == made.keys() and all(torch.equal(back[name], made[name]) for name in made)
    assert all(back[name].shape == made[name].shape and back[name].dtype == made[name].dtype for name in made)


@settings(max_examples=300)
@given(data=st.data())
def test_a_safetensors_file_with_a_flipped_octet_is_decoded_or_refused(data) -> None:
    encoded = bytearray(tensors.encode({"a": torch.ones(3), "b": torch.zeros(2, 2, dtype=torch.float16)}, {"kind": "x"}))
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        tensors.decode(encoded)
    except RemoteProtocolError:
        return


def raw(header: Any, data: bytes = b"", *, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": list(offsets)} | more


ONE, NAN = struct.pack("<f", 1.0), struct.pack("<f", float("nan"))


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\0" * 7, "shorter than"),
        (b"\0" * 8, "malformed"),
        (raw({}, size=1), "malformed"),
        (raw({}, size=3), "over its limit or not there"),
        (raw(b"{" * 9), "malformed"),
        (raw(b'{"a":1,"a":1}'), "a name stands twice"),
        (raw([]), "not a map"),
        (raw({"__metadata__": 3}), "not a map"),
        (raw({"a b": entry()}, ONE), "name 'a b' is not allowed"),
        (raw({"a" * 201: entry()}, ONE), "is not allowed"),
        (raw({"a": 3}), "described wrongly"),
        (raw({"a": entry(more=1)}, ONE), "described wrongly"),
        (raw({"a": entry("F8")}, ONE), "unknown number type"),
        (raw({"a": entry(["F32"])}, ONE), "unknown number type"),
        (raw({"a": entry({"F32": 1})}, ONE), "unknown number type"),
        (raw({"a": entry(None)}, ONE), "unknown number type"),
        (raw({"a": entry(shape=(10**400,))}, ONE), "malformed"),
        (raw({"a": entry(shape={"0": 1})}, ONE), "impossible shape"),
        (raw({"a": entry(shape=(1.0,))}, ONE), "impossible shape"),
        (raw(b'{"a":' + b"[" * 900 + b"]" * 900 + b"}"), "malformed"),
        (raw(b"[" * 500_000), "malformed"),
        (raw(b'{"a\\ud800":1}'), "malformed"),
        (raw(b'{"a":NaN}'), "malformed"),
        (raw(b"\xff{}"), "malformed"),
        (raw({"a": entry(shape=(-1,))}, ONE), "impossible shape"),
        (raw({"a": entry(shape=(True,))}, ONE), "impossible shape"),
        (raw({"a": entry(shape="1")}, ONE), "impossible shape"),
        (raw({"a": entry(shape=(1,) * 9)}, ONE), "rank above 8"),
        (raw({"a": entry(offsets=(0, 4, 4))}, ONE), "impossible shape or place"),
        (raw({"a": entry(offsets=(0, 2**48))}, ONE), "impossible shape or place"),
        (raw({"a": entry(shape=(2**24, 2**24, 0), offsets=(0, 0))}), "impossible shape"),
        (raw({"a": entry(offsets=(0, 8))}, ONE + ONE), "does not stand where"),
        (raw({"a": entry(offsets=(4, 8))}, ONE + ONE), "does not stand where"),
        (raw({"a": entry(), "b": entry(offsets=(0, 4))}, ONE), "does not stand where"),
        (raw({"a": entry()}, ONE[:3]), "does not stand where"),
        (raw({"a": entry()}, ONE + b"x"), "1 octets after"),
        (raw({"a": entry()}, NAN), "'a' holds NaN"),
    ],
)
def test_what_is_no_file_of_tensors_is_refused_with_the_reason(data: bytes, text: str) -> None:
    with pytest.raises(RemoteProtocolError, match=text) as caught:
        tensors.decode(data)
    assert caught.value.rule is Rule.TENSORS


@pytest.mark.parametrize(
    "told",
    [
        "[",
        "[1]",
        "3",
        "null",
        '"x"',
        "[" * 5_000,
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        "9" * 5_000,
        '"\\ud800"',
        3,
        None,
        {},
    ],
    ids=lambda told: str(told)[:20],
)
def test_metadata_that_are_none_are_refused(told: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="metadata") as caught:
        tensors.read_metadata(raw({"__metadata__": {"agentkd": told}}))
    assert caught.value.rule is Rule.TENSORS and tensors.read_metadata(raw({})) == {}
    with pytest.raises(RemoteProtocolError):
        tensors.read_metadata(raw({"__metadata__": [1]}))


def _anything() -> st.SearchStrategy[Any]:
    plain = (
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["F32", "I64", 2**48, -1])
    )
    return st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    )


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_whatever_a_header_says_it_is_read_or_refused(data: st.DataObject) -> None:
    described = {name: data.draw(_anything()) for name in ("dtype", "shape", "data_offsets") if data.draw(st.integers(0, 9))}
    header: Any = {"a": entry(), "b": entry(offsets=(4, 8))}
    header[data.draw(st.sampled_from(["a", "b", "__metadata__", "c d"]))] = (
        header["a"] | described if described else data.draw(_anything())
    )
    file = raw(
        header if data.draw(st.integers(0, 9)) else data.draw(_anything()), data.draw(st.sampled_from([ONE + ONE, ONE, b""]))
    )
    for read in (tensors.decode, tensors.read_metadata):
        try:
            read(file)
        except RemoteProtocolError as error:
            assert error.rule is Rule.TENSORS


def test_what_is_just_within_the_limits_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    two = {"a" * 200: entry(shape=(1,) * 8), "b": entry(offsets=(4, 8))}
    data = raw(two, ONE + ONE)
    monkeypatch.setattr(tensors, "MAX_TENSORS", 2)
    monkeypatch.setattr(tensors, "MAX_HEADER_BYTES", len(json.dumps(two)))
    assert {name: value.flatten().tolist() for name, value in tensors.decode(data).items()} == {"a" * 200: [1.0], "b": [1.0]}
    assert torch.isnan(tensors.decode(raw({"a": entry()}, NAN), finite=False)["a"]).all()
    assert tensors.decode(raw({"a": entry(shape=(0, 2**47), offsets=(0, 0))}))["a"].shape == (0, 2**47)
    monkeypatch.setattr(tensors, "MAX_TENSORS", 1)
    with pytest.raises(RemoteProtocolError, match="2 tensors; at most 1"):
        tensors.decode(data)
    monkeypatch.setattr(tensors, "MAX_HEADER_BYTES", len(json.dumps(two)) - 1)
    with pytest.raises(RemoteProtocolError, match="over its limit"):
        tensors.decode(data)


def test_the_limits_are_those_of_the_protocol() -> None:
    mebibyte, many = 1024 * 1024, {str(number): entry("U8", (0,), (0, 0)) for number in range(16_384)}
    assert tensors.decode(raw(b"{}".ljust(mebibyte))) == {}
    with pytest.raises(RemoteProtocolError, match="over its limit"):
        tensors.decode(raw(b"{}".ljust(mebibyte + 1)))
    compact = [
        json.dumps(header, separators=(",", ":")).encode() for header in (many, many | {"more": entry("U8", (0,), (0, 0))})
    ]
    assert len(tensors.decode(raw(compact[0]))) == 16_384
    with pytest.raises(RemoteProtocolError, match="16385 tensors"):
        tensors.decode(raw(compact[1]))


def test_tensors_match_by_names_shapes_and_number_types() -> None:
    expected = {"a": torch.zeros(2), "b": torch.zeros(1, dtype=torch.int64)}
    tensors.match({name: value + 1 for name, value in expected.items()}, expected)
    for changed, text in (
        ({"a": torch.zeros(3)}, "'a'"),
        ({"b": torch.zeros(1)}, "'b'"),
        ({"c": torch.zeros(1)}, "tensor names"),
    ):
        with pytest.raises(ContractError, match=text):
            tensors.match(expected | changed, expected)
    with pytest.raises(ContractError, match="tensor names"):
        tensors.match({"a": torch.zeros(2)}, expected)

"""Tensors as bytes: the very bytes of the safetensors library, read without a copy, and nothing else is ever read."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from agentkd import canonical
from agentkd.errors import RemoteProtocolError
from agentkd.knowledge import tensors


@settings(max_examples=200)
@given(data=st.data())
def test_our_safetensors_bytes_are_those_of_the_library_and_come_back_equal(data) -> None:
    dtypes = st.sampled_from(list(tensors.DTYPES.values()))
    shapes = st.lists(st.integers(0, 4), max_size=4)
    names = st.text("abcxyz0189._", min_size=1, max_size=8)
    described = data.draw(st.dictionaries(names, st.tuples(dtypes, shapes), max_size=8))
    made = {name: (torch.randn(shape) * 3).to(dtype) for name, (dtype, shape) in described.items()}
    metadata = data.draw(st.none() | st.just({"kind": "weights", "n": 1}))
    told = {tensors.METADATA_KEY: canonical.encode(metadata).decode()} if metadata else None
    encoded = tensors.encode(made, metadata)
    assert encoded == save(made, metadata=told)
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

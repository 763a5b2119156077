"""The specification and the code say the same: what is generated is current, vectors decode for ever, every word is explained."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkd.errors import RemoteProtocolError, Rule
from agentkd.messages import vectors
from agentkd.messages.bodies import TYPES
from agentkd.messages.dialogues import DIALOGUES
from agentkd.messages.specification import files
from agentkd.messages.wire import decode

PROTOCOLS = Path(__file__).parents[2] / "protocols"
VALID = sorted((PROTOCOLS / "vectors" / "valid").glob("*.bin"))
INVALID = sorted((PROTOCOLS / "vectors" / "invalid").glob("*.bin"))
STATEFUL = {"session_other"}


def test_what_is_generated_is_what_the_code_generates() -> None:
    stale = [path for path, data in files().items() if (PROTOCOLS / path).read_bytes() != data]
    assert not stale, "run: agentkd protocol write protocols"
    listed = {str(path.relative_to(PROTOCOLS)) for path in (PROTOCOLS / "vectors").rglob("*") if path.is_file()}
    assert listed == {path for path in files() if path.startswith("vectors/")}


def test_there_is_a_valid_vector_of_every_type() -> None:
    assert {int(path.name[:2]) for path in VALID} == set(TYPES)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_valid_vectors_decode(path: Path) -> None:
    message = decode(vectors.unpack(path.read_bytes()))
    assert type(message.body) is TYPES[int(path.name[:2])]


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_invalid_vectors_break_the_rule_they_name(path: Path) -> None:
    rule = json.loads(path.with_suffix(".json").read_text())["rule"]
    if path.stem in STATEFUL:
        decode(vectors.unpack(path.read_bytes()))
        return
    with pytest.raises(RemoteProtocolError) as caught:
        decode(vectors.unpack(path.read_bytes()))
    assert caught.value.rule == rule


@settings(max_examples=400)
@given(path=st.sampled_from(VALID), data=st.data())
def test_a_vector_with_a_flipped_octet_decodes_or_is_refused(path: Path, data: st.DataObject) -> None:
    frames = [bytearray(frame) for frame in vectors.unpack(path.read_bytes())]
    frame = data.draw(st.sampled_from([f for f in frames if f]))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode(frames)
    except RemoteProtocolError:
        return


def test_the_text_explains_every_rule_and_every_dialogue_and_names_only_what_there_is() -> None:
    text = (PROTOCOLS / "protocol.md").read_text(encoding="utf-8")
    assert not [rule for rule in Rule if f"`{rule}`" not in text]
    assert not [dialogue.name for dialogue in DIALOGUES if f"`{dialogue.name}`" not in text]
    named = set(re.findall(r"`([A-Z]\w+(?:Request|Reply|Event))`", text))
    assert named <= {body.__name__ for body in TYPES.values()}


def test_references_of_the_asyncapi_document_lead_somewhere() -> None:
    document = json.loads((PROTOCOLS / "asyncapi.json").read_text())
    schema = json.loads((PROTOCOLS / "schema" / "messages.schema.json").read_text())
    for name, message in document["components"]["messages"].items():
        assert message["payload"]["$ref"] == f"schema/messages.schema.json#/$defs/{name}" and name in schema["$defs"]
    for operation in document["operations"].values():
        reference = operation["messages"][0]["$ref"].rpartition("/")[2]
        assert reference in document["channels"]["peer"]["messages"]

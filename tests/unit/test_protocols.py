"""The specification and the code say the same: what is generated is current, vectors decode for ever, every word is explained."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentkd.errors import AgentKDError, RemoteProtocolError, Rule
from agentkd.messages import vectors
from agentkd.messages.bodies import TYPES
from agentkd.messages.dialogues import DIALOGUES
from agentkd.messages.specification import files
from agentkd.messages.wire import decode
from agentkd.objectives import Codec
from agentkd.task import KINDS, read_task

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


# What follows is read as the text says, by code that knows nothing of the library's.

TASKS = sorted((PROTOCOLS / "vectors" / "tasks").glob("*.json"))
ALWAYS: dict[str, Any] = {
    "seed": 0,
    "view_seed": 0,
    "max_deploy_parameters": 0,
    "max_num_macs": 0,
    "initial_weights": "",
    "pretrained": "",
    "teachers": [],
    "prune_below": [],
    "distillation": None,
}


def frames_in(path: Path) -> list[bytes]:
    """Section 10 of the text."""
    data, frames = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:4], "big")
        frames.append(data[4 : 4 + size])
        assert len(frames[-1]) == size
        data = data[4 + size :]
    return frames


def parts_of(envelope: bytes) -> tuple[int, dict[str, Any], dict[str, Any]]:
    """Section 1: type, header and body."""
    at = 10 + int.from_bytes(envelope[8:10], "big")
    return envelope[6], msgpack.unpackb(envelope[10:at]), msgpack.unpackb(envelope[at:])


LEFT_OUT_OF_RECIPES = {
    "class_weights",
    "sampler",
    "sampler_temperature",
    "validation_precision",
    "channels_last",
    "compiled",
    "repeatable",
}


def canonical_of(task: dict[str, Any]) -> str:
    """The key of a task, as ``run-folder.md`` has it, from the task as it stands in a message."""
    schema = json.loads((PROTOCOLS / "schema" / "messages.schema.json").read_text())["$defs"]
    fields = schema["Recipe"]["properties"]
    recipe = {name: field["default"] for name, field in fields.items() if name not in LEFT_OUT_OF_RECIPES}
    always = {"recipe": recipe} | ALWAYS
    kept = {name: value for name, value in task.items() if name in always or value not in (None, "", 0, [], {}, False)}
    if task["kind"] == "features":
        kept["recipe"] = recipe | {"views": kept.pop("view_settings")}
    return written(always | kept)


def written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{written(name)}:{written(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, str):
        short = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
        return '"' + "".join(short.get(c, f"\\u{ord(c):04x}" if c < " " else c) for c in value) + '"'
    return {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else repr(value)


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_a_task_hashes_to_its_key_as_the_text_says(path: Path) -> None:
    told = json.loads(path.read_text(encoding="utf-8"))
    assert canonical_of(told["task"]) == told["canonical"]
    assert hashlib.sha256(told["canonical"].encode()).hexdigest() == told["key"]


@pytest.mark.parametrize("path", [path.with_suffix(".bin") for path in TASKS], ids=lambda path: path.stem)
def test_the_message_that_gives_a_task_names_its_key_and_is_read_as_that_task(path: Path) -> None:
    (envelope,) = frames_in(path)
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    _, _, body = parts_of(envelope)
    assert body["key"] == told["key"] and repr(body["task"]) == repr(told["task"]), "1 and 1.0 are told apart"
    assert decode([envelope]).body.task.key == told["key"]


def test_a_number_that_came_as_an_integer_is_a_number_all_the_same() -> None:
    task = json.loads((PROTOCOLS / "vectors" / "tasks" / "train_numbers.json").read_text(encoding="utf-8"))["task"]
    told = read_task(task | {"recipe": task["recipe"] | {"weight_decay": 1, "clip_norm": 10**16, "momentum": 0}})
    assert told.key == read_task(task).key
    assert read_task(task | {"architecture": task["architecture"] | {"settings": {"a": 1}}}).key != (
        read_task(task | {"architecture": task["architecture"] | {"settings": {"a": 1.0}}}).key
    )


def test_there_is_a_task_of_every_kind() -> None:
    assert {json.loads(path.read_text())["task"]["kind"] for path in TASKS} == set(KINDS)


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.stem)
def test_a_reader_of_ten_lines_finds_type_header_and_body(path: Path) -> None:
    envelope, *buffers = frames_in(path)
    number, header, body = parts_of(envelope)
    told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert number == int(path.name[:2]) and len(buffers) == told["num_frames"] - 1
    assert (header, body) == (told["frames"][0]["header"], told["frames"][0]["body"])
    if "task" in body and isinstance(body["task"], dict) and "key" in body:
        assert hashlib.sha256(canonical_of(body["task"]).encode()).hexdigest() == body["key"]


@pytest.mark.parametrize("path", INVALID, ids=lambda path: path.stem)
def test_a_refusal_names_the_message_if_its_number_was_read(path: Path) -> None:
    told = json.loads(path.with_suffix(".json").read_text())
    is_read_later = told["rule"] in ("body", "session") or path.stem.startswith(("msgpack_", "limit_body"))
    assert told["answer_to"] == (1000 if is_read_later else 0)


def test_the_text_lists_every_code_and_every_codec() -> None:
    text = (PROTOCOLS / "protocol.md").read_text(encoding="utf-8")
    ours = (kind for kind in all_errors(AgentKDError) if kind.__module__ == AgentKDError.__module__)  # tests make others
    codes = {kind.code for kind in ours} - {AgentKDError.code}
    assert not [code for code in {*codes, "internal"} if f"`{code}`" not in text]
    assert not [codec for codec in get_args(Codec) if not codec.startswith("top") and f"`{codec}`" not in text]


def all_errors(kind: type[AgentKDError]) -> list[type[AgentKDError]]:
    return [kind, *(found for child in kind.__subclasses__() for found in all_errors(child))]

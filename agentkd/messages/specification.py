"""The parts of ``protocols/`` that follow from the code: schema, message list, state tables, AsyncAPI document, vectors.

``agentkd protocol write FOLDER`` writes them; a test compares them with what is committed.
"""

import json
from typing import Any

from pydantic.json_schema import models_json_schema

from agentkd.errors import Rule
from agentkd.messages import vectors
from agentkd.messages.bodies import TYPES, Body, TaskRequest
from agentkd.messages.dialogues import DIALOGUES, JOIN, LIFE, Dialogue, Speaker, Transition
from agentkd.messages.task_vectors import task_vectors
from agentkd.messages.wire import MAJOR, MINOR

NOTICE = "Generated from the code by `agentkd protocol write`; do not edit."
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def files() -> dict[str, bytes]:
    """Every generated file by its path below ``protocols/``."""
    texts = {
        "schema/messages.schema.json": _pretty(schema()),
        "asyncapi.json": _pretty(asyncapi()),
        "messages.md": messages_page(),
        "dialogues.md": dialogues_page(),
    }
    made = {path: text.encode() for path, text in texts.items()}
    for folder, listed in (("valid", vectors.valid()), ("invalid", vectors.invalid())):
        for vector in listed:
            made[f"vectors/{folder}/{vector.name}.bin"] = vectors.pack(vector.frames)
            made[f"vectors/{folder}/{vector.name}.json"] = _pretty(vectors.readable(vector)).encode()
    for task in task_vectors():
        made[f"vectors/tasks/{task.name}.bin"] = vectors.pack(task.frames)
        made[f"vectors/tasks/{task.name}.json"] = _pretty(task.readable()).encode()
    return made


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of every body, under ``$defs``."""
    _, found = models_json_schema([(body, "validation") for body in TYPES.values()])
    return {"$schema": DIALECT, "title": f"agentkd protocol {MAJOR}.{MINOR}, message bodies", "$comment": NOTICE, **found}


def asyncapi() -> dict[str, Any]:
    """AsyncAPI 3 document: one channel, an operation for each message. ZeroMQ has no binding there, hence ``x-zmq``."""
    messages = {
        body.__name__: {
            "name": body.__name__,
            "summary": _summary(body),
            "contentType": "application/msgpack",
            "payload": {"$ref": f"schema/messages.schema.json#/$defs/{body.__name__}"},
            "x-zmq": {"type": number},
        }
        for number, body in TYPES.items()
    }
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "agentkd agent protocol", "version": f"{MAJOR}.{MINOR}.0", "description": NOTICE},
        "channels": {
            "peer": {
                "address": "tcp://HOST:PORT or ipc://PATH",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "x-zmq": {"listener": "ROUTER", "dialer": "DEALER", "security": "CURVE", "lanes": ["control", "bulk"]},
            }
        },
        "operations": {
            f"say{name}": {
                "action": "send",
                "channel": {"$ref": "#/channels/peer"},
                "messages": [{"$ref": f"#/channels/peer/messages/{name}"}],
            }
            for name in messages
        },
        "components": {"messages": messages},
    }


def messages_page() -> str:
    """Every message with its fields, as Markdown."""
    lines = ["# Messages", "", NOTICE, "", "Types of fields are those of `schema/messages.schema.json`.", ""]
    definitions = schema()["$defs"]
    for number, body in TYPES.items():
        lines += [f"## {number} {body.__name__}", "", _summary(body), ""]
        fields = definitions[body.__name__].get("properties", {})
        required = definitions[body.__name__].get("required", [])
        if fields:
            lines += ["| field | type | default |", "|---|---|---|"]
            for name, field in fields.items():
                default = "required" if name in required else _default(body, name, field)
                lines.append(f"| `{name}` | {_type_name(field)} | {default} |")
        else:
            lines.append("No fields.")
        lines.append("")
    return "\n".join(lines)


def dialogues_page() -> str:
    """The state table and diagrams of every dialogue, as Markdown."""
    lines = ["# Dialogues", "", NOTICE, ""]
    lines += ["A message that continues a dialogue MUST name the opening message in `parent_id`. The speakers are:", ""]
    lines += [f"* `{speaker}`: {_SPEAKERS[speaker]}" for speaker in Speaker]
    for dialogue in DIALOGUES:
        lines += [
            "",
            f"## {dialogue.name}",
            "",
            dialogue.purpose,
            "",
            "| in state | may say | message | then |",
            "|---|---|---|---|",
        ]
        lines += [f"| {m.state} | {m.speaker} | {m.message.__name__} | {m.then} |" for m in dialogue.moves]
        lines += ["", "```mermaid", *_diagram(dialogue), "```"]
        if dialogue is not LIFE:
            lines += ["", "```mermaid", *_sequence(dialogue), "```"]
    lines += [
        "",
        "## Rules",
        "",
        "What `rule` in an `ErrorReply` of code `protocol` may say: " + ", ".join(f"`{r}`" for r in Rule) + ".",
        "",
    ]
    return "\n".join(lines)


_SPEAKERS = {
    Speaker.OPENER: "who said the opening message of this dialogue",
    Speaker.ANSWERER: "the other side of it",
    Speaker.COORDINATOR: "the peer whose key coordinates, to an agent",
    Speaker.AGENT: "an agent, to its coordinator",
    Speaker.EITHER: "anybody",
}


def _diagram(dialogue: Dialogue) -> list[str]:
    """States and what leads from one to another. What changes none stands within it: arrows to themselves hide each other."""
    within: dict[str, list[str]] = {}
    between: dict[str, list[str]] = {}
    for move in dialogue.moves:
        said, then = f"{move.speaker} {move.message.__name__}", "[*]" if move.then == "end" else move.then
        if then == move.state:
            within.setdefault(f"  {move.state}", [move.state]).append(said)
        else:
            between.setdefault(f"  {move.state} --> {then}", []).append(said)
    lines = ["stateDiagram-v2", *(() if dialogue in (JOIN, LIFE) else ("  [*] --> new",))]
    lines += [f"{arrow}: {'<br/>'.join(said)}" for arrow, said in between.items()]
    return lines + [f"{state}: {one}" for state, said in within.items() for one in said]


def _sequence(dialogue: Dialogue) -> list[str]:
    """The same in the order of time: what is said, by whom to whom, and what may be said instead."""
    speakers = list(dict.fromkeys(str(move.speaker) for move in dialogue.moves))
    if len(speakers) == 1:
        speakers.append(str(Speaker.ANSWERER))
    shown: set[str] = set()

    def said(move: Transition) -> str:
        listener = next(one for one in speakers if one != move.speaker)
        return f"{move.speaker}->>{listener}: {move.message.__name__}"

    def following(move: Transition) -> list[str]:
        return [said(move), *(() if move.then in ("end", *shown) else after(move.then))]

    def after(state: str) -> list[str]:
        shown.add(state)
        moves = [move for move in dialogue.moves if move.state == state]
        repeated, others = [m for m in moves if m.then == state], [m for m in moves if m.then != state]
        lines = [line for move in repeated for line in ("loop any number of times", f"  {said(move)}", "end")]
        if len(others) < 2:
            return lines + [line for move in others for line in following(move)]
        for word, move in zip(("alt", *("else",) * len(others)), others, strict=False):
            end = "it is over" if move.then == "end" else f"then {move.then}"
            lines += [f"{word} {end}", *(f"  {line}" for line in following(move))]
        return [*lines, "end"]

    body = after(dialogue.moves[0].state)
    return ["sequenceDiagram", *(f"  participant {one}" for one in speakers), *(f"  {line}" for line in body)]


def _summary(body: type[Body]) -> str:
    return " ".join((body.__doc__ or "").split("Args:")[0].split())


def _default(body: type[Body], name: str, field: dict[str, Any]) -> str:
    """As JSON. One that is made is that of ``TaskRequest.key``, or empty."""
    if "default" in field:
        return f"`{json.dumps(field['default'])}`"
    return "the digest of `task`" if (body, name) == (TaskRequest, "key") else "`{}`"


def _type_name(field: dict[str, Any]) -> str:
    if "$ref" in field:
        return f"`{field['$ref'].rpartition('/')[2]}`"
    if "anyOf" in field:
        return " or ".join(_type_name(item) for item in field["anyOf"])
    if field.get("type") == "array":
        return f"list of {_type_name(field['items'])}" if "items" in field else "list"
    return str(field.get("type", "any"))


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"

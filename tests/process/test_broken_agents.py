"""The conformance kit against agents that are each broken in one way: it finds the clause that they break, and no other."""

import itertools
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from live_agent import free_port
from sides import wait_until

from agentkd.conformance.clause import Clause, play
from agentkd.conformance.clauses import all_clauses
from agentkd.conformance.probe import Probe, Waits
from agentkd.exchange.keys import KeyPair, new_key_pair

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "plain_agent"))
import agent as plain  # the one in plain Python, of whom those below are children
import network
import teaching
from network import sha256
from wire import TYPES, Refusal, read_tensors, write_tensors

CLASSES = 4
NAMES = ("night", "dusk", "dawn", "day")
SAMPLE = ("invalid.body_text_null", "invalid.msgpack_trailing", "invalid.header_id_zero", "invalid.flags_unknown")
CLAUSES = tuple(c for c in all_clauses(CLASSES, may_end=True) if not c.name.startswith("invalid.") or c.name in SAMPLE)
pytestmark = pytest.mark.process


class Broken(plain.Agent):
    """An agent whose every message can be changed before it is sent, and every answer before it is said."""

    breaks = ""

    def answer(self, link: Any, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        for one in [link, *self.links.values()]:
            if "say" not in vars(one):
                one.say = lambda *said, _link=one: self.say(_link, *said)
        return self.reply(link, name, header, body, buffers)

    def reply(self, link: Any, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        return super().answer(link, name, header, body, buffers)

    def say(self, link: Any, name: str, body: dict, parent_id: int = 0, buffers: Any = ()) -> int:
        return type(link).say(link, name, *self.changed(name, dict(body), parent_id, buffers))

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return body, parent_id, buffers


class ConstantNumbers(Broken):
    breaks = "life.numbers"

    def say(self, link: Any, name: str, body: dict, parent_id: int = 0, buffers: Any = ()) -> int:
        self.number = 6
        return super().say(link, name, body, parent_id, buffers)


class NewSessions(Broken):
    breaks = "life.session"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        self.session = f"{int(self.session, 16) ^ (name == 'StatusReply'):016x}"
        return body, parent_id, buffers


class ProgressBackwards(Broken):
    breaks = "life.progress"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return body | ({"progress": 10**6 - body["progress"]} if name == "HeartbeatEvent" else {}), parent_id, buffers


class AlwaysBusy(Broken):
    breaks = "life.idle"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return body | ({"is_busy": True} if "is_busy" in body else {}), parent_id, buffers


class HeartbeatAlwaysBusy(Broken):
    breaks = "life.idle"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return body | ({"is_busy": True} if name == "HeartbeatEvent" else {}), parent_id, buffers


class NoHeartbeat(Broken):
    breaks = "life.heartbeat"

    def say(self, link: Any, name: str, *said: Any) -> int:
        return 0 if name == "HeartbeatEvent" else super().say(link, name, *said)


class SlowHeartbeat(Broken):
    breaks = "life.pace"

    def reply(self, link: Any, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        said = super().reply(link, name, header, body, buffers)
        self.heartbeat_s *= 8 if name == "WelcomeReply" and link is self.home else 1
        return said


class HeartbeatInPairs(Broken):
    """Two at once, and then nothing for long."""

    breaks = "life.pace"

    def say(self, link: Any, name: str, body: dict, parent_id: int = 0, buffers: Any = ()) -> int:
        if name == "HeartbeatEvent":
            self.beat_at += 15 * self.heartbeat_s
            super().say(link, name, body)
        return super().say(link, name, body, parent_id, buffers)


class SwiftHeartbeat(Broken):
    breaks = "life.pace"

    def say(self, link: Any, name: str, body: dict, parent_id: int = 0, buffers: Any = ()) -> int:
        for _ in range(9 if name == "HeartbeatEvent" else 0):
            super().say(link, name, body)
        return super().say(link, name, body, parent_id, buffers)


class RefusalsUncounted(Broken):
    breaks = "status.refused"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return body | ({"refused": {}} if name == "StatusReply" else {}), parent_id, buffers


class RefusalsCountedByAnotherRule(Broken):
    breaks = "status.refused"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        counted = {"header": sum(body["refused"].values())} if name == "StatusReply" else {}
        return body | ({"refused": counted} if counted else {}), parent_id, buffers


class EveryPingCountsAsRefused(Broken):
    breaks = "status.refused"

    def reply(self, link: Any, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        self.refused["body"] = self.refused.get("body", 0) + (name == "PingRequest")
        return super().reply(link, name, header, body, buffers)


class ShortPing(Broken):
    breaks = "ping"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return {"text": body["text"][:50]} if name == "PingReply" else body, parent_id, buffers


class UnknownKeysRefused(Broken):
    breaks = "ping.unknown"

    def reply(self, link: Any, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        if name == "PingRequest" and body.keys() - {"text"}:
            raise Refusal("protocol", "an unknown key", "body")
        return super().reply(link, name, header, body, buffers)


class UnknownHeaderKeysRefused(Broken):
    breaks = "ping.unknown"

    def reply(self, link: Any, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        if header.keys() - {"msg_id", "parent_id", "session", "deadline_ms"}:
            raise Refusal("protocol", "an unknown key", "header")
        return super().reply(link, name, header, body, buffers)


class UnknownNestedKeysRefused(Broken):
    breaks = "knowledge.unknown_fields"

    def reply(self, link: Any, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        if any("of_a_later_version" in payload for payload in body.get("payloads", [])):
            raise Refusal("protocol", "an unknown key", "body")
        return super().reply(link, name, header, body, buffers)


class WrongParent(Broken):
    breaks = "status ping.unknown"  # which asks for the status too

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return body, parent_id + (name == "StatusReply"), buffers


class RefusalsNameNothing(Broken):
    breaks = "errors.parent"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return body, 0 if body.get("rule") == "body" and "text" in body["text"] else parent_id, buffers


class LateIsRefused(Broken):
    breaks = "late"

    def reply(self, link: Any, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        if name == "PingReply":
            raise Refusal("protocol", "nobody asked", "order")
        return super().reply(link, name, header, body, buffers)


class ErrorsAreAnswered(Broken):
    breaks = "errors.unanswered"

    def reply(self, link: Any, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        said = super().reply(link, name, header, body, buffers)
        return ("ErrorReply", {"code": "config", "text": "what?"}) if name == "ErrorReply" else said


class CodesOfItsOwn(Broken):
    breaks = "errors.codes"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        is_one = name == "ErrorReply" and body["code"] == "config"
        return body | ({"code": "oops"} if is_one else {}), parent_id, buffers


class ErrorsWithoutCode(CodesOfItsOwn):
    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        is_one = name == "ErrorReply" and body["code"] == "config"
        return body | ({"code": ""} if is_one else {}), parent_id, buffers


class RefusalsWithoutRule(CodesOfItsOwn):
    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        is_one = name == "ErrorReply" and body["code"] == "protocol" and "offset" in body["text"]
        return body | ({"rule": ""} if is_one else {}), parent_id, buffers


class ErrorsThatAct(Broken):
    breaks = "errors.text"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return body | ({"text": "\x1b[2J" + body["text"]} if name == "ErrorReply" else {}), parent_id, buffers


class ErrorsThatActLater(ErrorsThatAct):
    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        is_one = name == "ErrorReply" and body["code"] == "config"
        return body | ({"text": body["text"] + "\x9b1m"} if is_one else {}), parent_id, buffers


class GreetsFromRightToLeft(ErrorsThatAct):
    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return body | ({"environment": {"os": "\u202exuniL"}} if name == "HelloRequest" else {}), parent_id, buffers

    def __init__(self, *said: Any, **named: Any) -> None:
        greeted = plain.Link.say

        def say(link: Any, name: str, body: dict, *more: Any) -> int:
            return greeted(link, name, self.changed(name, body, 0, ())[0], *more)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plain.Link, "say", say)
            super().__init__(*said, **named)


class Greeting(Broken):
    """Which greets its coordinator as it does others, and not as it teaches."""

    greets: ClassVar[dict] = {}

    def __init__(self, *said: Any, **named: Any) -> None:
        greeted = plain.Link.dial

        def dial(link: Any) -> None:
            self.greeting |= self.greets
            greeted(link)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(plain.Link, "dial", dial)
            super().__init__(*said, **named)


class GreetsOfOtherWeights(Greeting):
    breaks = "join.teaches"
    greets: ClassVar[dict] = {"teaches": "1" * 64}


class GreetsOfOtherClasses(Greeting):
    breaks = "knowledge.class_names knowledge.about"  # the weights name theirs
    greets: ClassVar[dict] = {"classes": NAMES[::-1]}


class GreetsPeersOtherwise(Broken):
    breaks = "peers.greeting"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return body, parent_id, buffers

    def meet(self, peers: dict) -> None:
        self.greeting = self.greeting | {"teaches": "1" * 64}
        super().meet(peers)


class GreetsPeersWithOtherClasses(GreetsPeersOtherwise):
    def meet(self, peers: dict) -> None:
        self.greeting = self.greeting | {"classes": self.names[::-1]}
        plain.Agent.meet(self, peers)


class WeightsOfOtherClasses(Broken):
    breaks = "knowledge.about"
    about: ClassVar[dict] = {"classes": NAMES[::-1]}

    def __init__(self, *said: Any, **named: Any) -> None:
        def write(tensors: dict, metadata: str = "") -> bytes:
            return write_tensors(tensors, json.dumps(json.loads(metadata) | self.about))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(network, "write_tensors", write)
            super().__init__(*said, **named)


class WeightsOfMoreClasses(WeightsOfOtherClasses):
    about: ClassVar[dict] = {"architecture": {"family": "pixels:linear", "num_classes": CLASSES + 1}}


class AssessesAnyClasses(Broken):
    breaks = "assess.classes"

    def assess(self, link: Any, body: dict, buffers: list) -> dict:
        said = super().assess(link, body | {"num_classes": CLASSES}, buffers)
        return said | {"predicted": (said["predicted"] + [0.0] * 9)[: body["num_classes"]]}


class SharesThatAddUpToMore(Broken):
    breaks = "assess assess.predicted"

    def assess(self, link: Any, body: dict, buffers: list) -> dict:
        return super().assess(link, body, buffers) | {"predicted": [0.5] * CLASSES}


class SharesOfOtherClasses(Broken):
    breaks = "assess.predicted"

    def assess(self, link: Any, body: dict, buffers: list) -> dict:
        said = super().assess(link, body, buffers)
        return said | {"predicted": said["predicted"][::-1]}


class SharesWithoutLooking(Broken):
    breaks = "assess.predicted"

    def assess(self, link: Any, body: dict, buffers: list) -> dict:
        return super().assess(link, body, buffers) | {"predicted": [1 / CLASSES] * CLASSES}


class SharesOfTheLastImage(Broken):
    breaks = "assess.predicted"

    def assess(self, link: Any, body: dict, buffers: list) -> dict:
        images = teaching.read_images(buffers)
        said = super().assess(link, body, [write_tensors({"images": images[-1:]})])
        return said | {"num_images": len(images)}


class SharesOfTheSmallestLogits(Broken):
    breaks = "assess.predicted"

    def assess(self, link: Any, body: dict, buffers: list) -> dict:
        logits = self.network.logits(teaching.read_images(buffers))
        shares = np.bincount(logits.argmin(axis=1).ravel(), minlength=CLASSES) / logits[:, 0].size
        return super().assess(link, body, buffers) | {"predicted": shares.tolist()}


class AssessesWithOtherWeights(Broken):
    breaks = "assess"

    def assess(self, link: Any, body: dict, buffers: list) -> dict:
        return super().assess(link, body, buffers) | {"weights": "1" * 64}


class StrippedPing(Broken):
    breaks = "ping"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return {"text": body["text"].strip()} if name == "PingReply" else body, parent_id, buffers


class AssessesFew(Broken):
    breaks = "knowledge.many"

    def assess(self, link: Any, body: dict, buffers: list) -> dict:
        said = super().assess(link, body, buffers)
        return said | {"num_images": min(said["num_images"], 4)}


class Teaching(Broken):
    """Whose soft targets can be changed: what is asked before, and the logits after."""

    def soft_targets(self, body: dict, buffers: list) -> bytes:
        logits = read_tensors(super().soft_targets(self.understood(body), buffers))["logits"]
        return write_tensors({"logits": self.made(logits)})

    def understood(self, body: dict) -> dict:
        return body

    def made(self, logits: np.ndarray) -> np.ndarray:
        return logits


class TeachesFew(Teaching):
    """Of many images the first are looked at."""

    breaks = "knowledge.many"

    def made(self, logits: np.ndarray) -> np.ndarray:
        return np.where(np.arange(len(logits)).reshape(-1, 1, 1, 1) < 4, logits, 0).astype(logits.dtype)


class NotANumber(Teaching):
    breaks = "knowledge.finite"

    def made(self, logits: np.ndarray) -> np.ndarray:
        return np.where(np.arange(logits.size).reshape(logits.shape) == 7, np.nan, logits).astype(logits.dtype)


class InfiniteInHalf(Teaching):
    breaks = "knowledge.finite"

    def made(self, logits: np.ndarray) -> np.ndarray:
        return logits if logits.dtype == np.float32 else np.full_like(logits, np.inf)


class Probabilities(Teaching):
    breaks = "knowledge.raw"

    def made(self, logits: np.ndarray) -> np.ndarray:
        shares = np.exp(logits.astype(np.float64))
        return (shares / shares.sum(axis=1, keepdims=True)).astype(logits.dtype)


class Percentages(Probabilities):
    def made(self, logits: np.ndarray) -> np.ndarray:
        return (100 * super().made(logits)).astype(logits.dtype)


class LogSoftmax(Teaching):
    breaks = "knowledge.raw"
    base = np.e

    def made(self, logits: np.ndarray) -> np.ndarray:
        exact = logits.astype(np.float64)
        return ((exact - np.log(np.exp(exact).sum(axis=1, keepdims=True))) / np.log(self.base)).astype(logits.dtype)


class LogSoftmaxToTheBaseTwo(LogSoftmax):
    base = 2


class ReversedBatch(Teaching):
    breaks = "knowledge.each"

    def made(self, logits: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(logits[::-1])


class TheFirstTwoExchanged(ReversedBatch):
    def made(self, logits: np.ndarray) -> np.ndarray:
        return np.concatenate([logits[:2][::-1], logits[2:]])


class CenteredBatch(ReversedBatch):
    breaks = "knowledge.each"

    def made(self, logits: np.ndarray) -> np.ndarray:
        """Of the images of one request none has the mean of all."""
        return logits - logits.mean(axis=(0, 2, 3), keepdims=True) if len(logits) == 3 else logits


class RowsReversed(Teaching):
    breaks = "knowledge.places"

    def made(self, logits: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(logits[:, :, ::-1])


class ColumnsReversed(RowsReversed):
    def made(self, logits: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(logits[:, :, :, ::-1])


class Transposed(RowsReversed):
    def made(self, logits: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(logits.transpose(0, 1, 3, 2))


class Rolled(RowsReversed):
    def made(self, logits: np.ndarray) -> np.ndarray:
        return np.roll(logits, logits.shape[3] // 2, axis=3)


class HalfOfFloat16(Teaching):
    breaks = "knowledge.values"

    def made(self, logits: np.ndarray) -> np.ndarray:
        return logits if logits.dtype == np.float32 else (logits * 0.5).astype(logits.dtype)


class Float16WithoutTheLargest(HalfOfFloat16):
    def made(self, logits: np.ndarray) -> np.ndarray:
        return logits if logits.dtype == np.float32 else logits - logits.max(axis=1, keepdims=True)


class MoreCodecs(Broken):
    """Knows bfloat16, int8 and top2, written by hand. Its children get one part of one of them wrong."""

    def soft_targets(self, body: dict, buffers: list) -> bytes:
        if body["codec"] not in ("bfloat16", "int8", "top2"):
            return super().soft_targets(body, buffers)
        logits = read_tensors(super().soft_targets(body | {"codec": "float32"}, buffers))["logits"].astype(np.float32)
        if body["codec"] == "bfloat16":
            return tensors({"logits": ("BF16", self.halved(logits))})
        if body["codec"] == "int8":
            centered = self.centered(logits)
            scale = (np.abs(centered).max(axis=(2, 3), keepdims=True) / 127).astype("<f4")
            numbers = np.round(centered / scale).astype("i1")
            return tensors({"logits.int8": ("I8", numbers), "logits.scale": ("F32", self.scaled(scale))})
        indices = self.ordered(np.argsort(-logits, axis=1, kind="stable")[:, :2])
        largest, exact = logits.max(axis=1, keepdims=True), np.exp(logits.astype(np.float64))
        rest = np.log(exact.sum(axis=1, keepdims=True) - np.take_along_axis(exact, indices, axis=1).sum(axis=1, keepdims=True))
        values = (np.take_along_axis(logits, indices, axis=1) - largest).astype("<f2")
        tail = self.tailed(rest - largest).astype("<f2")
        return tensors(
            {"logits.values": ("F16", values), "logits.indices": ("U8", indices.astype("u1")), "logits.tail": ("F16", tail)}
        )

    def halved(self, logits: np.ndarray) -> np.ndarray:
        return ((logits.view("<u4") + 0x8000) >> 16).astype("<u2")

    def centered(self, logits: np.ndarray) -> np.ndarray:
        return logits - logits.mean(axis=1, keepdims=True)

    def scaled(self, scale: np.ndarray) -> np.ndarray:
        return scale

    def ordered(self, indices: np.ndarray) -> np.ndarray:
        return indices

    def tailed(self, tail: np.ndarray) -> np.ndarray:
        return tail


class OtherHalf(MoreCodecs):
    breaks = "knowledge.values"

    def halved(self, logits: np.ndarray) -> np.ndarray:
        return super().halved(logits / 2)


class MeanLeft(MoreCodecs):
    breaks = "knowledge.values"

    def centered(self, logits: np.ndarray) -> np.ndarray:
        return logits


class ScaleOfAnother(MoreCodecs):
    breaks = "knowledge.values"

    def scaled(self, scale: np.ndarray) -> np.ndarray:
        return np.full_like(scale, scale.max())


class SmallestLogits(MoreCodecs):
    breaks = "knowledge.values"

    def ordered(self, indices: np.ndarray) -> np.ndarray:
        return CLASSES - 1 - indices


class NoTail(MoreCodecs):
    breaks = "knowledge.values"

    def tailed(self, tail: np.ndarray) -> np.ndarray:
        return np.zeros_like(tail)


class ExtraTensor(Broken):
    breaks = "knowledge.tensors"

    def soft_targets(self, body: dict, buffers: list) -> bytes:
        taught = read_tensors(super().soft_targets(body, buffers))
        return write_tensors(dict(taught) | {"more": np.zeros(3, np.float32)})


class OctetsBehind(Broken):
    breaks = "knowledge.tensors"

    def soft_targets(self, body: dict, buffers: list) -> bytes:
        return super().soft_targets(body, buffers) + b"more"


class HardTargets(Teaching):
    breaks = "knowledge.raw"

    def made(self, logits: np.ndarray) -> np.ndarray:
        one_hot = np.arange(CLASSES)[None, :, None, None] == logits.argmax(axis=1, keepdims=True)
        return np.ascontiguousarray(one_hot.astype(logits.dtype))


class TargetsOfNothing(Teaching):
    breaks = "knowledge.images"

    def made(self, logits: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.arange(CLASSES, dtype=logits.dtype)[None, :, None, None], logits.shape).copy()

    def assess(self, link: Any, body: dict, buffers: list) -> dict:
        said = super().assess(link, body, buffers)
        return said | {"predicted": [*([0.0] * (CLASSES - 1)), 1.0]}


class TargetsOfOtherClasses(Teaching):
    breaks = "assess.predicted"

    def made(self, logits: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(logits[:, ::-1])


class NeverTheSame(Teaching):
    breaks = "knowledge.same knowledge.many"

    def made(self, logits: np.ndarray) -> np.ndarray:
        self.number += 1
        return (logits + self.number).astype(logits.dtype)


class AnyCodec(Teaching):
    breaks = "knowledge.codec"

    def understood(self, body: dict) -> dict:
        return body | {"codec": body["codec"] if body["codec"] in teaching.CODECS else "float16"}


class OneCodec(Teaching):
    breaks = "knowledge.codec"

    def made(self, logits: np.ndarray) -> np.ndarray:
        return logits.astype(np.float32)


class AnyWeights(Teaching):
    breaks = "knowledge.weights"

    def understood(self, body: dict) -> dict:
        return body | {"weights": self.weights}


class AnyClasses(Teaching):
    breaks = "knowledge.classes"

    def understood(self, body: dict) -> dict:
        return body | {"num_classes": CLASSES}


class AnyNames(Teaching):
    breaks = "knowledge.class_names"

    def understood(self, body: dict) -> dict:
        return body | {"classes": []}


class AnyOrderOfNames(Teaching):
    breaks = "knowledge.class_names"

    def understood(self, body: dict) -> dict:
        return body | ({"classes": []} if sorted(body["classes"]) == sorted(NAMES) else {})


class FirstNameAlone(Teaching):
    breaks = "knowledge.class_names"

    def understood(self, body: dict) -> dict:
        return body | ({"classes": []} if body["classes"][:1] == list(NAMES[:1]) else {})


class NoNamesAtAll(Teaching):
    breaks = "knowledge.class_names"

    def understood(self, body: dict) -> dict:
        if body["classes"]:
            raise Refusal("contract", "classes: only numbers are known here")
        return body


class NamesRefusedByARule(Teaching):
    breaks = "knowledge.class_names"

    def understood(self, body: dict) -> dict:
        if body["classes"] not in ([], list(NAMES)):
            raise Refusal("protocol", "classes: others", "body")
        return body


class OneClassLess(Teaching):
    breaks = "knowledge.soft_targets"

    def made(self, logits: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(logits[:, 1:])


class HandingOver(Broken):
    """Whose pieces can be changed."""

    def hand_over(self, link: Any, body: dict, buffers: list) -> tuple[dict, list]:
        return self.handed_over(link, body, *super().hand_over(link, self.understood(body), buffers))

    def understood(self, body: dict) -> dict:
        return body

    def handed_over(self, link: Any, asked: dict, body: dict, buffers: list) -> tuple[dict, list]:
        return body, buffers


class OtherWeightsNamed(HandingOver):
    breaks = "knowledge.soft_targets"

    def handed_over(self, link: Any, asked: dict, body: dict, buffers: list) -> tuple[dict, list]:
        return body | {"weights": "1" * 64}, buffers


class OtherDigest(HandingOver):
    breaks = "knowledge.soft_targets"

    def handed_over(self, link: Any, asked: dict, body: dict, buffers: list) -> tuple[dict, list]:
        is_inline = body["piece"]["way"] == "inline"
        return body | ({"piece": body["piece"] | {"sha256": "1" * 64}} if is_inline else {}), buffers


class OtherFile(HandingOver):
    breaks = "knowledge.file"

    def handed_over(self, link: Any, asked: dict, body: dict, buffers: list) -> tuple[dict, list]:
        if asked["kind"] == "weights":
            buffers = [buffers[0][:-1] + b"\x01"]
        return body, buffers


class AlwaysInline(HandingOver):
    breaks = "knowledge.way"

    def understood(self, body: dict) -> dict:
        return body | {"ways": ["inline"]}


class AnythingIsThere(HandingOver):
    breaks = "knowledge.unknown"

    def understood(self, body: dict) -> dict:
        return body | ({"weights": self.weights} if body["kind"] == "weights" else {})


class AnyDataset(HandingOver):
    breaks = "knowledge.dataset"

    def hand_over(self, link: Any, body: dict, buffers: list) -> tuple[dict, list]:
        black = write_tensors({"images": np.zeros((1, 3, 8, 8), np.float32)})
        return super().hand_over(link, body, buffers or ([black] if body["kind"] == "soft_targets" else []))


class ShorterStreams(HandingOver):
    breaks = "stream.same"

    def understood(self, body: dict) -> dict:
        return body | ({"codec": "float16"} if body.get("ways") == ["stream"] else {})


class AnyGrant(Broken):
    breaks = "peers.grant peers.grant_weights peers.taken peers.defaults"

    def hand_over(self, link: Any, body: dict, buffers: list) -> tuple[dict, list]:
        link.may = teaching.KINDS
        return super().hand_over(link, body, buffers)


class WeightsOfAnyGrant(Broken):
    breaks = "peers.grant_weights peers.taken peers.defaults"

    def hand_over(self, link: Any, body: dict, buffers: list) -> tuple[dict, list]:
        may = link.may
        link.may = [*may, "weights"]
        try:
            return super().hand_over(link, body, buffers)
        finally:
            link.may = may


class FeatureMapsRefusedOtherwise(Broken):
    breaks = "peers.grant"

    def hand_over(self, link: Any, body: dict, buffers: list) -> tuple[dict, list]:
        if body["kind"] == "feature_maps":
            raise Refusal("contract", "kind: only soft targets are made here")
        return super().hand_over(link, body, buffers)


class AssessmentsOfAnyGrant(Broken):
    breaks = "peers.grant_assessment peers.taken peers.defaults"

    def assess(self, link: Any, body: dict, buffers: list) -> dict:
        may = link.may
        link.may = teaching.KINDS
        try:
            return super().assess(link, body, buffers)
        finally:
            link.may = may


class Sharing(Broken):
    """One that hands over what it is and data, as it should, though those it was written after need not."""

    def hand_over(self, link: Any, body: dict, buffers: list) -> tuple[dict, list]:
        if body["kind"] not in ("architecture", "data"):
            return super().hand_over(link, body, buffers)
        if link is not self.home and body["kind"] not in link.may:
            raise Refusal("protocol", "this key may not fetch it", "grant")
        file = self.architecture_file(body) if body["kind"] == "architecture" else self.data_file(body)
        piece = {"way": "inline", "size_bytes": len(file), "sha256": sha256(file)}
        return {"kind": body["kind"], "weights": body["weights"], "piece": piece}, [file]

    def architecture_file(self, body: dict) -> bytes:
        if body["weights"] != self.weights:
            raise Refusal("contract", "weights: others are taught here")
        return self.about(CLASSES)

    def about(self, num_classes: int) -> bytes:
        named = {"family": "somewhere:else", "num_classes": num_classes, "settings": {}}
        return write_tensors({}, json.dumps({"kind": "architecture", "architecture": named}))

    def data_file(self, body: dict) -> bytes:
        raise Refusal("artifact", "there are none here")


class OtherArchitecture(Sharing):
    breaks = "knowledge.architecture"

    def about(self, num_classes: int) -> bytes:
        return super().about(num_classes + 1)


class ArchitectureOfAnyWeights(Sharing):
    breaks = "knowledge.architecture"

    def architecture_file(self, body: dict) -> bytes:
        return self.about(CLASSES)


class DataThatAreNone(Sharing):
    breaks = "knowledge.data"

    def data_file(self, body: dict) -> bytes:
        return self.files[self.weights] if body["dataset"] in ("", self.weights) else super().data_file(body)


class SharedWithAnybody(Sharing):
    breaks = "peers.grant_shared"

    def hand_over(self, link: Any, body: dict, buffers: list) -> tuple[dict, list]:
        may = link.may
        link.may = [*may, "architecture"] if body["kind"] == "architecture" else may
        try:
            return super().hand_over(link, body, buffers)
        finally:
            link.may = may


class AnyKindIsSoftTargets(Broken):
    breaks = "knowledge.kind"

    def hand_over(self, link: Any, body: dict, buffers: list) -> tuple[dict, list]:
        if body["kind"] != "of_a_later_version":
            return super().hand_over(link, body, buffers)
        file = self.files[self.weights]
        piece = {"way": "inline", "size_bytes": len(file), "sha256": sha256(file)}
        return {"kind": "soft_targets", "weights": body["weights"], "piece": piece}, [file]


class AnyGrantIsEveryGrant(Broken):
    breaks = "peers.grant peers.grant_assessment peers.grant_weights peers.taken peers.grant_stream"

    def meet(self, peers: dict) -> None:
        super().meet({key: peer | {"may": teaching.KINDS if peer.get("may") else []} for key, peer in peers.items()})


class GrantsStay(Broken):
    breaks = "peers.taken peers.defaults peers.grant_stream"

    def meet(self, peers: dict) -> None:
        before = {key: list(link.may) for key, link in self.links.items()}
        super().meet({key: peer | {"may": [*before.get(key, []), *peer.get("may", [])]} for key, peer in peers.items()})


class GrantsAreForEver(Broken):
    breaks = "peers.taken peers.defaults"

    def meet(self, peers: dict) -> None:
        before = {key: link.may for key, link in self.links.items()}
        super().meet(peers)
        for key in before.keys() & self.links.keys():
            self.links[key].may = before[key]


class NothingSaidIsEverything(Broken):
    breaks = "peers.defaults"

    def meet(self, peers: dict) -> None:
        super().meet({key: {"may": teaching.KINDS} | peer for key, peer in peers.items()})


class PeersIgnored(Broken):
    breaks = "peers.named peers.unknown_fields peers.unnamed peers.role peers.grant peers.grant_assessment peers.grant_weights"
    breaks += " peers.same peers.grant_stream peers.leave"
    breaks += " peers.defaults peers.taken peers.greeting peers.offer peers.grant_shared"

    def meet(self, peers: dict) -> None:
        pass


class UnknownKeysOfPeersRefused(Broken):
    breaks = "peers.unknown_fields"

    def meet(self, peers: dict) -> None:
        super().meet({key: peer for key, peer in peers.items() if "of_a_later_version" not in peer})


class PeersStay(Broken):
    breaks = "peers.unnamed"

    def meet(self, peers: dict) -> None:
        super().meet({key: {"public_key": key, "endpoints": [], "may": link.may} for key, link in self.links.items()} | peers)


class AnybodyCoordinates(Broken):
    breaks = "peers.role peers.leave"

    def hear(self, link: Any, frames: list) -> None:
        home, self.home = self.home, link
        super().hear(link, frames)
        self.home = home


class AnyImages(Broken):
    breaks = "images.range"

    def hear(self, link: Any, frames: list) -> None:
        honest = teaching.read_images
        teaching.read_images = self.read_images
        try:
            super().hear(link, frames)
        finally:
            teaching.read_images = honest

    def read_images(self, buffers: list) -> np.ndarray:
        images = read_tensors(buffers[0]).get("images")
        if images is None or images.ndim != 4 or images.shape[1] != 3 or not images.size:
            raise Refusal("contract", "no images")
        return images


class AnyShape(AnyImages):
    breaks = "images.form"

    def read_images(self, buffers: list) -> np.ndarray:
        images = read_tensors(buffers[0]).get("images")
        if images is None or images.ndim != 4 or images.shape[1] != 3 or not images.size:
            return np.zeros((1, 3, 8, 8), np.float32)
        if images.min() < 0 or images.max() > 1:
            raise Refusal("contract", "out of range")
        return images


class Streaming(Broken):
    """Whose streams can be changed."""

    def open_stream(self, link: Any, number: int, body: dict) -> None:
        super().open_stream(link, number, self.understood(link, body))

    def understood(self, link: Any, body: dict) -> dict:
        return body


class OffsetIgnored(Streaming):
    breaks = "stream.offset"

    def understood(self, link: Any, body: dict) -> dict:
        known = self.offers.get((link.key, body["sha256"]), b"")
        return body | ({"offset": 0} if 0 < body["offset"] <= len(known) else {})


class CreditIgnored(Streaming):
    breaks = "stream.credit"

    def understood(self, link: Any, body: dict) -> dict:
        return body | {"limit": 10**9}


class ChunksTwiceAsLong(Streaming):
    breaks = "stream.chunks"

    def pump(self, link: Any, number: int, limit: int) -> None:
        file, at, credit, _ = self.streams[link.key, number]
        longest = max(4096, min(8192, max(credit, limit) - at))
        self.streams[link.key, number] = [file, at, credit, longest]
        super().pump(link, number, limit)


class ChunksReversed(Streaming):
    breaks = "stream.chunks"

    def pump(self, link: Any, number: int, limit: int) -> None:
        told: list[tuple] = []
        link.say = lambda *said: told.append(said)
        super().pump(link, number, limit)
        del link.say
        chunks = [said for said in told if said[0] == "StreamChunkEvent"]
        for said in [*reversed(chunks), *(said for said in told if said not in chunks)]:
            link.say(*said)


class NoChecksum(Streaming):
    breaks = "stream.checksum"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return body | ({"crc32": 0} if name == "StreamChunkEvent" else {}), parent_id, buffers


class EndOfAnother(Streaming):
    breaks = "stream.end"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return body | ({"sha256": "1" * 64} if name == "StreamReply" else {}), parent_id, buffers


class CreditGoesBack(Streaming):
    breaks = "stream.lower"

    def pump(self, link: Any, number: int, limit: int) -> None:
        file, at, _, chunk = self.streams[link.key, number]
        if limit < at:
            del self.streams[link.key, number]  # takes it for a cancellation
            return
        self.streams[link.key, number] = [file, at, limit, chunk]
        super().pump(link, number, limit)


class EveryStreamGoesOn(Streaming):
    breaks = "stream.again"

    def open_stream(self, link: Any, number: int, body: dict) -> None:
        before = dict(self.streams)
        super().open_stream(link, number, body)
        self.streams = before | self.streams


class NoOtherStream(Streaming):
    """Another stream of a piece is taken for the one before, which is still open: it gets nothing."""

    breaks = "stream.again"

    def open_stream(self, link: Any, number: int, body: dict) -> None:
        file = self.offers.get((link.key, body["sha256"]))
        if file is not None and any(stream[0] is file for stream in self.streams.values()):
            link.say("StreamReply", {"sha256": body["sha256"], "size_bytes": len(file)}, number)
            return
        super().open_stream(link, number, body)


class NeverCancelled(Streaming):
    breaks = "stream.cancel"

    def reply(self, link: Any, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        return None if name == "StreamCancelEvent" else super().reply(link, name, header, body, buffers)


class BeyondIsTheEnd(Streaming):
    breaks = "stream.beyond"

    def understood(self, link: Any, body: dict) -> dict:
        known = self.offers.get((link.key, body["sha256"]), b"")
        return body | {"offset": min(body["offset"], len(known))}


class UnofferedIsStreamed(Streaming):
    breaks = "stream.unoffered peers.offer peers.grant_stream"

    def understood(self, link: Any, body: dict) -> dict:
        self.offers.setdefault((link.key, body["sha256"]), b"anything")
        return body


class OfferForAll(Streaming):
    """What was offered to anybody is streamed to everybody."""

    breaks = "peers.offer"
    is_for = staticmethod(lambda agent, link: True)

    def open_stream(self, link: Any, number: int, body: dict) -> None:
        offered = [file for (_, digest), file in self.offers.items() if digest == body["sha256"]]
        if self.is_for(self, link):
            self.offers |= dict.fromkeys([(link.key, body["sha256"])] if offered else [], *offered[:1])
        super().open_stream(link, number, body)


class OfferForCoordinator(OfferForAll):
    is_for = staticmethod(lambda agent, link: link is agent.home)


class LyingToPeers(Broken):
    """Whose peers are told of other images than they sent."""

    breaks = "peers.same"

    def soft_targets(self, body: dict, buffers: list) -> bytes:
        return super().soft_targets(body, self.seen(buffers))

    def hand_over(self, link: Any, body: dict, buffers: list) -> tuple[dict, list]:
        self.is_peer = link is not self.home
        return super().hand_over(link, body, buffers)

    def seen(self, buffers: list) -> list:
        return [write_tensors({"images": 1 - teaching.read_images(buffers)})] if buffers and self.is_peer else buffers


class OtherWeightsForPeers(LyingToPeers):
    def hand_over(self, link: Any, body: dict, buffers: list) -> tuple[dict, list]:
        files = self.files
        other = network.brightness(CLASSES, list(NAMES)[::-1]).file()
        self.files = {digest: other if link is not self.home else file for digest, file in files.items()}
        try:
            return plain.Agent.hand_over(self, link, body, buffers)
        finally:
            self.files = files

    def soft_targets(self, body: dict, buffers: list) -> bytes:
        return plain.Agent.soft_targets(self, body, buffers)


class AssessesOtherwiseForPeers(Broken):
    breaks = "peers.same"

    def assess(self, link: Any, body: dict, buffers: list) -> dict:
        said = super().assess(link, body, buffers)
        return said | ({"predicted": said["predicted"][::-1]} if link is not self.home else {})


class StreamsOthersToPeers(Broken):
    breaks = "peers.same"

    def pump(self, link: Any, number: int, limit: int) -> None:
        stream = self.streams[link.key, number]
        if link is not self.home and stream[1] == 0:
            stream[0] = bytes(len(stream[0]))
        super().pump(link, number, limit)


class ObeysPeers(Broken):
    """A message of a coordinator that it takes from anybody."""

    breaks = "peers.role"
    taken: ClassVar[str] = "TaskRequest"

    def hear(self, link: Any, frames: list) -> None:
        home, self.home = self.home, link if frames[0][6:7] == bytes([TYPES[self.taken]]) else self.home
        try:
            super().hear(link, frames)
        finally:
            self.home = home


class LeavesForPeers(ObeysPeers):
    breaks = "peers.leave leave"
    taken: ClassVar[str] = "LeaveRequest"


class OffersOutliveGrants(Broken):
    breaks = "peers.grant_stream"

    def grant(self, link: Any, may: list) -> None:
        link.may = may


class StreamsOutliveGrants(Broken):
    breaks = "peers.grant_stream"

    def grant(self, link: Any, may: list) -> None:
        running = dict(self.streams)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(link, "say", lambda *said: 0)
            super().grant(link, may)
        self.streams |= running


class NoFence(Broken):
    breaks = "task.fence"

    def take(self, link: Any, number: int, body: dict) -> None:
        self.fences.clear()
        super().take(link, number, body)


class OneFenceForAll(Broken):
    breaks = "task.fence_by_key"

    def take(self, link: Any, number: int, body: dict) -> None:
        self.fences = {body["key"]: max(self.fences.values(), default=0)}
        super().take(link, number, body)


class OneAttemptOfEach(Broken):
    breaks = "task.fence_by_key"

    def take(self, link: Any, number: int, body: dict) -> None:
        if body["attempt"] <= self.fences.get(body["key"], 0):
            raise Refusal("protocol", "that attempt is over", "fence")
        super().take(link, number, body)


class NoLaterAttempt(Broken):
    breaks = "task.fence_by_key"

    def take(self, link: Any, number: int, body: dict) -> None:
        if body["attempt"] != self.fences.get(body["key"], body["attempt"]):
            raise Refusal("protocol", "this attempt goes on", "fence")
        super().take(link, number, body)


class ErrorsOfNoTask(Broken):
    breaks = "task.impossible task.fence_by_key"

    def changed(self, name: str, body: dict, parent_id: int, buffers: Any) -> tuple:
        return {field: value for field, value in body.items() if field != "task"}, parent_id, buffers


class MoreThanAsked(Broken):
    breaks = "task.unknown_fields"

    def take(self, link: Any, number: int, body: dict) -> None:
        if "of_a_later_version" not in body["task"]:
            super().take(link, number, body)
            return
        result = {"status": "completed", "weights": self.weights}
        link.say("TaskReply", {"task": body["key"], "attempt": body["attempt"], "result": result}, number)


class FlagsIgnored(Broken):
    breaks = "invalid.flags_unknown"

    def hear(self, link: Any, frames: list) -> None:
        super().hear(link, [frames[0][:7] + b"\0" + frames[0][8:], *frames[1:]] if len(frames[0]) > 8 else frames)


class LeavesInSilence(Broken):
    breaks = "leave"

    def reply(self, link: Any, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        said = super().reply(link, name, header, body, buffers)
        return None if name == "LeaveRequest" else said


class SaysThatItLeaves(Broken):
    breaks = "leave.gone"

    def reply(self, link: Any, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        said = super().reply(link, name, header, body, buffers)
        self.has_left = self.has_left and name != "LeaveRequest"
        return said


class LeavesAndBeats(SaysThatItLeaves):
    """It answers nothing more."""

    def say(self, link: Any, name: str, *said: Any) -> int:
        self.says_left = name == "LeftEvent" or getattr(self, "says_left", False)
        return 0 if self.says_left and name not in ("LeftEvent", "HeartbeatEvent") else super().say(link, name, *said)


def tensors(named: dict[str, tuple[str, np.ndarray]]) -> bytes:
    """A safetensors file of numbers of any type."""
    header, end = {}, 0
    for name, (dtype, value) in named.items():
        header[name] = {"dtype": dtype, "shape": value.shape, "data_offsets": [end, end := end + value.nbytes]}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + b"".join(value.tobytes() for _, value in named.values())


def children(kind: type[Broken]) -> Iterator[type[Broken]]:
    for child in kind.__subclasses__():
        yield child
        yield from children(child)


def dialogues_of(names: str) -> frozenset[str]:
    """The dialogues that clauses belong to."""
    return frozenset(name.partition(".")[0] for name in names.split())


VARIANTS = [child for child in children(Broken) if child.breaks]
TESTED_ELSEWHERE = {"join.first", "join.greeting", "join.again", "join.other", "join.version"}  # of agents that listen
WAITING = {"stream.credit", "peers.unnamed", "leave.gone"}
HARMLESS = {"cancel.unknown", "task.key"}


SWIFT = Waits(silence_s=0.1, heartbeat_s=0.05, deed_s=2.0)
PATIENT = Waits(silence_s=1.0, heartbeat_s=0.05, deed_s=10.0)  # for a busy machine, on which an agent says late what it says


@contextmanager
def dialing(kind: type[plain.Agent], names: tuple[str, ...], waits: Waits = SWIFT) -> Iterator[Probe]:
    """A probe that an agent in another thread dials."""
    agent_keys, coordinator = new_key_pair(), new_key_pair()
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    made = kind(endpoint, as_dict(agent_keys), coordinator.public, CLASSES, names=names)
    running = threading.Thread(target=made.run, daemon=True)
    running.start()
    try:
        with Probe(endpoint, coordinator, agent_keys.public, is_listening=True, waits=waits) as probe:
            yield probe
    finally:
        made.has_left = True
        running.join(10)


def verdicts(
    kind: type[plain.Agent], clauses: tuple[Clause, ...] = CLAUSES, names: tuple[str, ...] = NAMES, waits: Waits = SWIFT
) -> dict[str, str]:
    """Each clause that an agent breaks, and why."""
    with dialing(kind, names, waits) as probe:
        return {verdict.clause.name: verdict.remark for verdict in play(probe, clauses) if not verdict.is_kept}


def test_a_greeting_that_came_before_the_check_began_counts() -> None:
    with dialing(plain.Agent, NAMES) as probe:
        wait_until(lambda: probe.forget() or bool(probe.said))
        assert probe.greet(timeout_s=1).body == probe.heard_hello


def as_dict(keys: KeyPair) -> dict[str, str]:
    return {"public": keys.public, "secret": keys.secret}


@pytest.mark.parametrize("kind", VARIANTS, ids=lambda kind: kind.__name__)
def test_the_check_finds_the_clause_that_an_agent_breaks_and_no_other(kind: type[Broken]) -> None:
    """Only the first that breaks a dialogue is tried with the clauses of all, and with those that wait; and who errs anywhere."""
    dialogues = dialogues_of(kind.breaks)
    is_first = next(one for one in VARIANTS if dialogues_of(one.breaks) == dialogues) is kind or "errors" in dialogues
    left_out = set() if is_first else WAITING - set(kind.breaks.split())
    tried = [c for c in CLAUSES if c.name not in left_out and (is_first or dialogues_of(c.name) <= {*dialogues, "join"})]
    for waits in (SWIFT, PATIENT):
        broken = verdicts(kind, tuple(tried), waits=waits)
        if broken.keys() == set(kind.breaks.split()):
            return
    pytest.fail(f"it breaks {kind.breaks}; found was {broken}")


@pytest.mark.parametrize("names", [NAMES, ()], ids=["classes named", "classes not named"])
def test_the_intact_agent_keeps_every_clause(names: tuple[str, ...]) -> None:
    clauses = all_clauses(CLASSES, may_end=True)
    assert verdicts(plain.Agent, clauses, names) == {} or verdicts(plain.Agent, clauses, names, PATIENT) == {}


def test_an_agent_that_knows_more_codecs_keeps_every_clause() -> None:
    assert verdicts(MoreCodecs) == {} or verdicts(MoreCodecs, waits=PATIENT) == {}


def test_somebody_breaks_each_clause() -> None:
    named = set(itertools.chain.from_iterable(kind.breaks.split() for kind in VARIANTS))
    listed = {clause.name for clause in CLAUSES} - set(SAMPLE)
    assert listed - named == TESTED_ELSEWHERE | HARMLESS
    assert sha256(b"")  # the plain agent's own module, not one that happens to be called so

"""An agent in plain Python (pyzmq, msgpack, NumPy), written from protocols/ alone: it joins, is assessed, teaches and learns.

    python agent.py --join tcp://127.0.0.1:5555 --key plain.json --coordinator-key KEY [--classes 5] [--data DIGEST=FOLDER]

Without data it teaches that brighter pixels are of higher classes. With data it learns: from labels, from a teacher, or both.
"""

import argparse
import json
import os
import secrets
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zmq
from network import Network, brightness, canonical, gradient_of_loss, miou, must_be_known, read_split, sha256
from wire import TYPES, Refusal, decode, encode, expect, read_tensors, write_tensors

CODECS = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
KINDS = ("weights", "soft_targets", "feature_maps", "assessment")
OF_COORDINATORS = {
    "PeersEvent",
    "StatusRequest",
    "TaskRequest",
    "CancelRequest",
    "TeachRequest",
    "TeacherMovedEvent",
    "LeaveRequest",
}
OF_AGENTS = {"HelloRequest", "HeartbeatEvent", "LeftEvent", "SubmitRequest", "TaskProgressEvent", "TaskReply"}


def must_agree(field: str, mine: object, theirs: object) -> None:
    if mine != theirs:
        raise Refusal("contract", f"{field}: {mine} here, {theirs} was asked for")


def read_images(buffers: list) -> np.ndarray:
    expect(len(buffers) == 1, "body", "the images are one buffer")
    images = read_tensors(buffers[0]).get("images")
    is_right = images is not None and images.dtype == "<f4" and images.ndim == 4 and images.shape[1] == 3 and images.size
    if not is_right or images.min() < 0 or images.max() > 1:
        raise Refusal("contract", "images: expected float32 [N,3,H,W] with values in [0, 1]")
    return images


def reachable(peer: dict) -> str:
    """Where a peer can be dialed from here: a socket file that exists, or tcp; empty if it dials itself."""
    ways = [one.partition("://") for one in peer["endpoints"]]
    return next((scheme + mark + place for scheme, mark, place in ways if scheme == "tcp" or Path(place).exists()), "")


class Link:
    """The connection to one peer: dialed and greeted anew until it says welcome, which begins a session."""

    def __init__(self, agent: "Agent", peer: dict) -> None:
        self.agent, self.key, self.may, self.session, self.socket = agent, peer["public_key"], peer["may"], "", None
        self.endpoint = reachable(peer)
        self.dial()

    def dial(self) -> None:
        if self.socket:
            self.socket.close(linger=0)
        self.session, self.dialed_at, self.socket = "", time.monotonic(), self.agent.context.socket(zmq.DEALER)
        self.socket.curve_publickey, self.socket.curve_secretkey = (
            self.agent.keys[half].encode() for half in ("public", "secret")
        )
        self.socket.curve_serverkey, self.socket.linger = self.key.encode(), 500
        self.socket.connect(self.endpoint)
        self.say("HelloRequest", self.agent.greeting)

    def say(self, name: str, body: dict, parent_id: int = 0, buffers: tuple = ()) -> int:
        self.agent.number += 1
        header = {"msg_id": self.agent.number, "parent_id": parent_id, "session": self.agent.session}
        self.socket.send_multipart(encode(name, header, body, list(buffers)))
        return header["msg_id"]


class Agent:
    """Answers what its peers ask, and learns a step at a time in between. ``data`` are folders by the digest of their content."""

    def __init__(self, join: str, keys: dict, coordinator_key: str, num_classes: int = 5, data: dict | None = None) -> None:
        self.keys, self.data, self.context, self.network = keys, data or {}, zmq.Context(), brightness(num_classes)
        self.weights, self.num_classes = sha256(self.network.file()), num_classes
        self.files, self.offers, self.streams = {self.weights: self.network.file()}, {}, {}
        self.session, self.number, self.progress, self.refused = secrets.token_hex(8), 0, 0, {}
        self.fences, self.cancelled, self.lessons, self.answers = {}, set(), [], {}
        self.heartbeat_s, self.beat_at, self.has_left = 1.0, 0.0, False
        self.greeting = {"minor_min": 0, "minor_max": 0, "device": "cpu", "pid": os.getpid(), "capabilities": ["stream"]}
        self.greeting |= {"capabilities": ["stream", "learn"]} if data else {"teaches": self.weights}
        self.home = Link(self, {"public_key": coordinator_key, "endpoints": [join], "may": KINDS})
        self.links = {coordinator_key: self.home}

    def run(self) -> None:
        while not self.has_left:
            poller = zmq.Poller()
            for link in self.links.values():
                if not link.session and time.monotonic() > link.dialed_at + 1:
                    link.dial()  # it was not admitted yet, or not there: ZeroMQ does not come again by itself
                poller.register(link.socket, zmq.POLLIN)
            ready = dict(poller.poll(1 if self.lessons else 20))
            for link in [link for link in self.links.values() if link.socket in ready]:
                self.hear(link, link.socket.recv_multipart())
            if self.home.session and time.monotonic() > self.beat_at + self.heartbeat_s:
                self.beat_at = time.monotonic()
                self.home.say("HeartbeatEvent", {"progress": self.progress, "is_busy": bool(self.lessons)})
            if self.lessons and next(self.lessons[0], "over") == "over":
                self.lessons.pop(0)
        self.context.destroy(linger=500)

    def hear(self, link: Link, frames: list) -> None:
        number = 0
        try:
            name, header, body, buffers = decode(frames)
            number = header["msg_id"]
            if name not in ("WelcomeReply", "ErrorReply"):
                expect(bool(link.session), "greeting", f"{name} before the welcome")
                expect(header["session"] == link.session, "session", "a session that did not greet")
            expect(link is self.home or name not in OF_COORDINATORS, "role", f"{name} may be said by: coordinator")
            said = self.answer(link, name, header, body, buffers)
            if said:
                link.say(said[0], said[1], number, *said[2:])
        except (Refusal, KeyError, TypeError, ValueError, AttributeError) as problem:
            known = isinstance(problem, Refusal)
            refusal = problem if known else Refusal("protocol", f"a field is missing or wrong: {problem!r}", "body")
            self.refused[refusal.body["rule"]] = self.refused.get(refusal.body["rule"], 0) + 1
            if frames[0][6:7] != bytes([TYPES["ErrorReply"]]):  # which is never answered
                link.say("ErrorReply", refusal.body, number or refusal.number)
        self.progress += 1

    def answer(self, link: Link, name: str, header: dict, body: dict, buffers: list) -> tuple | None:
        """Name, body and buffers of the answer; ``None`` if there is none, or not yet."""
        number, parent = header["msg_id"], header["parent_id"]
        match name:
            case "WelcomeReply":
                link.session = header["session"]
                self.heartbeat_s = max(0.05, body["heartbeat_s"]) if link is self.home else self.heartbeat_s
            case "ErrorReply" if body["code"] == "protocol" and body.get("rule") == "greeting" and link.session:
                link.dial()  # the other side was started again, or has hung up
            case "ErrorReply" | "KnowledgeReply" if parent in self.answers:
                self.answers[parent] = (body, buffers)
            case "PeersEvent":
                self.meet({peer["public_key"]: peer for peer in body["peers"]})
            case "PingRequest":
                text = body.get("text", "")
                expect(isinstance(text, str) and len(text) <= 65_536, "body", "text is no text, or too long")
                return "PingReply", {"text": text}
            case "StatusRequest":
                state = {"progress": self.progress, "is_busy": bool(self.lessons), "counters": {"messages_sent": self.number}}
                return "StatusReply", state | {"refused": {rule: count for rule, count in self.refused.items() if rule}}
            case "AssessRequest":
                return "AssessReply", self.assess(link, body, buffers)
            case "KnowledgeRequest":
                return "KnowledgeReply", *self.hand_over(link, body, buffers)
            case "StreamRequest":
                self.open_stream(link, number, body)
            case "StreamCreditEvent" if (link.key, parent) in self.streams:
                self.pump(link, parent, body["limit"])
            case "StreamCancelEvent":
                self.streams.pop((link.key, parent), None)
            case "TaskRequest":
                self.take(link, number, body)
            case "CancelRequest":
                self.cancelled.add((body["task"], body["attempt"]))
            case "TeachRequest":
                raise Refusal("config", "this agent teaches what it knows, and adopts nothing")
            case "LeaveRequest":
                self.has_left = True
                return "LeftEvent", {"reason": "asked to leave"}
            case _ if name in OF_AGENTS:
                raise Refusal("protocol", f"{name} is of no use here", "type")
        return None  # an event, or an answer that nobody waits for any more

    def meet(self, peers: dict) -> None:
        """Hangs up on whoever is not named any more, and dials those who listen."""
        for key in self.links.keys() - peers.keys() - {self.home.key}:
            self.links.pop(key).socket.close(linger=0)
        for key, peer in peers.items():
            if key in self.links and key != self.home.key:
                self.links[key].may = peer["may"]
            elif key not in {*self.links, self.keys["public"]} and reachable(peer):
                self.links[key] = Link(self, peer)

    def assess(self, link: Link, body: dict, buffers: list) -> dict:
        expect("assessment" in link.may, "grant", "this key may not have assessments")
        must_agree("num_classes", self.num_classes, body["num_classes"])
        images = read_images(buffers)
        counts = np.bincount(self.network.logits(images).argmax(axis=1).ravel(), minlength=self.num_classes)
        return {"weights": self.weights, "num_images": len(images), "predicted": (counts / counts.sum()).tolist()}

    def hand_over(self, link: Link, body: dict, buffers: list) -> tuple[dict, list]:
        """A piece of knowledge by a way that the asker takes: inline, or as a stream that it may then open."""
        kind, weights, ways = body["kind"], body["weights"], body.get("ways", ["inline"])
        is_digest = len(weights) == 64 and not set(weights) - set("0123456789abcdef")
        expect(kind in KINDS and is_digest, "body", "kind or weights is wrong")
        expect(kind in link.may, "grant", f"this key may not fetch {kind}")
        if kind == "weights" and weights not in self.files:
            raise Refusal("artifact", f"there is no artifact {weights} here")
        file = self.files[weights] if kind == "weights" else self.soft_targets(body, buffers)
        way = next((way for way in ways if way == "stream" or (way == "inline" and len(file) <= 64 * 1024**2)), "")
        if not way:
            raise Refusal("exchange", f"ways: inline and stream are known here, not {ways}")
        self.offers |= {(link.key, sha256(file)): file} if way == "stream" else {}
        piece = {"way": way, "size_bytes": len(file), "sha256": sha256(file)}
        return {"kind": kind, "weights": weights, "piece": piece}, [file] if way == "inline" else []

    def soft_targets(self, body: dict, buffers: list) -> bytes:
        codec = body.get("codec", "float16")
        must_agree("kind", "soft_targets", body["kind"])
        must_agree("weights", self.weights, body["weights"])
        must_agree("num_classes", self.num_classes, body.get("num_classes", 0))
        must_agree("codec", codec if codec in CODECS else "float32 or float16", codec)
        must_agree("payloads", [], [one for one in body.get("payloads", []) if one.get("form", "logits") != "logits"])
        if not buffers:
            raise Refusal("dataset", "this teacher has no dataset; send the images")
        return write_tensors({"logits": self.network.logits(read_images(buffers)).astype(CODECS[codec])})

    def open_stream(self, link: Link, number: int, body: dict) -> None:
        if (link.key, body["sha256"]) not in self.offers:
            raise Refusal("artifact", "that was not offered to you; ask for the knowledge again")
        file, chunk = self.offers[link.key, body["sha256"]], body["chunk_bytes"]
        expect(4096 <= chunk <= 16 * 1024**2, "body", "chunk_bytes is out of range")
        expect(0 <= body["offset"] <= len(file), "credit", "an offset beyond the end")
        self.streams = {key: stream for key, stream in self.streams.items() if key[0] != link.key or stream[0] is not file}
        self.streams[link.key, number] = [file, body["offset"], body["limit"], chunk]
        self.pump(link, number, body["limit"])

    def pump(self, link: Link, number: int, limit: int) -> None:
        """Sends whole chunks as far as the credit reaches, and says when that was all."""
        file, at, credit, chunk = self.streams[link.key, number]
        credit = max(credit, limit)
        while at < len(file) and min(at + chunk, len(file)) <= credit:
            part = file[at : at + chunk]
            link.say("StreamChunkEvent", {"offset": at, "crc32": zlib.crc32(part)}, number, (part,))
            at += len(part)
        self.streams[link.key, number] = [file, at, credit, chunk]
        if at == len(file):
            link.say("StreamReply", {"sha256": sha256(file), "size_bytes": len(file)}, number)
            del self.streams[link.key, number]

    def take(self, link: Link, number: int, body: dict) -> None:
        named = {"task": body.get("key") or sha256(canonical(body["task"]).encode()), "attempt": body["attempt"]}
        expect(named["attempt"] >= self.fences.get(named["task"], 1), "fence", "that attempt is over")
        self.fences[named["task"]] = named["attempt"]
        self.lessons.append(self.learn(link, number, named, body))

    def learn(self, link: Link, number: int, named: dict, body: dict) -> Iterator[None]:
        """Does a task, a step at each turn of the loop. Whatever it cannot do is an error that names the task."""
        try:
            network, score, history = yield from self.steps(link, number, named, body)
        except (Refusal, KeyError, TypeError, ValueError, AttributeError) as problem:
            refusal = problem if isinstance(problem, Refusal) else Refusal("config", f"the task cannot be read: {problem!r}")
            link.say("ErrorReply", refusal.body | named, number)
            return
        weights = sha256(network.file())
        self.files[weights] = network.file()  # before it is said
        result = {"status": "completed", "weights": weights, "miou": score, "history": history}
        result |= {"epochs": len(history), "best_epoch": len(history), "environment": {"numpy": np.__version__}}
        link.say("TaskReply", named | {"result": result}, number)

    def steps(self, link: Link, number: int, named: dict, body: dict) -> Iterator[None]:
        task, source = body["task"], body["task"]["data"]
        must_be_known(task)
        if source["content_digest"] not in self.data:
            raise Refusal("dataset", f"this agent has no data of the content {source['content_digest']}")
        train, validation = (read_split(self.data[source["content_digest"]], source[split]) for split in ("train", "validation"))
        recipe, classes, history = task["recipe"], task["architecture"]["num_classes"], []
        network, random = (
            Network(task["architecture"], np.zeros((classes, 3)), np.zeros(classes)),
            np.random.default_rng(task["seed"]),
        )
        size = min(recipe["batch_size"], len(train[0]))
        each = recipe["steps_per_epoch"] or len(train[0]) // size
        for step in range(1, each * recipe["epochs"] + 1):
            if (named["task"], named["attempt"]) in self.cancelled:
                raise Refusal("cancelled", "the coordinator cancelled it")
            chosen = random.permutation(len(train[0]))[:size]
            images, labels = train[0][chosen], train[1][chosen]
            taught = (yield from self.be_taught(task, body, images)) if task["kind"] == "distill" else None
            gradient, loss = gradient_of_loss(task, network.logits(images), labels, taught)
            network.step(images, gradient, recipe["learning_rate"])
            link.say("TaskProgressEvent", named | {"step": step, "steps": each * recipe["epochs"], "loss": loss}, number)
            self.progress += 1
            if step % each == 0:
                history.append({"epoch": step // each, "loss": loss, "miou": miou(network, *validation), "seconds": 0.0})
            yield
        return network, history[-1]["miou"], history

    def be_taught(self, task: dict, body: dict, images: np.ndarray) -> Iterator[None]:
        """The teacher's logits for these images; others are served while it thinks."""
        (teacher,), asked = body["teachers"], {"kind": "soft_targets", "codec": "float32", "ways": ["inline"]}
        asked |= {"weights": teacher["weights"], "num_classes": task["architecture"]["num_classes"]}
        key, until = teacher["peer"]["public_key"], time.monotonic() + body["wait_s"]
        if key not in self.links:
            self.links[key] = Link(self, teacher["peer"] | {"may": ()})
        while not self.links[key].session and time.monotonic() < until:
            yield
        number = self.links[key].say("KnowledgeRequest", asked, 0, (write_tensors({"images": images}),))
        self.answers[number] = None
        while self.answers[number] is None and time.monotonic() < until:
            yield
        reply, buffers = self.answers.pop(number) or ({"text": "it does not answer"}, [])
        if not buffers or sha256(buffers[0]) != reply["piece"]["sha256"]:
            raise Refusal("exchange", f"teacher {teacher['weights'][:12]}: {reply.get('text', 'a damaged piece')}")
        return read_tensors(buffers[0])["logits"].astype("<f4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("--join", "--key", "--coordinator-key"):
        parser.add_argument(option, required=True)
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--data", help="DIGEST=FOLDER: images of that content digest")
    options = parser.parse_args()
    digest, _, folder = (options.data or "").partition("=")
    keys = json.loads(Path(options.key).read_text(encoding="ascii"))
    agent = Agent(options.join, keys, options.coordinator_key, options.classes, {digest: Path(folder)} if digest else None)
    print(json.dumps({"public_key": keys["public"], "weights": agent.weights}), flush=True)
    agent.run()


if __name__ == "__main__":
    main()

"""An agent in plain Python (pyzmq, msgpack, NumPy), written from protocols/ alone: it joins, is assessed, teaches and learns.

Without data it teaches that brighter pixels are of higher classes. With data it learns: from labels, from a teacher, or both.
"""

import argparse
import json
import os
import secrets
import time
from pathlib import Path

import zmq
from learning import Learning
from link import Link, reachable
from network import brightness, sha256
from teaching import KINDS, Teaching
from wire import OF_AGENTS, OF_COORDINATORS, TYPES, Refusal, decode, expect, read_text


class Agent(Teaching, Learning):
    """Answers what its peers ask, and learns a step at a time in between. ``data`` are folders by the digest of their content."""

    def __init__(
        self, join: str, keys: dict, coordinator_key: str, num_classes: int = 5, data: dict | None = None, names: tuple = ()
    ) -> None:
        self.keys, self.data, self.context, self.network = keys, data or {}, zmq.Context(), brightness(num_classes, list(names))
        self.weights, self.num_classes, self.names = sha256(self.network.file()), num_classes, list(names)
        self.files, self.offers, self.streams = {self.weights: self.network.file()}, {}, {}
        self.session, self.number, self.progress, self.refused = secrets.token_hex(8), 0, 0, {}
        self.fences, self.cancelled, self.lessons, self.answers = {}, set(), [], {}
        self.heartbeat_s, self.beat_at, self.has_left = 1.0, 0.0, False
        can = {"capabilities": ["stream", "learn"]} if data else {"capabilities": ["stream"], "teaches": self.weights}
        self.greeting = {"minor_min": 0, "minor_max": 0, "device": "cpu", "pid": os.getpid()} | can
        self.greeting |= {"classes": self.names} if names else {}
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
                if not link.socket.closed:  # since somebody heard before it said that it is not named any more
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
                return "PingReply", {"text": read_text(body.get("text", ""))}
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
                self.grant(self.links[key], peer.get("may", []))
            elif key not in {*self.links, self.keys["public"]} and reachable(peer):
                self.links[key] = Link(self, peer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for option in ("--join", "--key", "--coordinator-key"):
        parser.add_argument(option, required=True)
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--data", default="=", help="DIGEST=FOLDER: images of that content digest")
    parser.add_argument(
        "--names", default=(), type=lambda text: text.split(","), help="of the classes, in order, with commas between"
    )
    options = parser.parse_args()
    digest, _, folder = options.data.partition("=")
    keys = json.loads(Path(options.key).read_text(encoding="ascii"))
    if options.names and len(options.names) != options.classes:
        parser.error(f"--names has {len(options.names)} names, --classes is {options.classes}")
    data = {digest: Path(folder)} if digest else {}
    agent = Agent(options.join, keys, options.coordinator_key, options.classes, data, options.names)
    print(json.dumps({"public_key": keys["public"], "weights": agent.weights}), flush=True)
    agent.run()


if __name__ == "__main__":
    main()

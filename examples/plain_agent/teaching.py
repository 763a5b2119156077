"""How it teaches: assessments, soft targets and weights, inline or as streams with credit (protocols/protocol.md, section 4)."""

import zlib
from typing import TYPE_CHECKING

import numpy as np
from network import sha256
from wire import Refusal, expect, read_tensors, write_tensors

if TYPE_CHECKING:
    from agent import Link

CODECS = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
KINDS = ("weights", "soft_targets", "feature_maps", "assessment")


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


class Teaching:
    """The part of an agent that answers requests for what its network knows."""

    def assess(self, link: "Link", body: dict, buffers: list) -> dict:
        expect("assessment" in link.may, "grant", "this key may not have assessments")
        must_agree("num_classes", self.num_classes, body["num_classes"])
        images = read_images(buffers)
        counts = np.bincount(self.network.logits(images).argmax(axis=1).ravel(), minlength=self.num_classes)
        return {"weights": self.weights, "num_images": len(images), "predicted": (counts / counts.sum()).tolist()}

    def hand_over(self, link: "Link", body: dict, buffers: list) -> tuple[dict, list]:
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
        must_agree("classes", self.names, (self.names and body.get("classes")) or self.names)
        must_agree("codec", codec if codec in CODECS else "float32 or float16", codec)
        must_agree("payloads", [], [one for one in body.get("payloads", []) if one.get("form", "logits") != "logits"])
        must_agree("arithmetic", {}, body.get("arithmetic", {}))
        if not buffers:
            raise Refusal("dataset", "this teacher has no dataset; send the images")
        return write_tensors({"logits": self.network.logits(read_images(buffers)).astype(CODECS[codec])})

    def grant(self, link: "Link", may: list) -> None:
        """What a peer may fetch from now on. If that is less than before, it must ask again for what was offered."""
        if set(link.may) - set(may):
            self.offers = {key: file for key, file in self.offers.items() if key[0] != link.key}
            for number in [number for peer, number in self.streams if peer == link.key]:
                del self.streams[link.key, number]
                link.say("ErrorReply", Refusal("protocol", "this key may not fetch that any more", "grant").body, number)
        link.may = may

    def open_stream(self, link: "Link", number: int, body: dict) -> None:
        if (link.key, body["sha256"]) not in self.offers:
            raise Refusal("artifact", "that was not offered to you; ask for the knowledge again")
        file, chunk = self.offers[link.key, body["sha256"]], body["chunk_bytes"]
        expect(4096 <= chunk <= 16 * 1024**2, "body", "chunk_bytes is out of range")
        expect(0 <= body["offset"] <= len(file), "credit", "an offset beyond the end")
        self.streams = {key: stream for key, stream in self.streams.items() if key[0] != link.key or stream[0] is not file}
        self.streams[link.key, number] = [file, body["offset"], body["limit"], chunk]
        self.pump(link, number, body["limit"])

    def pump(self, link: "Link", number: int, limit: int) -> None:
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

// An agent in JavaScript: joins a community, says whether it knows images, and teaches by a rule instead of a network.
// Written from protocols/ alone. It does not listen: it dials its coordinator and the peers that it is told of.
//
//   node agent.mjs --join tcp://127.0.0.1:5555 --key agent.json --coordinator-key KEY [--classes 5]

import { createHash, randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { encode } from "@msgpack/msgpack";
import { Dealer } from "zeromq";
import { readMap } from "./strict.mjs";

const { values: options } = parseArgs({
  options: {
    join: { type: "string" },
    key: { type: "string" },
    "coordinator-key": { type: "string" },
    classes: { type: "string", default: "5" },
  },
});
const keys = JSON.parse(readFileSync(options.key, "utf8"));
const numClasses = Number(options.classes);
const session = randomBytes(8).toString("hex");

const TYPE = {
  HelloRequest: 1, WelcomeReply: 2, HeartbeatEvent: 3, PeersEvent: 4, LeaveRequest: 5, LeftEvent: 6, PingRequest: 7, PingReply: 8,
  StatusRequest: 9, TaskRequest: 10, CancelRequest: 13, StatusReply: 14, TeachRequest: 20, KnowledgeRequest: 30, KnowledgeReply: 31,
  ReleaseEvent: 32, AssessRequest: 33, AssessReply: 34, StreamRequest: 40, ErrorReply: 99,
};
const NAMES = Object.fromEntries(Object.entries(TYPE).map(([name, number]) => [number, name]));
const PREAMBLE_SIZE = 10;
const GREET_AGAIN_MS = 1000;
const STRIDE = 8;
const CODECS = ["float16", "float32"];
const KINDS = ["weights", "soft_targets", "feature_maps", "assessment"];
const INLINE_LIMIT = 64 * 1024 * 1024;

const refused = {};
const fences = new Map();
const dialed = new Map();
let progress = 0;
let numMessages = 0;
let numSaid = 0;

// Tensors.

function safetensors(name, dtype, shape, data) {
  let head = JSON.stringify({ [name]: { dtype, shape, data_offsets: [0, data.length] } });
  head += " ".repeat((8 - (head.length % 8)) % 8);
  const size = Buffer.alloc(8);
  size.writeBigUInt64LE(BigInt(head.length));
  return Buffer.concat([size, Buffer.from(head), data]);
}

function readImages(file) {
  if (!file || file.length < 8) throw refusal("tensors", "no safetensors file");
  const size = Number(file.readBigUInt64LE(0));
  if (size > 1024 * 1024 || size + 8 > file.length) throw refusal("tensors", "a header over its limit or cut short");
  let found;
  try {
    found = JSON.parse(file.subarray(8, 8 + size).toString("utf8")).images;
  } catch {
    throw refusal("tensors", "a header that is not JSON");
  }
  const [count, channels, height, width] = found?.shape ?? [];
  const length = 4 * count * channels * height * width;
  const isRight = found?.dtype === "F32" && found.shape.length === 4 && channels === 3 && length > 0;
  if (!isRight || found.data_offsets?.[1] !== length || 8 + size + length !== file.length) {
    throw refusal("tensors", "images must be [N,3,H,W] float32");
  }
  const values = new Float32Array(length / 4);
  for (let i = 0; i < values.length; i++) values[i] = file.readFloatLE(8 + size + 4 * i);
  if (!values.every(Number.isFinite)) throw refusal("tensors", "images must be finite");
  if (!values.every((value) => value >= 0 && value <= 1)) throw refusal("", "images: values must be in [0, 1]", "contract");
  return { count, height, width, values };
}

function toHalf(number) {
  // Float32 to float16, rounded to the nearest; small numbers become zero, which is close enough for logits.
  const bits = new Uint32Array(new Float32Array([number]).buffer)[0];
  const sign = (bits >>> 16) & 0x8000;
  const exponent = ((bits >>> 23) & 0xff) - 112;
  if (exponent <= 0) return sign;
  if (exponent >= 31) return sign | 0x7bff;
  return sign | (((exponent << 10) | ((bits >>> 13) & 0x3ff)) + ((bits >>> 12) & 1));
}

// What this agent knows: the brighter a pixel, the higher its class. Its "weights" are the brightness of each class.

const levels = Array.from({ length: numClasses }, (_, k) => (k + 0.5) / numClasses);
const levelBytes = Buffer.alloc(4 * numClasses);
levels.forEach((level, k) => levelBytes.writeFloatLE(level, 4 * k));
const weightsFile = safetensors("levels", "F32", [numClasses], levelBytes);
const weights = createHash("sha256").update(weightsFile).digest("hex");

function logitsOf({ count, height, width, values }) {
  const [h, w] = [Math.ceil(height / STRIDE), Math.ceil(width / STRIDE)];
  const logits = new Float32Array(count * numClasses * h * w);
  const plane = height * width;
  for (let n = 0; n < count; n++)
    for (let y = 0; y < h; y++)
      for (let x = 0; x < w; x++) {
        const at = n * 3 * plane + Math.min(y * STRIDE, height - 1) * width + Math.min(x * STRIDE, width - 1);
        const brightness = (values[at] + values[at + plane] + values[at + 2 * plane]) / 3;
        for (let k = 0; k < numClasses; k++) logits[((n * numClasses + k) * h + y) * w + x] = -8 * (brightness - levels[k]) ** 2;
      }
  return { shape: [count, numClasses, h, w], logits };
}

// Answers.

class Refusal extends Error {}

function refusal(rule, text, code = "protocol") {
  return Object.assign(new Refusal(text), { rule, code });
}

function mustBeGranted(link, kind) {
  if (!link.may.includes(kind)) throw refusal("grant", `this key may not fetch ${kind}`);
}

function mustAgree(field, mine, theirs) {
  if (mine !== theirs) throw refusal("", `${field} is ${mine} here, not ${theirs}`, "contract");
}

function assess(body, buffers) {
  mustAgree("num_classes", numClasses, body.num_classes);
  const { shape, logits } = logitsOf(readImages(buffers[0]));
  const [count, , h, w] = shape;
  const counts = new Array(numClasses).fill(0);
  for (let n = 0; n < count; n++)
    for (let p = 0; p < h * w; p++) {
      let best = 0;
      for (let k = 1; k < numClasses; k++) {
        if (logits[(n * numClasses + k) * h * w + p] > logits[(n * numClasses + best) * h * w + p]) best = k;
      }
      counts[best]++;
    }
  return { weights, num_images: count, known_fraction: null, predicted: counts.map((c) => c / (count * h * w) + 0.0) };
}

function knowledge(body, buffers) {
  if (body.kind === "weights" && body.weights !== weights) throw refusal("", `no artifact ${body.weights} here`, "artifact");
  mustAgree("weights", weights, body.weights);
  if (!body.ways?.includes("inline")) throw refusal("", "pieces go inline from here", "exchange");
  let file = weightsFile;
  if (!["weights", "soft_targets"].includes(body.kind)) throw refusal("", `no ${body.kind} from here`, "contract");
  if (body.kind === "soft_targets") {
    mustAgree("num_classes", numClasses, body.num_classes);
    mustAgree("codec", CODECS.includes(body.codec) ? body.codec : CODECS.join(" or "), body.codec);
    if ((body.payloads ?? []).some((payload) => payload.form !== "logits")) throw refusal("", "only logits from here", "contract");
    if (Object.keys(body.arithmetic ?? {}).length) throw refusal("", "only float32, as it is, from here", "contract");
    if (buffers.length !== 1) throw refusal("", "this teacher has no dataset; send the images", "dataset");
    const { shape, logits } = logitsOf(readImages(buffers[0]));
    const width = body.codec === "float16" ? 2 : 4;
    const data = Buffer.alloc(width * logits.length);
    logits.forEach((z, i) => (width === 2 ? data.writeUInt16LE(toHalf(z), 2 * i) : data.writeFloatLE(z, 4 * i)));
    file = safetensors("logits", width === 2 ? "F16" : "F32", shape, data);
  }
  const sha256 = createHash("sha256").update(file).digest("hex");
  const piece = { way: "inline", size_bytes: file.length, sha256, handle: null };
  return [{ kind: body.kind, weights, piece, teacher_s: 0.5 }, [file]];
}

function answer(link, name, body, buffers) {
  const needsCoordinator = ["PeersEvent", "StatusRequest", "TaskRequest", "CancelRequest", "TeachRequest", "LeaveRequest"];
  if (needsCoordinator.includes(name) && !link.coordinates) throw refusal("role", `${name} may be said by: coordinator`);
  switch (name) {
    case "WelcomeReply":
      if (link.coordinates) link.beating ??= setInterval(() => beat(link), 1000 * Math.max(0.1, body.heartbeat_s)).unref();
      return null;
    case "ErrorReply":
      if (body.code === "protocol" && body.rule === "greeting" && link.session) link.greet(); // the other side was started again
      return null;
    case "PeersEvent":
      for (const [key, other] of dialed) {
        if (!other.coordinates && !body.peers.some((peer) => peer.public_key === key)) other.hangUp();
      }
      for (const peer of body.peers) {
        const tcp = peer.endpoints?.find((endpoint) => endpoint.startsWith("tcp://"));
        if (tcp && peer.public_key !== keys.public) dial(tcp, peer.public_key, false);
        const other = dialed.get(peer.public_key);
        if (other && !other.coordinates) other.may = peer.may ?? [];
      }
      return null;
    case "PingRequest":
      if (typeof body.text !== "string" || body.text.length > 65536) throw refusal("body", "text is missing or too long");
      return ["PingReply", { text: body.text }];
    case "StatusRequest":
      return ["StatusReply", { progress, is_busy: false, counters: { messages_received: numMessages }, refused }];
    case "AssessRequest":
      mustBeGranted(link, "assessment");
      return ["AssessReply", assess(body, buffers)];
    case "KnowledgeRequest":
      if (!/^[0-9a-f]{64}$/.test(body.weights ?? "") || typeof body.kind !== "string") throw refusal("body", "kind or weights is wrong");
      mustBeGranted(link, body.kind);
      return ["KnowledgeReply", ...knowledge(body, buffers)];
    case "TaskRequest": {
      if (body.attempt < (fences.get(body.key) ?? 0)) throw refusal("fence", "that attempt is over");
      fences.set(body.key, body.attempt);
      return ["ErrorReply", error("config", "this agent teaches and does not learn", "", { task: body.key, attempt: body.attempt })];
    }
    case "TeachRequest":
      return ["ErrorReply", error("config", "this agent teaches what it knows and adopts nothing")];
    case "StreamRequest":
      return ["ErrorReply", error("artifact", "nothing was offered as a stream")];
    case "LeaveRequest":
      return ["LeftEvent", { reason: "asked to leave" }];
    default:
      return null; // an answer that nobody waits for, or an event that does not concern a teacher
  }
}

function error(code, text, rule = "", more = {}) {
  return { code, rule, remote_type: "Error", text, retryable: false, task: "", attempt: 0, ...more };
}

// Connections.

function decode(frames) {
  const broken = (rule, text) => Object.assign(refusal(rule, text), { number: 0 });
  if (frames.length < 1 || frames.length > 17) throw broken("frames", `${frames.length} frames`);
  const [envelope, ...buffers] = frames;
  const isMessage = envelope.length >= PREAMBLE_SIZE && envelope.subarray(0, 4).toString("latin1") === "AKDP";
  if (!isMessage) throw broken("preamble", "no preamble");
  if (envelope[4] !== 2 || envelope[5] !== 0) throw broken("version", "this side speaks 2.0");
  if (envelope[7] !== 0) throw broken("flags", "an unknown flag");
  const isKnown = envelope[6] in NAMES || [11, 12, 21, 22, 41, 42, 43, 44].includes(envelope[6]);
  if (!isKnown) throw broken("type", "an unknown type");
  const end = PREAMBLE_SIZE + envelope.readUInt16BE(8);
  const [head, bodyBytes] = [envelope.subarray(PREAMBLE_SIZE, end), envelope.subarray(end)];
  if (bodyBytes.length === 0) throw broken("frames", "no body");
  if (head.length > 16384 || bodyBytes.length > 1048576) throw broken("limit", "a frame over its limit");
  if (buffers.reduce((sum, buffer) => sum + buffer.length, 0) > INLINE_LIMIT) throw broken("limit", "buffers over their limit");
  const header = readMap(head);
  for (const number of [header.msg_id, header.parent_id ?? 0]) {
    if (!Number.isSafeInteger(number) || number < 0) throw broken("header", "msg_id or parent_id is wrong");
  }
  if (header.msg_id === 0) throw broken("header", "msg_id is 0, which is nobody's number");
  if (!/^[0-9a-f]{16}$/.test(header.session ?? "")) throw broken("header", "session is wrong");
  return { name: NAMES[envelope[6]] ?? "other", header, body: readMap(bodyBytes), buffers };
}

class Link {
  constructor(endpoint, publicKey, coordinates) {
    Object.assign(this, { endpoint, publicKey, coordinates, session: "", may: coordinates ? KINDS : [] });
    this.greet();
  }

  greet() {
    this.session = "";
    clearInterval(this.redial);
    this.dial();
    this.redial = setInterval(() => (this.session ? clearInterval(this.redial) : this.dial()), GREET_AGAIN_MS);
  }

  hangUp() {
    clearInterval(this.redial);
    this.socket.linger = 0;
    this.socket.close();
    dialed.delete(this.publicKey);
  }

  // ZeroMQ does not come again by itself after a handshake that was refused, so whoever is not welcomed dials anew.
  dial() {
    if (this.socket) {
      this.socket.linger = 0;
      this.socket.close();
    }
    this.queue = Promise.resolve();
    this.socket = new Dealer({
      curvePublicKey: keys.public, curveSecretKey: keys.secret, curveServerKey: this.publicKey, linger: 500,
    });
    this.socket.connect(this.endpoint);
    this.say("HelloRequest", {
      minor_min: 0, minor_max: 0, agent: "", endpoints: [], capabilities: [], host: "", store: "", window_bytes: 0,
      teaches: weights, pid: process.pid, device: "javascript", environment: { node: process.version },
    });
    this.listen(this.socket);
  }

  say(name, body, parentId = 0, buffers = []) {
    const head = encode({ msg_id: ++numSaid, parent_id: parentId, session });
    const preamble = Buffer.from([0x41, 0x4b, 0x44, 0x50, 2, 0, TYPE[name], 0, head.length >> 8, head.length & 0xff]);
    const envelope = Buffer.concat([preamble, head, encode(body)]);
    const { socket } = this;
    this.queue = this.queue.then(() => socket.send([envelope, ...buffers])).catch(() => {});
    return this.queue;
  }

  async listen(socket) {
    for await (const frames of socket) {
      numMessages++;
      let parentId = 0;
      try {
        const { name, header, body, buffers } = decode(frames);
        parentId = header.msg_id;
        if (name === "WelcomeReply") this.session = header.session;
        else if (name !== "ErrorReply" && !this.session) throw refusal("greeting", `${name} before the greeting`);
        else if (name !== "ErrorReply" && header.session !== this.session) throw refusal("session", "a session that did not greet");
        const said = answer(this, name, body, buffers);
        progress++;
        if (said) await this.say(said[0], said[1], parentId, said[2] ?? []);
        if (name === "LeaveRequest") {
          this.socket.close();
          process.exit(0);
        }
      } catch (problem) {
        const isRefusal = problem instanceof Refusal;
        const code = isRefusal ? problem.code : "protocol";
        if (code === "protocol") refused[problem.rule ?? "msgpack"] = (refused[problem.rule ?? "msgpack"] ?? 0) + 1;
        const isError = frames[0]?.length >= PREAMBLE_SIZE && frames[0][6] === TYPE.ErrorReply;
        if (isRefusal && !isError) await this.say("ErrorReply", error(code, problem.message, problem.rule), parentId);
      }
    }
  }
}

function beat(link) {
  link.say("HeartbeatEvent", { progress, is_busy: false });
}

function dial(endpoint, publicKey, coordinates) {
  if (!dialed.has(publicKey)) dialed.set(publicKey, new Link(endpoint, publicKey, coordinates));
}

dial(options.join, options["coordinator-key"], true);
console.log(JSON.stringify({ agent: "javascript", public_key: keys.public, weights }));
setInterval(() => {}, 60_000);

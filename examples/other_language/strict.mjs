// Reads one msgpack map as protocols/protocol.md, section 1, allows it: text keys, each once; no extensions, no binary values.

const MAX_CONTAINERS = 16384;
const MAX_TEXT = 262144;
const MAX_DEPTH = 100;
const utf8 = new TextDecoder("utf-8", { fatal: true });

export function readMap(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  let containers = 0;

  const take = (size) => {
    if (at + size > bytes.length) throw new Error("cut short");
    at += size;
    return at - size;
  };
  const text = (size) => {
    if (size > MAX_TEXT) throw new Error("text over its limit");
    const start = take(size);
    return utf8.decode(bytes.subarray(start, start + size));
  };
  const container = (depth) => {
    if (++containers > MAX_CONTAINERS || depth > MAX_DEPTH) throw new Error("too many lists and maps");
  };
  const list = (size, depth) => {
    container(depth);
    const items = [];
    for (let i = 0; i < size; i++) items.push(value(depth + 1));
    return items;
  };
  const map = (size, depth) => {
    container(depth);
    const made = new Map();
    for (let i = 0; i < size; i++) {
      const key = value(depth + 1);
      if (typeof key !== "string" || made.has(key)) throw new Error("a key that is no text, or stands twice");
      made.set(key, value(depth + 1));
    }
    return Object.fromEntries(made);
  };
  const integer = (big) => {
    if (big > Number.MAX_SAFE_INTEGER || big < Number.MIN_SAFE_INTEGER) return big; // a BigInt where a number would lie
    return Number(big);
  };

  function value(depth) {
    const kind = bytes[take(1)];
    if (kind < 0x80) return kind;
    if (kind < 0x90) return map(kind & 0x0f, depth);
    if (kind < 0xa0) return list(kind & 0x0f, depth);
    if (kind < 0xc0) return text(kind & 0x1f);
    if (kind >= 0xe0) return kind - 0x100;
    switch (kind) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xca: return finite(view.getFloat32(take(4)));
      case 0xcb: return finite(view.getFloat64(take(8)));
      case 0xcc: return view.getUint8(take(1));
      case 0xcd: return view.getUint16(take(2));
      case 0xce: return view.getUint32(take(4));
      case 0xcf: return integer(view.getBigUint64(take(8)));
      case 0xd0: return view.getInt8(take(1));
      case 0xd1: return view.getInt16(take(2));
      case 0xd2: return view.getInt32(take(4));
      case 0xd3: return integer(view.getBigInt64(take(8)));
      case 0xd9: return text(view.getUint8(take(1)));
      case 0xda: return text(view.getUint16(take(2)));
      case 0xdb: return text(view.getUint32(take(4)));
      case 0xdc: return list(view.getUint16(take(2)), depth);
      case 0xdd: return list(view.getUint32(take(4)), depth);
      case 0xde: return map(view.getUint16(take(2)), depth);
      case 0xdf: return map(view.getUint32(take(4)), depth);
      default: throw new Error("a kind of value that may not be");
    }
  }

  const made = value(0);
  if (at !== bytes.length) throw new Error("octets behind the map");
  if (made === null || typeof made !== "object" || Array.isArray(made)) throw new Error("not a map");
  return made;
}

function finite(number) {
  if (!Number.isFinite(number)) throw new Error("not a number");
  return number;
}

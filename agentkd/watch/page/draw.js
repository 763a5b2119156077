// Plots on canvases, sharp on any screen. What is under the pointer, or chosen by the arrow keys, is told in words.

export const SHAPES = { baseline: "circle", search: "square", round1: "triangle", round2: "star", test: "diamond", "": "circle" };
export const STAGES = { baseline: "Baseline", search: "Search", round1: "Round 1", round2: "Round 2", test: "Test" };
export const DASHES = { baseline: [2, 3], search: [], round1: [7, 4], round2: [8, 3, 2, 3], test: [1, 4], "": [] };
export const NUM_COLORS = 8;

let known = null;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { known = null; });

/** The colors of this page now. */
export function palette() {
  if (known) return known;
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  known = { ink: of("ink"), soft: of("soft"), line: of("line"), grid: of("grid"), card: of("card"), ground: of("ground"), accent: of("accent"), bad: of("bad"), families: [] };
  for (let i = 0; i < NUM_COLORS; i++) known.families.push(of(`family-${i}`));
  return known;
}

export const familyColor = (index) => (index >= 0 ? palette().families[index % NUM_COLORS] : palette().soft);

// Texts.
export const percent = (score, digits = 1) => (score == null ? "–" : `${(100 * score).toFixed(digits)} %`);
export const points = (gain) => `${gain >= 0 ? "+" : "−"}${Math.abs(100 * gain).toFixed(2)} points`;
export function short(count) {
  for (const [size, suffix] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) if (count >= size) return `${(count / size).toPrecision(3)}${suffix}`;
  return String(count);
}
export function bytes(count) {
  for (const [size, suffix] of [[2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) if (count >= size) return `${(count / size).toPrecision(3)} ${suffix}`;
  return `${Math.round(count)} B`;
}
export function clock(seconds) {
  const all = Math.max(0, Math.round(seconds)), two = (value) => String(value).padStart(2, "0");
  const [h, m, s] = [Math.floor(all / 3600), Math.floor(all / 60) % 60, all % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

/** A shape for each stage, around a place. */
export function trace(context, shape, x, y, r) {
  context.beginPath();
  if (shape === "circle") context.arc(x, y, r, 0, 2 * Math.PI);
  else if (shape === "square") context.rect(x - 0.88 * r, y - 0.88 * r, 1.76 * r, 1.76 * r);
  else if (shape === "star") polygon(context, x, y, 10, (i) => (i % 2 ? 0.5 : 1.3) * r, -90);
  else if (shape === "triangle") polygon(context, x, y + 0.15 * r, 3, () => 1.2 * r, -90);
  else polygon(context, x, y, 4, () => 1.2 * r, -90);
}

function polygon(context, x, y, count, radius, turn) {
  for (let i = 0; i < count; i++) {
    const angle = (turn + (360 / count) * i) * (Math.PI / 180);
    context[i ? "lineTo" : "moveTo"](x + radius(i) * Math.cos(angle), y + radius(i) * Math.sin(angle));
  }
  context.closePath();
}

/** Round numbers from low to high, about so many. */
export function ticks(low, high, about) {
  const raw = (high - low) / Math.max(1, about), power = 10 ** Math.floor(Math.log10(raw || 1));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw) || power;
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + 1e-9; value += step) found.push(Math.abs(value) < 1e-12 ? 0 : value);
  return found;
}

/** Round times. */
export function timeTicks(low, high, about) {
  const steps = [1, 5, 10, 30, 60, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400, 172800, 604800];
  const step = steps.find((one) => one >= (high - low) / Math.max(1, about)) || 604800 * Math.ceil((high - low) / 604800 / about);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(value);
  return found;
}

/** Powers of ten with 2 and 5 between, as a logarithmic axis has them. */
export function logTicks(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const one of [1, 2, 5]) if (one * 10 ** power >= low * 0.999 && one * 10 ** power <= high * 1.001) found.push(one * 10 ** power);
  return found.length > 7 ? found.filter((value) => /^1e?0*/.test(String(value)) && Math.log10(value) % 1 < 1e-9) : found;
}

export class Plot {
  /** `paint(context, width, plot)` draws, and fills `plot.hits` with {x, y, text} or {x0, x1, y0, y1, text}. */
  constructor(id, height, paint) {
    this.canvas = document.getElementById(id);
    this.tip = this.canvas.parentElement.querySelector(".tip");
    this.context = this.canvas.getContext("2d");
    this.height = height;
    this.paint = paint;
    this.hits = [];
    this.chosen = -1;
    new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
    this.canvas.addEventListener("pointermove", (event) => this.point(event.offsetX, event.offsetY));
    this.canvas.addEventListener("pointerleave", () => { if (this.chosen < 0) this.tell(null); });
    this.canvas.addEventListener("blur", () => this.choose(-1));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  draw() {
    const width = this.canvas.parentElement.clientWidth, scale = Math.min(3, devicePixelRatio || 1);
    if (!width) return;
    const height = typeof this.height === "function" ? this.height() : this.height;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
      this.canvas.style.height = `${height}px`;
    }
    this.context.setTransform(scale, 0, 0, scale, 0, 0);
    this.context.clearRect(0, 0, width, height);
    this.context.font = '12px system-ui, "DejaVu Sans", sans-serif';
    this.hits = [];
    this.paint(this.context, width, height, this);
    if (this.chosen >= this.hits.length) this.chosen = -1;
    if (this.chosen >= 0) this.ring(this.hits[this.chosen]);
  }

  /** Axes with grid and labels; returns where the plot is and functions from values to places. */
  axes(width, height, x, y) {
    const c = this.context, colors = palette(), left = 46, right = 12, top = 8, bottom = x.title ? 38 : 24;
    const box = { left, top, right: width - right, bottom: height - bottom };
    const log = x.log === true;
    const scaleX = (value) => (log ? Math.log10(value / x.low) / Math.log10(x.high / x.low) : (value - x.low) / (x.high - x.low || 1));
    const px = (value) => box.left + scaleX(value) * (box.right - box.left);
    const py = (value) => box.bottom - ((value - y.low) / (y.high - y.low || 1)) * (box.bottom - box.top);
    c.lineWidth = 1;
    c.strokeStyle = colors.grid;
    c.fillStyle = colors.soft;
    c.textBaseline = "middle";
    c.textAlign = "right";
    for (const value of ticks(y.low, y.high, Math.max(2, height / 60))) {
      line(c, box.left, py(value), box.right, py(value));
      c.fillText(y.text(value), box.left - 6, py(value));
    }
    c.textBaseline = "top";
    c.textAlign = "center";
    let reached = -1e9;
    for (const value of log ? logTicks(x.low, x.high) : (x.ticks || ticks)(x.low, x.high, Math.max(2, width / 110))) {
      const place = px(value), text = x.text(value), half = c.measureText(text).width / 2;
      if (place - half < reached + 8 || place + half > width) continue;
      reached = place + half;
      line(c, place, box.top, place, box.bottom);
      c.fillText(text, place, box.bottom + 5);
    }
    c.strokeStyle = colors.line;
    line(c, box.left, box.bottom, box.right, box.bottom);
    if (x.title) c.fillText(x.title, (box.left + box.right) / 2, box.bottom + 21);
    return { box, px, py };
  }

  empty(width, height, text) {
    this.context.fillStyle = palette().soft;
    this.context.textAlign = "center";
    this.context.textBaseline = "middle";
    this.context.fillText(text, width / 2, height / 2);
  }

  point(x, y) {
    let best = -1, least = 18;
    this.hits.forEach((hit, index) => {
      const away = hit.x0 === undefined ? Math.hypot(hit.x - x, hit.y - y) : x >= hit.x0 - 2 && x <= hit.x1 + 2 && y >= hit.y0 && y <= hit.y1 ? 1 : 99;
      if (away < least) { best = index; least = away; }
    });
    this.tell(best >= 0 ? this.hits[best] : null);
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") this.choose(-1);
    else if (event.key === "Home") this.choose(0);
    else if (event.key === "End") this.choose(this.hits.length - 1);
    else if (step && this.hits.length) this.choose(this.chosen < 0 && step < 0 ? this.hits.length - 1 : (this.chosen + step + this.hits.length) % this.hits.length);
    else return;
    event.preventDefault();
  }

  choose(index) {
    this.chosen = index < this.hits.length ? index : -1;
    this.draw();
    const hit = this.hits[this.chosen] || null;
    this.tell(hit);
    document.getElementById("spoken").textContent = hit ? hit.text.replaceAll("\n", ", ") : "";
  }

  ring(hit) {
    this.context.strokeStyle = palette().ink;
    this.context.lineWidth = 2;
    if (hit.x0 === undefined) { this.context.beginPath(); this.context.arc(hit.x, hit.y, 9, 0, 2 * Math.PI); this.context.stroke(); }
    else this.context.strokeRect(hit.x0 - 1, hit.y0, Math.max(3, hit.x1 - hit.x0 + 2), hit.y1 - hit.y0);
  }

  tell(hit) {
    this.tip.hidden = !hit;
    if (!hit) return;
    this.tip.textContent = hit.text;
    const x = hit.x0 === undefined ? hit.x : (Math.max(0, hit.x0) + hit.x1) / 2, y = hit.x0 === undefined ? hit.y : hit.y1;
    const most = this.canvas.clientWidth - this.tip.offsetWidth - 4;
    this.tip.style.left = `${Math.max(2, Math.min(most, x + 10))}px`;
    this.tip.style.top = `${y + 10}px`;
  }
}

export function line(context, x0, y0, x1, y1) {
  context.beginPath();
  context.moveTo(x0, Math.round(y0) + 0.5);
  context.lineTo(x1, Math.round(y1) + 0.5);
  if (x0 === x1) { context.beginPath(); context.moveTo(Math.round(x0) + 0.5, y0); context.lineTo(Math.round(x0) + 0.5, y1); }
  context.stroke();
}

/** Low and high of values with room; from 0 unless that would squeeze them into a strip. */
export function range(values, { room = 0.06, most = Infinity } = {}) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
  if (low > high) return { low: 0, high: 1 };
  const pad = Math.max((high - low) * room, Math.abs(high) * 0.01, 1e-6);
  const begin = low < 0.55 * high && low >= 0 ? 0 : Math.max(low >= 0 ? 0 : -Infinity, low - pad);
  return { low: begin, high: Math.min(Math.max(most, high), high + pad) };
}

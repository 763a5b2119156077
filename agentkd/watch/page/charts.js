// Scores against sizes, against time and against epochs, and losses.

import { DASHES, Plot, SHAPES, STAGES, clock, familyColor, palette, percent, points, range, short, timeTicks, trace } from "./draw.js";

const TRAINED = new Set(["train", "distill", "mutual"]);
const GREY = 0.55;

/** Networks that were trained, in the order in which they were done. */
function trained(store) {
  const found = [];
  for (const [key, task] of Object.entries(store.sections.tasks))
    if (TRAINED.has(task.kind) && task.status === "completed" && task.size > 0 && task.score > 0) found.push({ key, ...task });
  return found.sort((a, b) => a.to - b.to);
}

/** Those that nothing smaller beats, smallest first. */
function front(networks) {
  const kept = [];
  for (const one of [...networks].sort((a, b) => a.size - b.size || b.score - a.score))
    if (!kept.length || one.score > kept[kept.length - 1].score) kept.push(one);
  return kept;
}

function steps(c, points_, until) {
  c.beginPath();
  points_.forEach(([x, y], i) => {
    if (i) c.lineTo(x, points_[i - 1][1]);
    c[i ? "lineTo" : "moveTo"](x, y);
  });
  if (points_.length && until > points_[points_.length - 1][0]) c.lineTo(until, points_[points_.length - 1][1]);
  c.stroke();
}

export class Pareto {
  constructor(store) {
    this.store = store;
    this.plot = new Plot("pareto", 330, (c, w, h, plot) => this.paint(c, w, h, plot));
  }

  update() {
    this.networks = trained(this.store);
    this.front = front(this.networks);
    this.plot.draw();
  }

  paint(c, width, height, plot) {
    const { store, networks = [] } = this, colors = palette();
    const others = Object.entries(store.sections.others).flatMap(([name, run]) => (run.points || []).map(([size, score]) => ({ name, size, score })));
    const all = [...networks, ...others];
    if (!networks.length) return plot.empty(width, height, "No network has been trained yet.");
    let low = Infinity, high = 0;
    for (const one of all) { low = Math.min(low, one.size); high = Math.max(high, one.size); }
    const x = { low: low / 1.25, high: high * 1.25, log: true, text: short, title: "parameters that inference needs" };
    const { box, px, py } = plot.axes(width, height, x, { ...range(all.map((one) => one.score), { most: 1 }), text: (value) => percent(value, 0) });
    c.lineWidth = 1;
    c.strokeStyle = colors.soft;
    for (const one of others) { trace(c, "circle", px(one.size), py(one.score), 3); c.globalAlpha = 0.6; c.stroke(); c.globalAlpha = 1; }
    const standing = new Map();
    for (const row of store.verdictRows()) if (!standing.has(row.network.key)) standing.set(row.network.key, row);
    for (const one of networks) {
      if (standing.has(one.key)) continue;
      c.globalAlpha = networks.length > 300 ? 0.35 : 0.5;
      c.fillStyle = familyColor(one.family);
      trace(c, SHAPES[one.stage || ""], px(one.size), py(one.score), networks.length > 2000 ? 2 : 3.6);
      c.fill();
      c.globalAlpha = 1;
    }
    c.strokeStyle = colors.ink;
    c.lineWidth = 1.3;
    c.setLineDash([5, 4]);
    steps(c, this.front.map((one) => [px(one.size), py(one.score)]), box.right);
    c.setLineDash([]);
    for (const row of standing.values()) {
      const { size, score } = row.network;
      trace(c, SHAPES[row.stage], px(size), py(score), 6.5);
      c.fillStyle = familyColor(row.index);
      c.fill();
      c.strokeStyle = colors.ink;
      c.lineWidth = 1.2;
      c.stroke();
    }
    const onFront = new Set(this.front);
    const told = networks.length > 1500 ? this.front : networks;
    for (const one of [...told].sort((a, b) => a.size - b.size)) {
      const text = `${store.family(one.family)}${one.stage ? `, ${STAGES[one.stage]}` : ""}: ${one.label}\n${store.measure()} ${percent(one.score, 2)}, ${short(one.size)} parameters${onFront.has(one) ? "\non the Pareto front" : ""}`;
      plot.hits.push({ x: px(one.size), y: py(one.score), text });
    }
    plot.canvas.setAttribute("aria-label", `Score against size of ${networks.length} networks, ${this.front.length} on the Pareto front. Arrow keys go through them, the smallest first.`);
  }
}

export class Best {
  constructor(store) {
    this.store = store;
    this.plot = new Plot("best", 330, (c, w, h, plot) => this.paint(c, w, h, plot));
    this.note = document.getElementById("best-note");
  }

  update() {
    const lines = new Map();
    for (const one of trained(this.store)) {
      const so = lines.get(one.family) || lines.set(one.family, []).get(one.family);
      if (!so.length || one.score > so[so.length - 1].score) so.push(one);
    }
    this.lines = lines;
    this.note.textContent = this.gain();
    this.plot.draw();
  }

  /** What the last hour of work brought, over all families. */
  gain() {
    const all = [...this.lines.values()].flat().sort((a, b) => a.to - b.to);
    let best = 0;
    const rises = all.filter((one) => one.score > best && (best = one.score));
    if (rises.length < 1) return "";
    const ends = this.store.end(), baselines = Object.values(this.store.sections.tasks).filter((one) => one.stage === "baseline" && one.to != null);
    const begun = Math.max(rises[0].to, ...baselines.map((one) => one.to)), isOfHour = begun <= ends - 3600, since = isOfHour ? ends - 3600 : begun;
    const gained = best - rises.filter((one) => one.to <= since).pop().score;
    this.store.gain = { gained, isOfHour };
    const span = isOfHour ? "The last hour" : `The ${clock(ends - begun)} since ${baselines.length ? "the baselines" : "the first result"}`;
    return `${span} brought ${points(gained)} of ${this.store.measure()}; the newest best came after ${clock(rises[rises.length - 1].to)}.`;
  }

  paint(c, width, height, plot) {
    const { store, lines } = this;
    if (!lines?.size) return plot.empty(width, height, "No network has been trained yet.");
    const all = [...lines.values()].flat(), ends = Math.max(store.end(), 1);
    const x = { low: 0, high: ends, ticks: timeTicks, text: clock, title: "time that the run worked" };
    const { px, py } = plot.axes(width, height, x, { ...range(all.map((one) => one.score), { most: 1 }), text: (value) => percent(value, 0) });
    for (const [family, so] of lines) {
      c.strokeStyle = c.fillStyle = familyColor(family);
      c.lineWidth = 2;
      steps(c, so.map((one) => [px(one.to), py(one.score)]), px(ends));
      for (const one of so) {
        trace(c, SHAPES[one.stage || ""], px(one.to), py(one.score), 4.5);
        c.fill();
      }
    }
    for (const one of all.sort((a, b) => a.to - b.to))
      plot.hits.push({ x: px(one.to), y: py(one.score), text: `${clock(one.to)}: ${store.family(one.family)}\n${one.label}\n${store.measure()} ${percent(one.score, 2)}` });
    plot.canvas.setAttribute("aria-label", `The best score of each family over time. ${this.note.textContent}`);
  }
}

export class Curves {
  /** `what` is scores or losses. */
  constructor(store, id, what) {
    this.store = store;
    this.what = what;
    this.plot = new Plot(id, () => (this.curves().length ? 290 : 90), (c, w, h, plot) => this.paint(c, w, h, plot));
  }

  update() {
    const isAny = Object.values(this.store.sections.curves).some((one) => one.losses.length);
    document.getElementById("losses-card").hidden = !isAny;
    document.getElementById("curves-card").classList.toggle("wide", !isAny);
    this.plot.draw();
  }

  live() { return Object.values(this.store.sections.curves).filter((one) => one[this.what].length); }
  standing() { return this.what === "scores" ? this.store.verdictCurves().filter((one) => one.scores.length) : []; }
  curves() { return [...this.standing(), ...this.live()]; }

  paint(c, width, height, plot) {
    const { store, what } = this, live = this.live(), standing = this.standing(), all = this.curves();
    if (!all.length) return plot.empty(width, height, what === "scores" ? "Nothing has been validated yet." : "Nothing learns now.");
    const xs = all.flatMap((one) => one[what].map(([epoch]) => epoch)), ys = all.flatMap((one) => one[what].map(([, value]) => value));
    const whole = (low, high, about) => [...new Set(timesOf(low, high, about))];
    const x = { low: 0, high: Math.max(1, ...xs), ticks: whole, text: String, title: "epoch" };
    const text = what === "scores" ? (value) => percent(value, 0) : (value) => value.toPrecision(2);
    const { box, px, py } = plot.axes(width, height, x, { ...range(what === "scores" ? ys : usual(ys), what === "scores" ? { most: 1 } : {}), text });
    c.save();
    c.beginPath();
    c.rect(box.left - 6, box.top - 6, box.right - box.left + 12, box.bottom - box.top + 12);
    c.clip();
    const draw = (one, family, alpha, lineWidth) => {
      c.strokeStyle = c.fillStyle = familyColor(family);
      c.globalAlpha = alpha;
      c.lineWidth = lineWidth;
      c.setLineDash(DASHES[one.stage || ""] || []);
      c.beginPath();
      one[what].forEach(([epoch, value], i) => c[i ? "lineTo" : "moveTo"](px(epoch), py(value)));
      c.stroke();
      c.setLineDash([]);
      const [epoch, value] = one[what][one[what].length - 1];
      trace(c, SHAPES[one.stage || ""], px(epoch), py(value), 4);
      c.fill();
      c.globalAlpha = 1;
      const said = what === "scores" ? `${store.measure()} ${percent(value, 2)}` : `loss ${value}`;
      plot.hits.push({ x: px(epoch), y: py(value), text: `${one.label || store.family(family)}${one.stage ? `, ${STAGES[one.stage]}` : ""}\nepoch ${Math.round(epoch * 10) / 10}: ${said}` });
    };
    for (const one of standing) draw(one, one.index, live.length ? GREY : 1, live.length ? 1.2 : 1.8);
    for (const one of live) draw(one, one.family, 1, 2);
    c.restore();
    plot.canvas.setAttribute("aria-label", `${what === "scores" ? "Validation score by epoch" : "Training loss by epoch"}: ${live.length} tasks under way${standing.length ? `, ${standing.length} that stand for a family` : ""}.`);
  }
}

/** Losses without the few at the beginning that are far above all others. */
function usual(values) {
  const sorted = [...values].sort((a, b) => a - b), most = 4 * sorted[Math.floor(sorted.length / 2)];
  return sorted.filter((value) => value <= most);
}

/** Whole numbers from low to high, about so many. */
function timesOf(low, high, about) {
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 10000].find((one) => one >= (high - low) / about) || 100000;
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(value);
  return found;
}

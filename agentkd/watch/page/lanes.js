// Agents as lanes over time: a bar for each task in the color of its family, with the shape of its stage; thin where an agent taught.

import { Plot, SHAPES, STAGES, clock, familyColor, line, palette, percent, short, timeTicks, trace } from "./draw.js";

const LANE = 24, TOP = 6, BOTTOM = 26, AT_FIRST = 24, MORE = 60, UNTIL_TEXT = 70;
const BAD = { failed: "failed", infeasible: "infeasible", lost: "lost", stopped: "stopped" };

const natural = new Intl.Collator("en", { numeric: true });

export class Lanes {
  constructor(store) {
    this.store = store;
    this.shown = AT_FIRST;
    this.names = [];
    this.filter = document.getElementById("filter");
    this.span = document.getElementById("span");
    this.more = document.getElementById("more");
    this.note = document.getElementById("lanes-note");
    this.plot = new Plot("lanes", () => TOP + BOTTOM + LANE * Math.max(2, this.names.length), (c, w, h, plot) => this.paint(c, w, h, plot));
    this.filter.addEventListener("input", () => this.update());
    this.span.addEventListener("change", () => this.update());
    this.more.addEventListener("click", () => { this.shown += MORE; this.update(); });
  }

  /** Which lanes there are: agents that are there first, then those that did something last. */
  update() {
    const { agents, tasks } = this.store.sections, wanted = this.filter.value.trim().toLowerCase();
    this.bars = new Map();
    const lane = (name) => this.bars.get(name) || this.bars.set(name, { last: -1, tasks: [], taught: [] }).get(name);
    for (const name in agents) lane(name).last = Infinity;
    for (const key in tasks) {
      const task = tasks[key], to = task.to ?? Infinity;
      if (task.agent) { const one = lane(task.agent); one.tasks.push(task); one.last = Math.max(one.last, to); }
      for (const teacher of task.teachers || []) { const one = lane(teacher); one.taught.push(task); one.last = Math.max(one.last, to); }
    }
    const matching = [...this.bars.keys()].filter((name) => name.toLowerCase().includes(wanted) || (agents[name]?.device || "").toLowerCase().includes(wanted) && wanted);
    matching.sort((a, b) => this.bars.get(b).last - this.bars.get(a).last || natural.compare(a, b));
    this.names = matching.slice(0, this.shown).sort(natural.compare);
    const rest = matching.length - this.names.length;
    this.more.hidden = rest <= 0;
    this.note.textContent = rest > 0 ? `${this.names.length} of ${matching.length} agents: those that are there, or were last.` : this.bars.size ? "Thin bars: whom an agent taught meanwhile. Hatched: nothing came of it." : "";
    this.plot.canvas.setAttribute("aria-label", `Which agent did what, when: ${this.bars.size} agents, ${Object.keys(tasks).length} tasks. Arrow keys go through the tasks.`);
    this.plot.draw();
  }

  tick() {
    this.plot.draw();
  }

  paint(c, width, height, plot) {
    const colors = palette(), now = this.store.now(), ends = this.store.end();
    if (!this.names.length || ends <= 0) return plot.empty(width, height, "No agent has worked here yet.");
    const span = Number(this.span.value), from = span ? Math.max(0, ends - span) : 0;
    const left = Math.min(130, 16 + Math.max(...this.names.map((name) => c.measureText(name).width)));
    const px = (t) => left + ((t - from) / Math.max(1, ends - from)) * (width - left - 8), bottom = height - BOTTOM;
    c.strokeStyle = colors.grid;
    c.fillStyle = colors.soft;
    c.textAlign = "center";
    c.textBaseline = "top";
    for (const t of timeTicks(from, ends, width / 110)) {
      line(c, px(t), TOP, px(t), bottom);
      if (px(t) < width - 20) c.fillText(clock(t), Math.max(left, px(t)), bottom + 6);
    }
    c.strokeStyle = colors.soft;
    c.setLineDash([3, 3]);
    for (const at of this.store.sections.run.breaks || []) if (at > from) line(c, px(at - 5), TOP, px(at - 5), bottom);
    c.setLineDash([]);
    this.names.forEach((name, row) => this.lane(c, this.bars.get(name), name, TOP + row * LANE, { px, from, now, left, width, plot }));
    c.strokeStyle = colors.line;
    line(c, left, bottom, width - 8, bottom);
  }

  lane(c, bars, name, y, at) {
    const colors = palette(), { px, from, now, left, width, plot } = at;
    c.fillStyle = name in this.store.sections.agents ? colors.ink : colors.soft;
    c.textAlign = "left";
    c.textBaseline = "middle";
    c.save();
    c.beginPath();
    c.rect(0, y, left - 6, LANE);
    c.clip();
    c.fillText(name, 0, y + LANE / 2);
    c.restore();
    c.save();
    c.beginPath();
    c.rect(left, y, width - left, LANE);
    c.clip();
    for (const task of bars.taught) {
      const to = task.to ?? now;
      if (to < from) continue;
      const hit = { x0: px(task.from), x1: Math.max(px(task.from) + 1, px(to)), y0: y + LANE - 7, y1: y + LANE - 2 };
      c.fillStyle = familyColor(task.family);
      c.fillRect(hit.x0, hit.y0 + 1, hit.x1 - hit.x0, 4);
      plot.hits.push({ ...hit, text: `${name} teaches ${task.agent}\n${task.label}\n${clock(to - task.from)}` });
    }
    for (const task of bars.tasks) {
      const to = task.to ?? now;
      if (to >= from) plot.hits.push(this.bar(c, task, name, { x0: px(task.from), x1: Math.max(px(task.from) + 1.5, px(to)), y0: y + 3, y1: y + LANE - 8 }, to, left));
    }
    c.restore();
  }

  bar(c, task, name, hit, to, left) {
    const colors = palette(), color = familyColor(task.family), wide = hit.x1 - hit.x0, tall = hit.y1 - hit.y0;
    if (task.status in BAD) {
      c.strokeStyle = color;
      c.lineWidth = 1;
      c.save();
      c.beginPath();
      c.rect(hit.x0, hit.y0, wide, tall);
      c.clip();
      for (let x = hit.x0 - tall; x < hit.x1; x += 5) { c.beginPath(); c.moveTo(x, hit.y1); c.lineTo(x + tall, hit.y0); c.stroke(); }
      c.restore();
      c.strokeRect(hit.x0 + 0.5, hit.y0 + 0.5, Math.max(1, wide - 1), tall - 1);
    } else {
      c.globalAlpha = task.status === "pruned" ? 0.45 : 1;
      c.fillStyle = color;
      c.fillRect(hit.x0, hit.y0, Math.max(1, wide - (wide > 4 ? 1 : 0)), tall);
      c.globalAlpha = 1;
      if (wide > 15) {
        trace(c, SHAPES[task.stage || ""] || "circle", Math.max(left, hit.x0) + 8, (hit.y0 + hit.y1) / 2, 4);
        c.fillStyle = colors.card;
        c.fill();
      }
      if (wide > UNTIL_TEXT) {
        c.save();
        c.beginPath();
        c.rect(Math.max(left, hit.x0) + 15, hit.y0, wide - 19, tall);
        c.clip();
        c.fillStyle = colors.card;
        c.textAlign = "left";
        c.textBaseline = "middle";
        c.font = '11px system-ui, "DejaVu Sans", sans-serif';
        c.fillText(task.label, Math.max(left, hit.x0) + 16, (hit.y0 + hit.y1) / 2 + 0.5);
        c.font = '12px system-ui, "DejaVu Sans", sans-serif';
        c.restore();
      }
    }
    return { ...hit, text: describe(task, name, to, this.store) };
  }
}

function describe(task, name, to, store) {
  const said = [`${store.family(task.family)}${task.stage ? `, ${STAGES[task.stage]}` : ""}: ${task.label}`];
  said.push(`${name}, ${task.status}, ${clock(to - task.from)}${task.tries > 1 ? `, attempt ${task.tries}` : ""}`);
  if (task.status === "completed" || task.status === "pruned") said.push(`${store.measure()} ${percent(task.score, 2)}${task.size ? `, ${short(task.size)} parameters` : ""}`);
  if (task.teachers?.length) said.push(`taught by ${task.teachers.join(", ")}`);
  if (task.error) said.push(task.error);
  return said.join("\n");
}

// The page: keeps what the stream says, and draws again what that concerns.

import { Best, Curves, Pareto } from "./charts.js";
import { Lanes } from "./lanes.js";
import * as tables from "./tables.js";

const DRAW_EVERY_MS = 250, MANY_TASKS = 3000, DRAW_MANY_EVERY_MS = 1000, TICK_MS = 1000, LOG_EVERY_MS = 3000;
const TRAINED = new Set(["train", "distill", "mutual"]);

class Store {
  constructor() {
    this.sections = { run: {}, agents: {}, tasks: {}, curves: {}, gpus: {}, said: {}, others: {} };
    this.isAway = false;
    this.gain = null;
    this.heardAt = performance.now();
  }

  /** Takes the whole, or a change; returns the sections that it concerns. */
  take({ put, drop }, isWhole) {
    if (isWhole) for (const name in this.sections) this.sections[name] = {};
    for (const name in put) Object.assign((this.sections[name] ??= {}), put[name]);
    for (const name in drop) for (const key of drop[name]) delete this.sections[name]?.[key];
    if (isWhole || put.run?.now !== undefined) this.heardAt = performance.now();
    return isWhole ? Object.keys(this.sections) : [...new Set([...Object.keys(put), ...Object.keys(drop)])];
  }

  /** Seconds of work since the run began, now. */
  now() {
    const { now } = this.sections.run;
    return now == null ? this.end() : now + (this.isAway ? 0 : Math.min(5, (performance.now() - this.heardAt) / 1000));
  }

  /** Where the time axis ends: now, or when the last task was done. */
  end() {
    const { now } = this.sections.run;
    if (now != null) return now;
    let last = 0;
    for (const key in this.sections.tasks) last = Math.max(last, this.sections.tasks[key].to || 0);
    return last;
  }

  family(index) { return this.sections.run.families?.[index]?.title ?? "unknown"; }
  byName(name) { return (this.sections.run.families || []).findIndex((family) => family.name === name); }
  measure() { return this.sections.run.verdict?.measure || "mIoU"; }

  /** What stands for each family after each stage, each with its family's number here. */
  verdictRows() { return this.ofVerdict("rows"); }
  verdictCurves() { return this.ofVerdict("curves"); }
  ofVerdict(what) {
    const found = this.sections.run.verdict;
    return found ? found[what].map((one) => ({ ...one, index: this.byName(found.families[one.family]) })) : [];
  }

  best() {
    const winner = this.sections.run.verdict?.winner;
    let best = null;
    for (const key in this.sections.tasks) {
      const task = this.sections.tasks[key];
      if (TRAINED.has(task.kind) && task.status === "completed" && task.score > (best?.score ?? 0)) best = task;
    }
    return winner && this.sections.run.verdict.is_finished ? { ...winner, family: this.byName(this.sections.run.verdict.families[winner.family]) } : best;
  }

  numTrained() {
    let count = 0;
    for (const key in this.sections.tasks) count += TRAINED.has(this.sections.tasks[key].kind) && this.sections.tasks[key].status === "completed";
    return count;
  }
}

const store = new Store();
const lanes = new Lanes(store), pareto = new Pareto(store), best = new Best(store);
const curves = new Curves(store, "curves", "scores"), losses = new Curves(store, "losses", "losses");

const VIEWS = {
  lanes: { of: ["tasks", "agents"], draw: () => lanes.update() },
  pareto: { of: ["tasks", "others"], also: ["verdict", "families"], draw: () => pareto.update() },
  best: { of: ["tasks"], also: ["families"], draw: () => best.update() },
  curves: { of: ["curves"], also: ["verdict", "families"], draw: () => curves.update() },
  losses: { of: ["curves"], draw: () => losses.update() },
  agents: { of: ["agents", "gpus"], also: ["condition", "families"], draw: () => tables.agents(store) },
  legend: { of: ["tasks"], also: ["families"], draw: () => tables.legend(store) },
  verdict: { of: [], also: ["verdict", "families"], draw: () => tables.verdict(store) },
  others: { of: ["others"], also: ["verdict"], draw: () => tables.others(store) },
  said: { of: ["said"], draw: () => tables.said(store) },
  facts: { of: ["run", "tasks"], draw: () => tables.facts(store) },
  head: { of: ["run"], draw: () => tables.head(store) },
};
let wanted = new Set(), timer = 0;

function want(sections, ofRun) {
  for (const [name, view] of Object.entries(VIEWS))
    if (view.of.some((section) => sections.includes(section)) || (view.also || []).some((item) => ofRun.includes(item))) wanted.add(name);
  if (!timer) timer = setTimeout(draw, wanted.size === Object.keys(VIEWS).length ? 0 : Object.keys(store.sections.tasks).length > MANY_TASKS ? DRAW_MANY_EVERY_MS : DRAW_EVERY_MS);
}

function draw() {
  timer = 0;
  const names = [...wanted];
  wanted = new Set();
  for (const name of names) VIEWS[name].draw();
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
}

function drawAll() {
  wanted = new Set(Object.keys(VIEWS));
  draw();
}

// The stream. A browser that has lost it asks again, and says what it knows.
const stream = new EventSource("events");
for (const kind of ["whole", "change"])
  stream.addEventListener(kind, (event) => {
    const change = JSON.parse(event.data), was = store.isAway;
    store.isAway = false;
    const sections = store.take(change, kind === "whole");
    want(was ? [...sections, "run"] : sections, kind === "whole" ? Object.keys(store.sections.run) : Object.keys(change.put.run || {}));
  });
stream.addEventListener("error", () => {
  store.isAway = true;
  tables.head(store);
});

setInterval(() => {
  if (store.sections.run.condition === "going on" && !document.hidden) lanes.tick();
}, TICK_MS);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTimeout(drawAll));
document.getElementById("filter").addEventListener("input", () => tables.agents(store));

// Logs are read when somebody looks at one.
const logName = document.getElementById("log-name"), log = document.getElementById("log");

async function listLogs() {
  const answer = await fetch("logs").catch(() => null);
  if (!answer?.ok) return;
  const names = await answer.json(), chosen = logName.value;
  names.sort(new Intl.Collator("en", { numeric: true }).compare);
  logName.replaceChildren(...["", ...names].map((name) => tables.make("option", { value: name }, name || "choose")));
  logName.value = names.includes(chosen) ? chosen : "";
}

async function readLog() {
  if (!logName.value) return;
  const answer = await fetch(`log?name=${encodeURIComponent(logName.value)}`).catch(() => null);
  const text = answer ? await answer.text() : "agentkd watch does not answer";
  if (log.textContent === text) return;
  const isAtEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 20 || log.dataset.of !== logName.value;
  log.dataset.of = logName.value;
  log.textContent = text || "it is empty";
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

logName.addEventListener("focus", listLogs);
logName.addEventListener("change", readLog);
document.getElementById("log-again").addEventListener("click", async () => { await listLogs(); await readLog(); });
setInterval(() => { if (!document.hidden && store.sections.run.condition === "going on") readLog(); }, LOG_EVERY_MS);
listLogs();

// Pictures are made when somebody opens them.
document.getElementById("pictures").addEventListener("toggle", (event) => {
  const picture = document.getElementById("picture");
  if (event.target.open && !picture.src) picture.src = "pictures.png";
});

// What is told in words: agents, results, lessons, choices, events.

import { SHAPES, STAGES, bytes, clock, familyColor, percent, points, short } from "./draw.js";

const MAX_AGENTS = 60;
const natural = new Intl.Collator("en", { numeric: true });
const $ = (id) => document.getElementById(id);

/** An element with attributes and children; texts are texts, whatever stands in them. */
export function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "path"].includes(tag), made = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (name === "style") Object.assign(made.style, value); else made.setAttribute(name, value);
  made.append(...children.filter((child) => child != null && child !== ""));
  return made;
}

/** Rows of a table: those that stay are the same elements, so that nothing jumps and what is selected stays so. */
function fill(body, rows) {
  const there = new Map([...body.children].map((row) => [row.dataset.key, row]));
  const wanted = rows.map(([key, cells]) => {
    const row = there.get(key) || make("tr", { "data-key": key });
    there.delete(key);
    cells.forEach((cell, index) => {
      const { value, name } = cell?.constructor === Object ? cell : { value: cell, name: "" };
      let place = row.children[index];
      if (!place) row.append((place = make("td")));
      if (place.className !== name) place.className = name;
      const shown = value instanceof Node ? value : value == null ? "" : String(value);
      if (shown instanceof Node) { if (!place.firstChild || !place.firstChild.isEqualNode(shown) || place.childNodes.length > 1) place.replaceChildren(shown); }
      else if (place.textContent !== shown || place.firstElementChild) place.textContent = shown;
    });
    while (row.children.length > cells.length) row.lastChild.remove();
    return row;
  });
  for (const row of there.values()) row.remove();
  wanted.forEach((row, index) => { if (body.children[index] !== row) body.insertBefore(row, body.children[index] || null); });
}

const number = (value) => ({ value, name: "number" });
const group = (...parts) => make("span", {}, ...parts);
const swatch = (index) => make("span", { class: "swatch", style: { background: familyColor(index) }, "aria-hidden": "true" });

const PATHS = {
  circle: "M7 2a5 5 0 1 0 .01 0Z", square: "M2.5 2.5h9v9h-9Z", triangle: "M7 1.5 13 12H1Z",
  star: "M7 .5 8.8 5 13.5 5.3 9.9 8.3 11 13 7 10.4 3 13 4.1 8.3.5 5.3 5.2 5Z", diamond: "M7 1 13 7 7 13 1 7Z",
};

export function legend(store) {
  const families = store.sections.run.families || [], stages = new Set(Object.values(store.sections.tasks).map((task) => task.stage).filter(Boolean));
  const items = families.map((family, index) => make("li", {}, make("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, make("path", { d: "M1 1h12v12H1Z", fill: familyColor(index) })), family.title));
  Object.keys(STAGES).filter((stage) => stages.has(stage)).forEach((stage, index) => {
    items.push(make("li", index ? {} : { class: "split" }, make("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, make("path", { d: PATHS[SHAPES[stage]], fill: "currentColor" })), STAGES[stage]));
  });
  $("legend").replaceChildren(...items);
}

export function facts(store) {
  const { run } = store.sections, counts = run.counts || {}, recorded = run.recorded || { tasks: 0, device_s: 0 }, verdict = run.verdict;
  const isGoing = run.condition === "going on", done = isGoing && counts.planned !== undefined ? counts.planned : verdict?.is_finished || !verdict ? recorded.tasks : Math.max(0, recorded.tasks);
  const expected = verdict?.is_finished && !isGoing ? recorded.tasks : Math.max(done, isGoing ? counts.expected || 0 : verdict ? Math.max(verdict.expected, recorded.tasks + verdict.waiting) : 0);
  const share = expected ? Math.min(1, done / expected) : 0;
  $("done").style.width = `${100 * share}%`;
  $("progress").setAttribute("aria-valuenow", String(Math.round(100 * share)));
  $("progress").setAttribute("aria-valuetext", `${done} of ${expected || "an unknown number of"} tasks`);
  const told = [["tasks recorded", group(String(done), make("small", {}, expected ? ` of ${verdict?.is_finished ? "" : "about "}${expected}` : ""))]];
  if (isGoing) told.push(["under way", `${counts.running || 0}`], ["agents", `${counts.agents || 0}`]);
  told.push(["worked", clock(store.end())]);
  if (isGoing) told.push(["left", counts.left_s != null ? `about ${clock(counts.left_s)}` : "not known yet"]);
  const hours = (recorded.device_s + (isGoing ? counts.running_s || 0 : 0)) / 3600;
  told.push(["device hours", hours >= 0.1 ? hours.toFixed(2) : hours.toFixed(3)]);
  if (store.gain) told.push([store.gain.isOfHour ? "gain, last hour" : "gain so far", points(store.gain.gained)]);
  const best = store.best();
  if (best) told.push([`best ${store.measure()}`, group(percent(best.score, 2), make("small", {}, ` ${store.family(best.family)}`))]);
  $("facts").replaceChildren(...told.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))));
}

export function agents(store) {
  const listed = Object.entries(store.sections.agents), wanted = $("filter").value.trim().toLowerCase();
  const matching = listed.filter(([name, one]) => name.toLowerCase().includes(wanted) || (one.device || "").toLowerCase().includes(wanted));
  const rank = (one) => (one.hears ? 0 : one.teaches?.length ? 1 : one.task ? 2 : 3);
  matching.sort(([a, one], [b, other]) => (matching.length > MAX_AGENTS ? rank(one) - rank(other) : 0) || natural.compare(a, b));
  const rows = matching.slice(0, MAX_AGENTS).map(([name, one]) => {
    const share = one.steps ? one.step / one.steps : 0;
    const step = one.steps ? group(make("span", { class: "track", "aria-hidden": "true" }, make("span", { style: { width: `${100 * share}%` } })), `${one.step}/${one.steps}`) : "";
    const does = one.doing ? group(swatch(one.family), one.doing, make("small", {}, STAGES[one.stage] || "")) : one.condition === "teaching" ? "teaches" : one.condition;
    return [name, [
      { value: group(name, make("small", {}, one.device || "")), name: "name" }, { value: does, name: "does" }, { value: step, name: "wideonly" },
      number(one.loss?.toFixed(3)), number(one.score == null ? "" : percent(one.score)), (one.hears || []).join(", "),
      number(one.hears ? `${bytes(one.bytes_per_s || 0)}/s` : ""), number(one.hears ? percent(one.waits || 0, 0) : ""), shortList(one.teaches || []),
      number(one.memory ? (one.gpu_memory ? group(bytes(one.memory), make("small", {}, `GPU ${bytes(one.gpu_memory)}`)) : bytes(one.memory)) : ""), number(one.cores?.toFixed(1)),
    ]];
  });
  fill($("agents").tBodies[0], rows);
  $("agents").parentElement.hidden = !listed.length;
  const rest = matching.length - rows.length;
  $("agents-note").textContent = !listed.length ? (store.sections.run.condition === "going on" ? "No agent has come yet." : "Nobody is there: the run does not go on now.") : rest > 0 ? `${rest} more; the field "agents" above chooses.` : "Waits: the share of its time in which a student can do nothing but wait for its teachers. Memory and cores are known of agents on this machine.";
  const gpus = Object.values(store.sections.gpus).sort((a, b) => a.index - b.index);
  $("gpus").replaceChildren(...gpus.map((gpu) => make("p", {}, `GPU ${gpu.index} (${gpu.name}): `, make("span", { class: "track", "aria-hidden": "true" }, make("span", { style: { width: `${100 * (gpu.share || 0)}%` } })), `${gpu.share == null ? "share not known" : percent(gpu.share, 0)}, ${bytes(gpu.used)} of ${bytes(gpu.total)}`)));
}

function shortList(names) {
  return names.length > 6 ? `${names.slice(0, 6).join(", ")} and ${names.length - 6} more` : names.join(", ");
}

function network(one, store) {
  if (!one) return "–";
  return group(percent(one.score, 2), make("small", {}, `${one.test == null ? "" : `test ${percent(one.test, 2)}, `}${short(one.size)} parameters`), make("small", {}, `${one.epochs} epochs`));
}

export function verdict(store) {
  const { run } = store.sections, found = run.verdict;
  $("headline").hidden = !found?.headline;
  $("headline").textContent = [found?.headline, found?.teaching].filter(Boolean).join(" ");
  for (const [id, is] of [["table-card", found?.rows.length], ["lessons-card", found?.lessons.length], ["choices-card", found?.choices.length]]) $(id).hidden = !is;
  $("pictures").hidden = !found?.has_pictures;
  if (!found) return;
  const rows = store.verdictRows(), stages = Object.keys(STAGES).filter((stage) => rows.some((row) => row.stage === stage));
  $("table").tHead.rows[0].replaceChildren(make("th", { scope: "col" }, "family"), ...stages.map((stage) => make("th", { scope: "col" }, STAGES[stage])));
  const families = [...new Set(rows.map((row) => row.index))];
  fill($("table").tBodies[0], families.map((family) => [String(family), [
    { value: group(swatch(family), store.family(family)), name: "name" },
    ...stages.map((stage) => network(rows.find((row) => row.index === family && row.stage === stage)?.network, store)),
  ]]));
  const winner = found.winner;
  $("table-note").textContent = `${found.measure} on the validation split.` + (winner ? ` The winner is ${winner.label}; its weights: ${winner.weights}` : "");
  fill($("lessons").tBodies[0], found.lessons.map((one, index) => {
    const family = store.byName(found.families[one.student.family]);
    return [String(index), [
      { value: group(swatch(family), one.student.label), name: "does" }, one.teachers.map((teacher) => teacher.label).join(" + "), STAGES[one.stage],
      number(percent(one.student.score, 2)), number(percent(one.taught?.score, 2)), number(one.gain == null ? "" : points(one.gain)),
      { value: group(make("span", { class: one.is_kept ? "kept" : "refused" }, one.is_kept ? "✓ kept" : "✕ refused"), one.why && (one.gain == null || !one.why.endsWith(points(one.gain).slice(1))) ? `: ${one.why}` : ""), name: "why" },
    ]];
  }));
  $("choices").replaceChildren(...found.choices.map((one) => make("div", { class: "choice" }, make("strong", {}, one.where), `: ${one.chosen}${one.why ? `, since ${one.why}` : ""}`,
    one.num_others ? make("details", {}, make("summary", { class: "small" }, `${one.num_others} ${one.num_others > 1 ? "others were" : "other was"} not chosen`), make("ul", {}, ...one.others.map(([key, why]) => make("li", {}, make("code", {}, key.slice(0, 8)), ` ${why}`)), one.num_others > one.others.length ? make("li", {}, `and ${one.num_others - one.others.length} more`) : "")) : "")));
}

export function others(store) {
  const listed = Object.entries(store.sections.others);
  $("others-card").hidden = !listed.length;
  if (!listed.length) return;
  const { run } = store.sections, best = store.best(), found = run.verdict;
  const here = found?.winner || (best && { score: best.score, size: best.size, label: best.label });
  const row = (name, winner, count, note) => [name, [{ value: name, name: "does" }, note || winner?.label || "none yet", number(winner ? percent(winner.score, 2) : ""), number(winner?.test == null ? "" : percent(winner.test, 2)), number(winner ? short(winner.size) : ""), number(count)]];
  const rows = [row(`${run.place} (this one)`, here, store.numTrained())];
  for (const [name, one] of listed) rows.push(row(name, one.winner || bestOf(one.points), (one.points || []).length, one.note));
  fill($("others").tBodies[0], rows);
}

function bestOf(list = []) {
  const [size, score] = list.reduce((best, one) => (one[1] > best[1] ? one : best), [0, 0]);
  return score ? { size, score, label: "the best network" } : null;
}

export function said(store) {
  const lines = Object.entries(store.sections.said).sort(([a], [b]) => b - a);
  $("said").replaceChildren(...(lines.length ? lines.map(([, one]) => make("li", {}, make("time", {}, clock(one.at)), one.text)) : [make("li", {}, "Nothing has been said since this was begun.")]));
}

export function head(store) {
  const { run } = store.sections, name = run.name || run.verdict?.name;
  $("name").textContent = name || run.place || "";
  document.title = `${run.condition === "going on" ? "▶ " : ""}${name || run.place || "agentkd"}: agentkd`;
  const shown = store.isAway ? "away" : run.condition || "empty";
  $("condition").dataset.condition = shown;
  const texts = { away: "agentkd watch has ended, or is out of reach", empty: "nothing is recorded yet", "at rest": "at rest: nobody works on it now", finished: "finished", "going on": "going on" };
  if ($("condition").textContent !== texts[shown]) $("condition").textContent = texts[shown];
  const notes = [run.fault, run.note, run.no_table, run.verdict?.failure, run.condition === "going on" ? "" : run.ended_because && `It stopped: ${run.ended_because}`, shown === "empty" && "The page fills as soon as a run begins in this folder."].filter(Boolean);
  $("note").hidden = !notes.length;
  $("note").textContent = notes.join(" ");
  $("dashboard").textContent = `optuna-dashboard sqlite:///${run.study}`;
  $("report").textContent = `agentkd report ${run.place}`;
}

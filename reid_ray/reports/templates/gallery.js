"use strict";
// One page: rows are built when they come near the window, so thousands of clusters open at once.
const data = JSON.parse(document.getElementById("data").textContent);
const {sprites, paths, cameras, times, identities, clusters, outliers, pairs} = data;
const main = document.querySelector("main");
const byId = (id) => document.getElementById(id);
const perSheet = sprites.columns * sprites.lines;
const clusterOf = new Map();
clusters.forEach((cluster) => cluster.rows.forEach((row) => clusterOf.set(row, cluster)));
const pairsOf = new Map();
pairs.forEach((pair) => [pair.row, pair.other].forEach((row) => {
  const cluster = clusterOf.get(row);
  if (cluster && pair.kind === "merge") pairsOf.set(cluster, Math.max(pairsOf.get(cluster) || 0, pair.probability));
}));

// Marks: a list of [path_a, path_b, verdict], kept by the browser until they are downloaded.
const key = `reid-ray-marks-${data.key}`;
let marks = [];
try { marks = JSON.parse(localStorage.getItem(key)) || []; } catch { marks = []; }
let history = [];

function add(found) {
  const known = new Set(marks.map((mark) => JSON.stringify(mark)));
  const fresh = found.filter((mark) => !known.has(JSON.stringify(mark)));
  if (fresh.length) { history.push(marks); marks = marks.concat(fresh); }
  changed(`${fresh.length} marks added; ${marks.length} in all.`);
}
function undo() {
  if (history.length) { marks = history.pop(); changed("The last marks were removed."); }
}
function changed(message) {
  try { localStorage.setItem(key, JSON.stringify(marks)); } catch { /* without storage they live as long as the page */ }
  byId("count").textContent = marks.length;
  byId("download").disabled = byId("list").disabled = !marks.length;
  byId("undo").disabled = !history.length;
  const junk = new Set(marks.filter((mark) => mark[2] === "junk").map((mark) => mark[0]));
  document.querySelectorAll(".crop").forEach((crop) => crop.classList.toggle("junk", junk.has(paths[crop.dataset.at])));
  const answered = new Set(marks.map((mark) => `${mark[0]}\0${mark[1]}`));
  document.querySelectorAll(".question").forEach((each) => {
    const pair = pairs[each.dataset.pair];
    each.classList.toggle("answered", answered.has(`${paths[pair.row]}\0${paths[pair.other]}`));
  });
  if (message) byId("status").textContent = message;
}

// Selection
const selected = new Set();
function toggle(crop) {
  const at = Number(crop.dataset.at), on = !selected.has(at);
  if (on) selected.add(at); else selected.delete(at);
  document.querySelectorAll(`.crop[data-at="${at}"]`).forEach((each) => each.setAttribute("aria-pressed", on));
  enable();
}
function clear() {
  selected.clear();
  document.querySelectorAll('.crop[aria-pressed="true"]').forEach((crop) => crop.setAttribute("aria-pressed", false));
  enable();
}
function enable() {
  byId("chosen").textContent = selected.size;
  byId("same").disabled = byId("different").disabled = selected.size < 2;
  byId("split").disabled = byId("junk").disabled = byId("none").disabled = !selected.size;
}
const actions = {
  same() {
    const [first, ...others] = selected;
    add(others.map((other) => [paths[first], paths[other], "same"]));
  },
  different() {
    const rows = [...selected];
    add(rows.flatMap((row, at) => rows.slice(at + 1).map((other) => [paths[row], paths[other], "different"])));
  },
  // The chosen crops do not belong to the rest of their cluster, which its first crop that is not chosen stands for.
  split() {
    const found = [];
    for (const row of selected) {
      const rest = clusterOf.get(row)?.rows.find((other) => !selected.has(other));
      if (rest !== undefined) found.push([paths[rest], paths[row], "different"]);
    }
    add(found);
  },
  junk() { add([...selected].map((row) => [paths[row], "", "junk"])); },
};
function act(name) {
  if (byId(name).disabled) return;
  actions[name]();
  clear();
}

// Building
function element(tag, attributes = {}, text) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}
function describe(row) {
  const parts = [paths[row]];
  if (cameras && cameras[row] >= 0) parts.push(`camera ${cameras[row]}`);
  if (times && times[row]) parts.push(times[row]);
  if (identities && identities[row] >= 0) parts.push(`identity ${identities[row]}`);
  const cluster = clusterOf.get(row);
  parts.push(cluster ? `cluster ${cluster.number}` : "no cluster");
  if (isTypical(row)) parts.push("the most typical of its cluster");
  if (isWrong(row)) parts.push("another identity than most of its cluster");
  return parts.join(", ");
}
function isWrong(row) {
  const cluster = clusterOf.get(row);
  return Boolean(identities && cluster && cluster.identity !== null && identities[row] >= 0
    && identities[row] !== cluster.identity);
}
const isTypical = (row) => clusterOf.get(row)?.rows[0] === row;
function crop(row, first) {
  const made = element("button", {type: "button", class: "crop", "data-at": row, "aria-pressed": selected.has(row),
    "aria-label": describe(row), tabindex: first ? 0 : -1});
  const image = element("span", {class: "image"});
  const place = row % perSheet, [x, y] = [place % sprites.columns, Math.floor(place / sprites.columns)];
  image.style.cssText = `width:${sprites.width}px;height:${sprites.height}px;background-image:url("sprites/`
    + `${sprites.names[Math.floor(row / perSheet)]}");background-position:-${x * sprites.width}px -${y * sprites.height}px`;
  made.append(image);
  const caption = [cameras ? cameras[row] < 0 ? "–" : `c${cameras[row]}` : "", isTypical(row) ? "★" : ""];
  if (caption.some(Boolean)) made.append(element("span", {class: "camera"}, caption.filter(Boolean).join(" ")));
  // The time of day fits below a crop; its label has the date too.
  if (times) made.append(element("span", {class: "camera"}, times[row] ? times[row].split(" ")[1] : "–"));
  if (isWrong(row)) made.classList.add("wrong");
  return made;
}
function fill(holder, rows) {
  holder.replaceChildren(...rows.map((row, at) => crop(row, at === 0)));
  holder.style.minHeight = "";
}
const waiting = new Map();
const observer = new IntersectionObserver((entries) => {
  for (const {isIntersecting, target} of entries) {
    if (isIntersecting && waiting.has(target)) {
      fill(target, waiting.get(target));
      waiting.delete(target);
      observer.unobserve(target);
    }
  }
  changed();
}, {rootMargin: "600px"});
function later(rows) {
  const holder = element("div", {class: "crops"});
  const perLine = Math.max(1, Math.floor((main.clientWidth - 60) / (sprites.width + 11)));
  holder.style.minHeight = `${Math.ceil(rows.length / perLine) * (sprites.height + (times ? 47 : 30))}px`;
  waiting.set(holder, rows);
  observer.observe(holder);
  return holder;
}
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const percent = (share) => `${Math.round(100 * share)} %`;
function row(title, facts, rows) {
  const made = element("section", {class: "row"}), head = element("div", {class: "head"});
  head.append(element("h2", {}, title), ...facts.map((fact) => element("span", {}, fact)));
  made.append(head, later(rows));
  return made;
}
function clusterRow(cluster) {
  const facts = [plural(cluster.rows.length, "image")];
  if (cameras) facts.push(plural(cluster.cameras, "camera"));
  if (cluster.mixed !== null) facts.push(`looks like two people: ${percent(cluster.mixed)}`);
  if (pairsOf.has(cluster)) facts.push(`same as another: ${percent(pairsOf.get(cluster))}`);
  if (cluster.purity !== null) facts.push(`identity ${cluster.identity}: ${percent(cluster.purity)}`);
  return row(`Cluster ${cluster.number}`, facts, cluster.rows);
}
function question(pair, at) {
  const made = element("section", {class: "question", "data-pair": at});
  const sides = element("div", {class: "sides"});
  for (const rows of pair.sides) {
    const cluster = clusterOf.get(rows[0]);
    const box = element("div");
    box.append(element("h2", {}, cluster ? `Cluster ${cluster.number}` : "No cluster"), later(rows));
    sides.append(box);
  }
  const text = element("div");
  text.append(element("p", {class: "note"}, `${pair.kind === "merge" ? "Should these be one?" : "Is this cluster two people?"} `
    + `Estimate: ${percent(pair.probability)} the same.`));
  for (const [verdict, label] of [["same", "Same"], ["different", "Not the same"]]) {
    const button = element("button", {type: "button", class: "answer", "data-verdict": verdict}, label);
    button.addEventListener("click", () => {
      const ends = [paths[pair.row], paths[pair.other]];
      marks = marks.filter((mark) => mark[0] !== ends[0] || mark[1] !== ends[1]);
      add([[...ends, verdict]]);
      made.nextElementSibling?.querySelector("button.answer")?.focus();
    });
    text.append(button, " ");
  }
  made.append(sides, text);
  return made;
}

// Views
const by = (score) => () => [...clusters].filter((each) => score(each) !== null)
  .sort((a, b) => score(b) - score(a) || a.number - b.number).map(clusterRow);
const views = {
  questions: ["Most useful questions", pairs.length, () => pairs.map(question)],
  mixed: ["Clusters that look like two people", clusters.some((each) => each.mixed !== null), by((each) => each.mixed)],
  near: ["Clusters nearest to another", pairsOf.size > 0, by((each) => pairsOf.get(each) ?? null)],
  largest: ["Largest clusters", true, by((each) => each.rows.length)],
  cameras: ["Most cameras", cameras, by((each) => each.cameras)],
  wrong: ["Truly wrong ones (identities known)", identities, by((each) => each.purity === null || each.purity === 1
    ? null : (1 - each.purity) * each.rows.length)],
  outliers: [`Images without a cluster (${outliers.length})`, outliers.length, () => {
    const near = [...new Set(pairs.flatMap((pair) => [pair.row, pair.other]).filter((each) => !clusterOf.has(each)))];
    const others = outliers.filter((each) => !near.includes(each)), found = [];
    if (near.length) found.push(row("Nearest to a cluster", [plural(near.length, "image")], near));
    for (let at = 0; at < others.length; at += 100) {
      const part = others.slice(at, at + 100);
      found.push(row(`Images ${at + 1} to ${at + part.length}`, [], part));
    }
    return found;
  }],
};
function show() {
  observer.disconnect();
  waiting.clear();
  const found = views[byId("view").value][2]();
  main.replaceChildren(...(found.length ? found : [element("p", {class: "note"}, "Nothing to show.")]));
  byId("status").textContent = `${found.length} rows.`;
  changed();
}

// Wiring
for (const [name, [label, exists]] of Object.entries(views)) {
  if (exists) byId("view").append(element("option", {value: name}, label));
}
byId("view").addEventListener("change", show);
Object.keys(actions).forEach((name) => byId(name).addEventListener("click", () => act(name)));
byId("none").addEventListener("click", clear);
byId("undo").addEventListener("click", undo);
byId("download").addEventListener("click", () => {
  const quote = (cell) => `"${cell.replaceAll('"', '""')}"`;
  const text = [["path_a", "path_b", "verdict"], ...marks].map((mark) => mark.map(quote).join(",") + "\n").join("");
  const link = element("a", {download: "constraints.csv", href: URL.createObjectURL(new Blob([text], {type: "text/csv"}))});
  link.click();
  URL.revokeObjectURL(link.href);
});
byId("list").addEventListener("click", () => {
  byId("marks").replaceChildren(...marks.map((mark) => {
    const line = element("tr");
    line.append(...mark.map((cell) => { const made = element("td"); made.append(element("bdi", {}, cell)); return made; }));
    return line;
  }));
  byId("dialog").showModal();
});
byId("close").addEventListener("click", () => byId("dialog").close());
main.addEventListener("click", (event) => {
  const found = event.target.closest(".crop");
  if (found) toggle(found);
});
main.addEventListener("focusin", (event) => {
  const found = event.target.closest(".crop");
  if (found) byId("detail").replaceChildren(element("bdi", {}, describe(Number(found.dataset.at))));
});
main.addEventListener("mouseover", (event) => {
  const found = event.target.closest(".crop");
  if (found) byId("detail").replaceChildren(element("bdi", {}, describe(Number(found.dataset.at))));
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select, input") || byId("dialog").open) return;
  const shortcuts = {s: "same", d: "different", x: "split", j: "junk"};
  if (shortcuts[event.key]) { act(shortcuts[event.key]); return; }
  if (event.key === "u") { undo(); return; }
  if (event.key === "Escape") { clear(); return; }
  const here = document.activeElement.closest?.(".crop");
  if (!here || !event.key.startsWith("Arrow")) return;
  const section = here.closest(".row, .question");
  const next = {
    ArrowRight: () => here.nextElementSibling,
    ArrowLeft: () => here.previousElementSibling,
    ArrowDown: () => section.nextElementSibling?.querySelector(".crop"),
    ArrowUp: () => section.previousElementSibling?.querySelector(".crop"),
  }[event.key]?.();
  if (next) {
    event.preventDefault();
    here.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }
});
enable();
show();
document.documentElement.dataset.ready = "true";

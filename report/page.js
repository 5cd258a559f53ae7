"use strict";
const trials = JSON.parse(document.getElementById("trials").textContent);

/* Copy buttons: the command is the text of the element before. */
document.addEventListener("click", event => {
  const button = event.target.closest("button.copy");
  if (button) copy(button.dataset.text ?? button.previousElementSibling.textContent, button);
});
function copy(text, button) {
  const done = () => { button.textContent = "copied"; setTimeout(() => { button.textContent = "copy"; }, 1200); };
  if (navigator.clipboard && window.isSecureContext) navigator.clipboard.writeText(text).then(done, () => byHand(text, done));
  else byHand(text, done);
}
function byHand(text, done) {
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  if (document.execCommand("copy")) done();
  area.remove();
}

/* Tables sort on a click or Enter; empty cells stay last. */
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, i) => {
    head.tabIndex = 0;
    const sort = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => row.cells[i].dataset.v ?? row.cells[i].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const x = key(a), y = key(b);
        if (x === "" || y === "") return (x === "") - (y === "");
        const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
        return up ? order : -order;
      });
      table.tBodies[0].append(...rows);
    };
    head.addEventListener("click", sort);
    head.addEventListener("keydown", event => { if (event.key === "Enter") sort(); });
  });
}

/* One filter for the plot and the table. */
const field = id => document.getElementById(id);
const chosen = () => ({
  family: field("family").value, model: field("model").value, text: field("filter").value.trim().toLowerCase(),
});
function filterRows() {
  const want = chosen();
  let shown = 0;
  const rows = document.querySelectorAll("#configurations tbody tr");
  for (const row of rows) {
    row.hidden = (want.family && row.dataset.family !== want.family) || (want.model && row.dataset.model !== want.model)
      || !row.textContent.toLowerCase().includes(want.text);
    shown += !row.hidden;
  }
  field("count").textContent = `${shown} of ${rows.length} rows`;
}

/* The plot of all trials. */
const LEFT = 74, RIGHT = 16, TOP = 14, BOTTOM = 52;
let W = 1040, H = 430;  // follow the width of the page, so that letters keep their size
const svg = (name, attributes, parent, text) => {
  const node = document.createElementNS(parent.namespaceURI, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  parent.append(node);
  return node;
};
const short = v => {
  if (v === null || v === undefined) return "–";
  if (typeof v !== "number") return String(v);
  if (v !== 0 && (Math.abs(v) < 1e-3 || Math.abs(v) >= 1e7)) return v.toExponential(2).replace("e+", "e");
  return String(+v.toPrecision(4));
};
function scale(values, from, to) {
  let low = Math.min(...values), high = Math.max(...values);
  const isLog = low > 0 && high / low > 8;
  const map = isLog ? Math.log10 : v => v;
  if (low === high) { low = low > 0 ? low / 1.3 : low - 1; high = high > 0 ? high * 1.3 : high + 1; }
  const pad = 0.04 * (map(high) - map(low)), a = map(low) - pad, b = map(high) + pad;
  return { ticks: ticks(a, b, isLog), at: v => from + (map(v) - a) / (b - a) * (to - from) };
}
function ticks(a, b, isLog) {
  const found = [];
  if (isLog) {
    const steps = b - a < 1.5 ? [1, 2, 5] : b - a < 3 ? [1, 3] : [1];
    const every = Math.max(1, Math.ceil((b - a) / 8));
    for (let power = Math.floor(a); power <= b; power++)
      for (const step of steps)
        if (power % every === 0) found.push(step * 10 ** power);
    return found.filter(v => Math.log10(v) >= a && Math.log10(v) <= b);
  }
  const rough = (b - a) / 6, size = 10 ** Math.floor(Math.log10(rough));
  const step = size * [1, 2, 5, 10].find(m => m * size >= rough);
  for (let v = Math.ceil(a / step) * step; v <= b; v += step) found.push(+v.toPrecision(12));
  return found;
}
function shape(marker, x, y, r) {
  if (marker === "s") return `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`;
  if (marker === "^") return `M${x},${y - 1.25 * r}l${1.2 * r},${2.2 * r}h${-2.4 * r}z`;
  if (marker === "x") return `M${x - r},${y - r}l${2 * r},${2 * r}M${x - r},${y + r}l${2 * r},${-2 * r}`;
  if (marker === "o") return `M${x - r},${y}a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`;
  return `M${x},${y - 1.4 * r}L${x + 1.4 * r},${y}L${x},${y + 1.4 * r}L${x - 1.4 * r},${y}z`;
}
let points = [];
function draw() {
  const box = field("plot").querySelector("svg"), xName = field("x").value, yName = field("y").value, want = chosen();
  W = Math.max(300, field("plot").clientWidth);
  H = Math.round(Math.min(430, Math.max(290, 0.5 * W)));
  box.setAttribute("viewBox", `0 0 ${W} ${H}`);
  box.replaceChildren();
  points = [];
  const shown = trials.rows.filter(t => typeof t.v[xName] === "number" && typeof t.v[yName] === "number"
    && (!want.family || t.family === want.family) && (!want.model || t.model === want.model)
    && `${t.run} ${t.model} ${t.family} ${t.study}`.toLowerCase().includes(want.text));
  if (!shown.length) {
    svg("text", { x: W / 2, y: H / 2, "text-anchor": "middle" }, box, "no trial has both");
    return;
  }
  const x = scale(shown.map(t => t.v[xName]), LEFT, W - RIGHT), y = scale(shown.map(t => t.v[yName]), H - BOTTOM, TOP);
  const apart = Math.ceil(x.ticks.length * 52 / (W - LEFT - RIGHT));  // labels that do not touch
  x.ticks = x.ticks.filter((_, n) => n % apart === 0);
  for (const v of x.ticks) {
    svg("line", { x1: x.at(v), x2: x.at(v), y1: TOP, y2: H - BOTTOM, stroke: "#eceef1" }, box);
    svg("text", { x: x.at(v), y: H - BOTTOM + 17, "text-anchor": "middle" }, box, short(v));
  }
  for (const v of y.ticks) {
    svg("line", { x1: LEFT, x2: W - RIGHT, y1: y.at(v), y2: y.at(v), stroke: "#eceef1" }, box);
    svg("text", { x: LEFT - 8, y: y.at(v) + 4, "text-anchor": "end" }, box, short(v));
  }
  const label = name => trials.axes[name];
  svg("text", { x: (LEFT + W - RIGHT) / 2, y: H - 12, "text-anchor": "middle", class: "axis-title" }, box, label(xName));
  svg("text", { transform: `translate(16 ${(H - BOTTOM + TOP) / 2}) rotate(-90)`, "text-anchor": "middle",
    class: "axis-title" }, box, label(yName));
  for (const t of shown) {
    const px = x.at(t.v[xName]), py = y.at(t.v[yName]), look = trials.models[t.model], isPruned = t.status !== "complete";
    const path = svg("path", { d: shape(isPruned ? "x" : look.marker, px, py, 4.2), "data-run": t.run,
      fill: isPruned ? "none" : look.colour, stroke: isPruned ? look.colour : "#fff",
      "stroke-width": isPruned ? 1.3 : 0.6, opacity: isPruned ? 0.45 : 0.85 }, box);
    points.push({ t, px, py, path });
  }
}
function near(event) {
  const box = field("plot").querySelector("svg").getBoundingClientRect();
  const px = (event.clientX - box.left) * W / box.width, py = (event.clientY - box.top) * H / box.height;
  let best = null, least = (24 * W / box.width) ** 2;
  for (const p of points) {
    const d = (p.px - px) ** 2 + (p.py - py) ** 2;
    if (d < least) { least = d; best = p; }
  }
  return best;
}
function light(found) {
  for (const p of points) p.path.setAttribute("stroke-width", p.t.status !== "complete" ? 1.3 : 0.6);
  for (const row of document.querySelectorAll("tr.lit")) row.classList.remove("lit");
  const tip = field("tip");
  tip.hidden = !found;
  if (!found) return;
  const t = found.t;
  found.path.setAttribute("stroke-width", 2.5);
  tip.replaceChildren();
  const line = (text, tag = "div") => { const node = document.createElement(tag); node.textContent = text; tip.append(node); };
  line(`${t.model} on ${t.family}`, "b");
  line(`${t.status}, ${t.role}, slot ${t.slot}`);
  for (const name of [field("y").value, field("x").value]) line(`${trials.axes[name]}: ${short(t.v[name])}`);
  line(t.run);
  line(t.command, "code");
  const scaleX = field("plot").clientWidth / W, scaleY = field("plot").clientHeight / H;
  const left = found.px * scaleX + 14, top = found.py * scaleY + 14;
  tip.style.left = `${Math.max(4, Math.min(left, field("plot").clientWidth - tip.offsetWidth - 6))}px`;
  tip.style.top = top + tip.offsetHeight > field("plot").clientHeight ? `${found.py * scaleY - tip.offsetHeight - 12}px` : `${top}px`;
  document.querySelector(`tr[data-run="${CSS.escape(t.run)}"]`)?.classList.add("lit");
}
if (trials.rows.length) {
  const plot = field("plot").querySelector("svg");
  plot.addEventListener("pointermove", event => light(near(event)));
  plot.addEventListener("pointerdown", event => light(near(event)));
  plot.addEventListener("pointerleave", event => { if (event.pointerType === "mouse") light(null); });
  for (const id of ["x", "y"]) field(id).addEventListener("change", () => { light(null); draw(); });
  addEventListener("resize", () => { light(null); draw(); });
  draw();
}
if (field("filter")) {
  for (const id of ["filter", "family", "model"])
    field(id).addEventListener("input", () => { filterRows(); if (trials.rows.length) { light(null); draw(); } });
  filterRows();
}

/* Paper shows what is folded away on the screen. */
addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });

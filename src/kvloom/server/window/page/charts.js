// Three kinds of charts, drawn as SVG into a box at its real size.

import { svg } from "./dom.js";

const LEFT = 44;
const BOTTOM = 20;
const TOP = 8;

/** Stacked bars. `bars`: [label, {kind: amount}], all of one width; `kinds`: [kind, number of its colour]. */
export function bars(box, { bars: all, kinds, label }) {
  const { width, height, root } = frame(box, label);
  const most = nice(Math.max(1, ...all.map(([, parts]) => total(parts))));
  axis(root, width, height, [0, most / 2, most], (n) => height - BOTTOM - (n / most) * (height - BOTTOM - TOP), short);
  const step = (width - LEFT) / all.length;
  all.forEach(([words, parts, at], n) => {
    let below = 0;
    for (const [kind, colour] of kinds) {
      const size = ((parts[kind] ?? 0) / most) * (height - BOTTOM - TOP);
      if (size <= 0) continue;
      below += size;
      const fill = svg("rect", { x: LEFT + n * step + 1, width: Math.max(1, step - 2), y: height - BOTTOM - below, height: Math.max(0.5, size - 0.5), class: `reason-${colour}` }, svg("title", {}, `${at}: ${parts[kind]} ${kind}`));
      root.append(fill, patterned(fill, colour));
    }
    if (words) root.append(svg("text", { x: Math.min(width - 2, LEFT + (n + 0.5) * step), y: height - 5, "text-anchor": n > all.length - 3 ? "end" : "middle" }, words));
  });
}

/** Dots over time, seconds on a scale of powers of ten. `dots`: [age from 0 to 1, seconds, kind, words]. */
export function dots(box, { dots: all, label, from }) {
  const { width, height, root } = frame(box, label);
  const values = all.map(([, value]) => value);
  const low = Math.floor(Math.log10(Math.max(0.001, Math.min(...values))));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values))));
  const y = (value) => height - BOTTOM - ((Math.log10(Math.max(0.001, value)) - low) / (high - low)) * (height - BOTTOM - TOP);
  const ticks = Array.from({ length: high - low + 1 }, (_, n) => 10 ** (low + n));
  axis(root, width, height, ticks, y, (s) => (s < 1 ? `${Math.round(s * 1000)} ms` : `${s} s`));
  for (const [age, value, kind, words] of all) {
    const x = LEFT + 6 + age * (width - LEFT - 12);
    const shape = kind === "less" ? svg("path", { d: `M${x} ${y(value) - 6}l6 6l-6 6l-6-6z`, class: `dot ${kind}` }) : svg("circle", { cx: x, cy: y(value), r: 4, class: `dot ${kind}` });
    shape.append(svg("title", {}, words));
    root.append(shape);
  }
  root.append(svg("text", { x: LEFT, y: height - 5 }, from), svg("text", { x: width, y: height - 5, "text-anchor": "end" }, "now"));
}

/** A line of rates by time. `points`: [age in seconds, value], the oldest first; null values are gaps. */
export function line(box, { points, label }) {
  const { width, height, root } = frame(box, label);
  const oldest = Math.max(30, points[0][0]);
  const most = nice(Math.max(1, ...points.map(([, value]) => value)));
  const x = (age) => LEFT + (1 - age / oldest) * (width - LEFT);
  const y = (value) => height - BOTTOM - (value / most) * (height - BOTTOM - TOP);
  axis(root, width, height, [0, most / 2, most], y, short);
  const path = points.map(([age, value], n) => `${n ? "L" : "M"}${x(age).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  root.append(svg("path", { class: "area", d: `${path}L${x(points.at(-1)[0])} ${y(0)}L${x(points[0][0])} ${y(0)}Z` }), svg("path", { class: "line", d: path }));
  root.append(svg("text", { x: LEFT, y: height - 5 }, `${Math.round(oldest)} s ago`), svg("text", { x: width, y: height - 5, "text-anchor": "end" }, "now"));
}

/** A colour has a pattern too: a copy of the shape, filled with threads. */
export function patterned(shape, colour) {
  const copy = shape.cloneNode(true);
  copy.setAttribute("class", "over");
  copy.setAttribute("fill", colour ? `url(#threads-${colour})` : "none");
  return copy;
}

/** The patterns, once for the page. */
export function patterns() {
  const thread = (d) => svg("path", { d, class: "thread" });
  const made = ["M0 6L6 0", "M3 0V6", "M0 3H6", "M0 0L6 6M6 0L0 6", "M2 2H4V4H2Z"].map((d, n) => svg("pattern", { id: `threads-${n + 1}`, width: 6, height: 6, patternUnits: "userSpaceOnUse" }, thread(d)));
  return svg("svg", { width: 0, height: 0, "aria-hidden": "true", class: "sr" }, svg("defs", {}, made));
}

function frame(box, label) {
  const width = Math.max(200, box.clientWidth);
  const height = Math.max(100, box.clientHeight);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  box.replaceChildren(root);
  return { width, height, root };
}

function axis(root, width, height, ticks, y, words) {
  for (const tick of ticks) {
    root.append(svg("line", { class: "grid", x1: LEFT, x2: width, y1: y(tick), y2: y(tick) }), svg("text", { x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" }, words(tick)));
  }
}

const total = (parts) => Object.values(parts).reduce((a, b) => a + b, 0);

const short = (n) => (n >= 1e6 ? `${n / 1e6}M` : n >= 1e4 ? `${n / 1e3}k` : String(Math.round(n * 10) / 10));

/** The next round number: 1, 2, 5 times a power of ten. */
function nice(n) {
  const power = 10 ** Math.floor(Math.log10(n));
  return [1, 2, 5, 10].map((each) => each * power).find((each) => each >= n);
}

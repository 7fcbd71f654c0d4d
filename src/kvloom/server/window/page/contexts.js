// Contexts as woven bands: a thread of positions, in stretches by the state of their KV.

import { $, el, empty, legend } from "./dom.js";
import { store, tell } from "./store.js";
import { STATES, ago, bytes, count, percent, plural, reason, tier } from "./words.js";

const MOST_ROWS = 10;
const rows = new Map();

export function drawStates() {
  $("states").replaceChildren(
    ...Object.entries(STATES).map(([state, [name]]) => legend(`w-${state}`, name)),
    legend("w-found", "…found in the cache"),
  );
}

export function drawContexts({ state, about }) {
  if (!state) return;
  const contexts = state.contexts;
  const longest = Math.max(16, ...contexts.map((each) => each.tokens));
  drawAxis(contexts.length ? longest : 0);
  if (!contexts.length) {
    rows.clear();
    $("bands").replaceChildren(el("li", {}, empty("No context yet", `Ask something in the chat, or point a client at ${new URL("v1", location.href).href}: every prompt becomes a band.`)));
  } else {
    if (!rows.size) $("bands").replaceChildren();
    drawRows(contexts, longest, state.now, about);
  }
  drawDetail(contexts);
}

/** The context that is looked at: the one that was chosen, or the newest. */
export function selected(state) {
  const contexts = state?.contexts ?? [];
  return contexts.find((each) => each.id === store.selected) ?? contexts[0] ?? null;
}

/** A band without its frame: also for the prompts of answers. */
export function weave(stretches, length, { width = "100%", promptEnd = null } = {}) {
  const parts = stretches.map(([start, stop, state, origin]) => el("i", { class: kind(state, origin), set: { "--n": stop - start }, title: `${count(start)}–${count(stop)}: ${told(state, origin)}` }));
  const mark = promptEnd !== null && promptEnd < length ? el("i", { class: "prompt-end", set: { "--at": `${(100 * promptEnd) / length}%` }, title: `the answer begins at ${count(promptEnd)}` }) : null;
  return el("span", { class: "weave", "aria-hidden": "true", set: { "--w": width } }, parts, mark);
}

const kind = (state, origin) => (state === "hot" && origin ? "w-found" : `w-${state}`);

function told(state, origin) {
  const name = STATES[state][0];
  if (state === "missing") return origin === "waiting" ? "waits to be computed" : `${name.toLowerCase()}: ${reason(origin)}`;
  if (state === "tier") return origin === "loading" ? "on its way from a tier" : `in the ${tier(origin)} tier`;
  if (state === "hot" && origin) return `${name}, found in ${tier(origin)}`;
  return state === "compressed" && origin && origin !== "ram" ? `${name}, found in ${tier(origin)}` : name;
}

function drawRows(contexts, longest, now, about) {
  const shown = contexts.slice(0, MOST_ROWS);
  const chosen = contexts.find((each) => each.id === store.selected)?.id ?? shown[0].id;
  for (const [id, row] of rows) {
    if (!shown.some((each) => each.id === id)) {
      row.remove();
      rows.delete(id);
    }
  }
  shown.forEach((context, n) => {
    let row = rows.get(context.id);
    if (!row) {
      row = el("li", {}, el("button", { type: "button", class: "band", on: { click: () => choose(context.id), keydown: move } }));
      row.firstChild.dataset.id = context.id;
      rows.set(context.id, row);
    }
    if ($("bands").children[n] !== row) $("bands").insertBefore(row, $("bands").children[n] ?? null);
    fill(row.firstChild, context, longest, Math.round(now / 2) * 2, context.id === chosen, about);
  });
}

function fill(button, context, longest, now, chosen, about) {
  button.setAttribute("aria-pressed", String(chosen));
  button.tabIndex = chosen ? 0 : -1;
  const { compressed, tokens, prompt_tokens } = context;
  const status = context.status === "over" ? ago(now - context.at) : context.status;
  const is = JSON.stringify([context, longest, status]);
  if (button.dataset.is === is) return;
  button.dataset.is = is;
  button.setAttribute("aria-label", `${context.id}, ${status}, ${plural(tokens, "token")}: ${shares(context)}`);
  button.replaceChildren(
    el("span", { class: "band-head" },
      el("b", {}, context.id),
      about?.admin && context.owner ? el("span", {}, context.owner) : null,
      el("span", {}, status),
      compressed ? el("span", {}, `${compressed.method}, ${percent(compressed.bytes, compressed.exact_bytes)} of its bytes kept`) : null,
      el("span", { class: "end" }, `${count(prompt_tokens)} + ${count(tokens - prompt_tokens)} tokens`),
    ),
    weave(context.stretches, tokens, { width: `${(100 * tokens) / longest}%`, promptEnd: prompt_tokens }),
  );
}

function shares({ stretches, tokens }) {
  const sums = new Map();
  for (const [start, stop, state] of stretches) sums.set(state, (sums.get(state) ?? 0) + stop - start);
  return [...sums].map(([state, n]) => `${percent(n, tokens)} ${STATES[state][0].toLowerCase()}`).join(", ");
}

function choose(id) {
  store.selected = id;
  tell();
}

function move(event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const all = [...$("bands").querySelectorAll(".band")];
  const at = all.indexOf(event.currentTarget);
  const to = event.key === "Home" ? 0 : event.key === "End" ? all.length - 1 : at + (step ?? 0);
  if (to === at || !all[to]) return;
  event.preventDefault();
  choose(all[to].dataset.id);
  all[to].focus();
}

function drawAxis(longest) {
  const step = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072].find((each) => longest / each <= 5) ?? longest;
  const ticks = [];
  for (let at = 0; longest && at <= longest * 0.86; at += step) ticks.push(at);
  $("axis").replaceChildren(...ticks.map((at) => el("span", { set: { "--at": `${(100 * at) / longest}%` } }, count(at))), longest ? el("span", { set: { "--at": "100%" } }, `${count(longest)} tokens`) : "");
  $("axis").hidden = !longest;
}

function drawDetail(contexts) {
  const context = contexts.find((each) => each.id === store.selected) ?? contexts[0];
  if (!context) {
    $("detail").replaceChildren();
    return;
  }
  const is = JSON.stringify(context);
  if ($("detail").dataset.is === is) return;
  $("detail").dataset.is = is;
  const spans = context.stretches.slice(0, 8);
  const more = context.stretches.length - spans.length;
  $("detail").replaceChildren(
    el("table", {},
      el("caption", { class: "sr" }, `Spans of ${context.id}`),
      el("thead", {}, el("tr", {}, el("th", {}, "Positions"), el("th", { class: "n" }, "Tokens"), el("th", {}, "State"))),
      el("tbody", {}, spans.map(([start, stop, state, origin]) => el("tr", {}, el("td", {}, `${count(start)} – ${count(stop)}`), el("td", { class: "n" }, count(stop - start)), el("td", {}, told(state, origin))))),
    ),
    ...(more > 0 ? [el("p", { class: "hint" }, `and ${plural(more, "more span")}`)] : []),
    ...(context.held_bytes ? [el("p", { class: "hint" }, `It holds ${bytes(context.held_bytes)} of KV.`)] : []),
  );
}

// Layer by head: which share of its entries each KV head of a compressed context keeps.

import { $, el, empty } from "./dom.js";
import { selected } from "./contexts.js";
import { bytes, count, percent } from "./words.js";

export function drawRetention({ state }) {
  if (!state) return;
  const context = selected(state)?.compressed ? selected(state) : state.contexts.find((each) => each.compressed);
  const is = context ? context.id + JSON.stringify(context.compressed) : "none";
  if ($("map").dataset.is === is) return;
  $("map").dataset.is = is;
  $("map").replaceChildren(...(context ? drawn(context) : [empty("No compressed context yet", "Choose “Compressed” or “Both” in the chat, or send \"kvloom\": {\"cache\": {\"compression\": {\"method\": \"knorm\", \"ratio\": 0.5}}} with a request.")]));
}

function drawn({ id, compressed }) {
  const { layers, method, params, ratio, budget, tokens } = compressed;
  const kept = layers.reduce((sum, [, , heads]) => sum + heads.reduce((a, b) => a + b, 0), 0);
  const had = layers.reduce((sum, [, entries, heads]) => sum + entries * heads.length, 0);
  const heads = Math.max(...layers.map(([, , of]) => of.length));
  const asked = ratio === null ? `within ${bytes(budget)}` : `${percent(ratio, 1)} removed`;
  const by = params.allocator ? `, budget by ${params.allocator}` : "";
  const grid = el("div", { class: "map", role: "table", "aria-label": `What the KV heads of ${id} keep`, set: { "--layers": layers.length } });
  for (let head = 0; head < heads; head += 1) {
    grid.append(el("div", { role: "row", class: "contents" }, el("span", { class: "head", role: "rowheader" }, `head ${head}`), layers.map(([layer, entries, of]) => cell(layer, head, entries, of[head]))));
  }
  grid.append(el("span", { class: "head" }, "layer"), ...layers.map(([layer]) => el("span", {}, layer % 5 ? "" : String(layer))));
  return [
    el("div", { class: "map-facts" },
      fact("Context", id), fact("Method", `${method}${by}`), fact("Asked", asked), fact("Tokens", count(tokens)),
      fact("Entries kept", `${percent(kept, had)} (${count(kept)})`), fact("Bytes kept", `${bytes(compressed.bytes)} of ${bytes(compressed.exact_bytes)}`),
    ),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Map of layers and heads" }, grid),
    el("div", { class: "scale" }, "keeps nothing", el("i", { "aria-hidden": "true" }), "everything", el("span", {}, "· nothing, 0 below 10%, 9 from 90%, # all")),
  ];
}

const fact = (name, value) => el("div", {}, el("span", {}, `${name} `), value);

function cell(layer, head, had, kept) {
  const share = had ? kept / had : 0;
  const letter = kept === 0 ? "·" : kept === had ? "#" : String(Math.floor(share * 10));
  const words = `layer ${layer}, head ${head}: ${count(kept)} of ${count(had)} entries, ${percent(kept, had)}`;
  return el("div", { class: share > 0.5 ? "cell dark" : "cell", role: "cell", title: words, "aria-label": words, set: { "--share": `${Math.round(100 * share)}%` } }, letter);
}

// What every tier holds, by format; and RAM slab by slab.

import { $, el, empty, legend, say } from "./dom.js";
import { bytes, count, format, percent, plural, tier } from "./words.js";

const PATTERNS = 4;
const cells = [];

export function drawMemory({ state }) {
  if (!state) return;
  $("tiers").replaceChildren(ram(state.memory), ...beside(state.tiers));
  drawSlabs(state.memory);
}

function ram(memory) {
  const { budget_bytes, used_bytes, held_bytes, cached_bytes } = memory;
  const other = Math.max(0, used_bytes - held_bytes - cached_bytes);
  return el("div", { class: "tier" },
    head("RAM", `${bytes(used_bytes)} of ${bytes(budget_bytes)}`),
    meter(budget_bytes, [["m-held", held_bytes], ["m-cached", cached_bytes], ["m-other", other]]),
    el("ul", { class: "legend" },
      legend("m-held", "in use", bytes(held_bytes)),
      legend("m-cached", "kept for reuse", bytes(cached_bytes)),
      legend("m-other", "tables and gaps", bytes(other)),
      legend("free", "free", bytes(budget_bytes - used_bytes)),
    ),
  );
}

function beside(tiers) {
  if (!tiers.length) {
    return [empty("No tier beside RAM", "What RAM has no room for is computed again. kvloom serve … --cache-dir DIR keeps it on disk, --warm-bytes 1GiB in other RAM.")];
  }
  return tiers.map((each) => {
    const faults = Object.entries(each.faults).filter(([, n]) => n > 0);
    return el("div", { class: "tier" },
      head(tier(each.name), `${bytes(each.used_bytes)} of ${bytes(each.budget_bytes)}`),
      meter(each.budget_bytes, [["m-tier", each.used_bytes]]),
      el("ul", { class: "legend" },
        legend("m-tier", plural(each.pages, "page")),
        el("li", {}, "written", el("b", {}, count(each.written_pages))),
        el("li", {}, "loaded", el("b", {}, `${count(each.loaded_pages)} (${bytes(each.loaded_bytes)})`)),
        each.dropped_pages ? el("li", {}, "dropped", el("b", {}, count(each.dropped_pages))) : null,
        faults.map(([name, n]) => el("li", { class: "error" }, `${name} ${count(n)}`)),
      ),
    );
  });
}

const head = (name, amount) => el("div", { class: "tier-head" }, el("b", {}, name), el("span", { class: "muted" }, amount));

function meter(budget, parts) {
  const shown = parts.filter(([, size]) => size > 0);
  return el("div", { class: "meter", "aria-hidden": "true" }, shown.map(([kind, size]) => el("i", { class: kind, set: { "--w": `${Math.max(0.4, (100 * size) / budget)}%` } })));
}

function drawSlabs(memory) {
  const { slabs, formats, num_slabs, slab_bytes } = memory;
  const used = slabs.filter((slab) => slab).length;
  const sampled = num_slabs > slabs.length ? `: ${count(slabs.length)} of ${count(num_slabs)} shown` : "";
  say($("slab-note"), `${plural(num_slabs, "slab")} of ${bytes(slab_bytes)}${sampled}`);
  while (cells.length < slabs.length) {
    cells.push(el("i", { class: "slab" }));
    $("slabs").append(cells.at(-1));
  }
  while (cells.length > slabs.length) cells.pop().remove();
  slabs.forEach((slab, n) => drawSlab(cells[n], slab, formats));
  $("slabs").setAttribute("aria-label", `${used} of ${slabs.length} slabs are in use: ${formats.map((use) => `${format(use)} ${plural(use.pages, "page")}`).join(", ")}`);
  const used_formats = formats.map((use, n) => [use, n]).filter(([use]) => use.pages > 0);
  $("formats").replaceChildren(
    ...used_formats.map(([use, n]) => legend(`f${n % PATTERNS}`, format(use), bytes(use.held_bytes + use.cached_bytes))),
    legend("free", "free"),
    el("li", {}, "height: how full; strong: in use, pale: kept for reuse"),
  );
}

function drawSlab(cell, slab, formats) {
  const is = slab ? slab.join() : "";
  if (cell.dataset.is === is) return;
  cell.dataset.is = is;
  if (!slab) {
    cell.className = "slab";
    delete cell.dataset.f;
    cell.title = "free";
    return;
  }
  const [n, filled, held] = slab;
  cell.className = `slab f${n % PATTERNS}`;
  cell.dataset.f = n;
  cell.style.setProperty("--filled", `${100 * filled}%`);
  cell.style.setProperty("--held", `${100 * filled * held}%`);
  cell.title = `${format(formats[n])}: ${percent(filled, 1)} full, ${percent(held, 1)} of that in use`;
}

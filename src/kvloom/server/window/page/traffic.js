// Misses by reason, times to the first token, rates; and the last answers as a table.

import { bars, dots, line, patterned } from "./charts.js";
import { $, el, empty, say, svg } from "./dom.js";
import { ago, bytes, count, percent, plural, reason, seconds, tier } from "./words.js";

const BUCKETS = 20;
const STEPS_S = [5, 15, 30, 60, 180, 600, 1800, 3600, 10800];
const KINDS = ["new", "differs", "evicted", "last-token", "compressed", "other"];
const KIND_OF = { new: 0, differs: 1, evicted: 2, reset: 2, "last-token": 3, "too-short": 3, compressed: 4, watched: 4 };
const kindOfReason = (why) => KIND_OF[why] ?? 5;
let drawnAnswers = "";

export function drawTraffic({ state, answers, samples }) {
  if (!state) return;
  drawRate("rate", samples, "rate", "Answer tokens per second");
  drawRate("prefill", samples, "prefill", "Prompt tokens per second");
  const is = `${answers.at(-1)?.number}/${Math.floor(state.now / 5)}/${$("misses").clientWidth}`;
  if (is === drawnAnswers) return;
  drawnAnswers = is;
  if (!answers.length) {
    for (const id of ["misses", "ttft"]) $(id).replaceChildren(empty("Nothing answered yet", "Every answer adds to this chart."));
    for (const id of ["reasons", "ttft-legend", "answers"]) $(id).replaceChildren();
    return;
  }
  const oldest = Math.max(30, state.now - answers[0].at);
  const step = STEPS_S.find((each) => each * BUCKETS >= oldest) ?? STEPS_S.at(-1);
  drawMisses(state.now, answers, step);
  drawFirst(state.now, answers, Math.min(oldest, step * BUCKETS));
  drawTable(state.now, answers);
}

function drawMisses(now, answers, step) {
  const sums = {};
  const buckets = Array.from({ length: BUCKETS }, () => ({}));
  for (const answer of answers) {
    const n = BUCKETS - 1 - Math.floor((now - answer.at) / step);
    if (n < 0) continue;
    for (const [why, tokens] of Object.entries(answer.missed_by_reason)) {
      const kind = KINDS[kindOfReason(why)];
      sums[why] = (sums[why] ?? 0) + tokens;
      buckets[Math.min(n, BUCKETS - 1)][kind] = (buckets[Math.min(n, BUCKETS - 1)][kind] ?? 0) + tokens;
    }
  }
  const kinds = KINDS.map((kind, n) => [kind, n]);
  const shown = buckets.map((parts, n) => {
    const age = (BUCKETS - 1 - n) * step;
    return [n === BUCKETS - 1 ? "now" : n % 6 === 1 ? ago(age).replace(" ago", "") : "", parts, age ? ago(age) : "now"];
  });
  bars($("misses"), { bars: shown, kinds, label: `Prompt tokens computed by reason: ${Object.entries(sums).map(([why, n]) => `${count(n)} ${reason(why)}`).join(", ")}` });
  const rows = Object.entries(sums).sort(([, a], [, b]) => b - a);
  $("reasons").replaceChildren(...rows.map(([why, n]) => el("li", { "data-reason": why }, swatch(kindOfReason(why)), reason(why), el("b", {}, count(n)))));
}

function swatch(colour) {
  const fill = svg("rect", { width: 14, height: 14, rx: 2, class: `reason-${colour}` });
  return svg("svg", { class: "swatch mark", viewBox: "0 0 14 14", "aria-hidden": "true" }, fill, patterned(fill, colour));
}

function drawFirst(now, answers, span) {
  const shown = answers.filter((each) => each.ttft_s !== null && now - each.at <= span);
  if (!shown.length) {
    $("ttft").replaceChildren(empty("Nothing answered lately", "Every answer adds a point."));
    return;
  }
  const all = shown.map((each) => [1 - Math.max(0, now - each.at) / span, each.ttft_s, kindOf(each), `${each.id}: ${seconds(each.ttft_s)}, ${percent(each.cached_tokens, each.prompt_tokens)} of ${plural(each.prompt_tokens, "prompt token")} reused`]);
  dots($("ttft"), { dots: all, from: ago(span), label: `Time to the first token of ${plural(shown.length, "answer")}: median ${seconds(median(shown.map((each) => each.ttft_s)))}` });
  $("ttft-legend").replaceChildren(mark("found", "half or more reused"), mark("cold", "mostly computed"), mark("less", "compressed"));
}

const kindOf = (answer) => (answer.method ? "less" : 2 * answer.cached_tokens >= answer.prompt_tokens ? "found" : "cold");

function mark(kind, words) {
  const shape = kind === "less" ? svg("path", { d: "M7 1l6 6l-6 6l-6-6z", class: "dot less" }) : svg("circle", { cx: 7, cy: 7, r: 4.5, class: `dot ${kind}`, "stroke-width": 2 });
  return el("li", {}, svg("svg", { class: "swatch mark", viewBox: "0 0 14 14", "aria-hidden": "true" }, shape), words);
}

function drawRate(id, samples, name, label) {
  const known = samples.filter((each) => each[name] !== null);
  if (known.length < 2) {
    if (!$(id).querySelector(".empty")) $(id).replaceChildren(empty("From now on", "Rates are measured while this page is open."));
    return;
  }
  const now = known.at(-1).at;
  line($(id), { points: known.map((each) => [now - each.at, each[name]]), label: `${label}: now ${Math.round(known.at(-1)[name])}` });
  const most = Math.max(...known.map((each) => each[name]));
  say($(`${id}-note`), `now ${count(known.at(-1)[name])}, at most ${count(most)} since this page was opened`);
}

function drawTable(now, answers) {
  const heads = [["Answer"], ["When"], ["Prompt", "n"], ["Reused", "n"], ["From"], ["Computed because"], ["First token", "n"], ["Saved", "n"], ["Tokens/s", "n"], ["KV", "n"]];
  const rows = answers.slice(-20).reverse().map((each) => el("tr", {},
    el("td", {}, each.id), el("td", {}, ago(now - each.at)), number(count(each.prompt_tokens)), number(percent(each.cached_tokens, each.prompt_tokens)),
    el("td", {}, Object.keys(each.reused_by_tier).map(tier).join(", ") || "–"),
    el("td", {}, Object.entries(each.missed_by_reason).map(([why, n]) => `${count(n)} ${reason(why)}`).join(", ") || "–"),
    number(seconds(each.ttft_s)), number(each.saved_s ? `about ${seconds(each.saved_s)}` : "–"), number(each.tokens_per_s ? each.tokens_per_s.toFixed(0) : "–"), number(bytes(each.kv_bytes)),
  ));
  $("answers").replaceChildren(el("table", {}, el("thead", {}, el("tr", {}, heads.map(([name, kind]) => el("th", { class: kind, scope: "col" }, name)))), el("tbody", {}, rows)));
}

const number = (text) => el("td", { class: "n" }, text);

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.floor((sorted.length - 1) / 2)] : null;
}

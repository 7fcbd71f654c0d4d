// The account of an answer: what was reused, from where, what was computed or repaired, and what that saved.

import { el } from "./dom.js";
import { weave } from "./contexts.js";
import { bytes, count, percent, plural, reason, seconds, tier } from "./words.js";

/** `answer`: of /window; `context`: of /window, if it is still listed; `usage`: of the answer itself. */
export function account(answer, context, usage) {
  const lines = [
    ["Reused", reused(answer)],
    ["Computed", computed(answer)],
    ["First token", firstToken(answer)],
    ["KV", memory(answer, context?.compressed, usage)],
    ["Guard", guard(answer.guard)],
    ["Documents", fused(answer.fused)],
  ].filter(([, words]) => words);
  return el("div", { class: "account" }, weave(threads(answer), answer.prompt_tokens), el("dl", {}, lines.map(([name, words]) => [el("dt", {}, name), el("dd", {}, words)])));
}

/** The prompt as a band: what was found where, and what had to be computed. */
function threads({ reused, missed, prompt_tokens, lossy_tokens }) {
  const found = reused.map(([start, stop, from]) => [start, stop, lossy_tokens ? "compressed" : from === "ram" ? "hot" : "tier", from]);
  const known = [...found, ...missed.map(([start, stop, why]) => [start, stop, "missing", why])].sort(([a], [b]) => a - b);
  const last = known.at(-1)?.[1] ?? 0;
  return last < prompt_tokens ? [...known, [last, prompt_tokens, "missing", "new"]] : known;
}

function reused({ cached_tokens, lossy_tokens, prompt_tokens, reused_by_tier }) {
  if (!cached_tokens && !lossy_tokens) return `nothing of ${plural(prompt_tokens, "prompt token")}`;
  const from = Object.entries(reused_by_tier).map(([name, n]) => `${count(n)} from ${tier(name)}`).join(", ");
  return `${percent(cached_tokens + lossy_tokens, prompt_tokens)} of ${plural(prompt_tokens, "prompt token")}: ${from}`;
}

function computed({ missed_by_reason, preemptions }) {
  const parts = Object.entries(missed_by_reason).sort(([, a], [, b]) => b - a).map(([why, n]) => `${count(n)} ${reason(why)}`);
  if (preemptions) parts.push(`begun again ${plural(preemptions, "time")}`);
  return parts.join(", ") || "nothing";
}

function firstToken({ ttft_s, saved_s, tokens_per_s }) {
  const parts = [seconds(ttft_s)];
  if (saved_s > 0.0005) parts.push(`about ${seconds(saved_s)} saved`);
  if (tokens_per_s) parts.push(`then ${tokens_per_s.toFixed(0)} tokens/s`);
  return parts.join(", ");
}

function memory({ kv_bytes }, compressed, usage) {
  if (compressed) return `${bytes(compressed.bytes)} of ${bytes(compressed.exact_bytes)} kept by ${compressed.method}: ${bytes(Math.max(0, compressed.exact_bytes - compressed.bytes))} saved`;
  const told = usage?.kvloom?.compressed?.[0];
  return told ? `${bytes(told.bytes)} kept by ${told.method}` : `${bytes(kv_bytes)}, exact`;
}

function guard(guard) {
  if (!guard) return "";
  if (guard.restored_at !== null) return `went back to exact KV after ${plural(guard.restored_at, "token")}`;
  return `${guard.agreed} of ${plural(guard.checks, "check")} agreed with exact KV`;
}

function fused(fused) {
  if (!fused) return "";
  return `${count(fused.found)} of ${plural(fused.documents, "document token")} found alone, ${count(fused.repaired)} repaired by ${fused.selector}`;
}

// The page: draws what the store has, and hears keys.

import { hasKey, useKey } from "./api.js";
import { patterns } from "./charts.js";
import { offer, startChat, stop } from "./chat.js";
import { drawContexts, drawStates } from "./contexts.js";
import { $, el, say } from "./dom.js";
import { drawMemory } from "./memory.js";
import { drawRetention } from "./retention.js";
import { busy, forget, onNews, poll, setPaused, store } from "./store.js";
import { nextTheme, startTheme } from "./theme.js";
import { drawTraffic, median } from "./traffic.js";
import { bytes, count, percent, seconds } from "./words.js";

const SECTIONS = { m: "memory", c: "contexts", r: "retention", t: "traffic" };

function draw() {
  drawStatus();
  for (const view of [drawFigures, drawMemory, drawContexts, drawRetention, drawTraffic, offer]) view(store);
}

function drawStatus() {
  const { state, trouble, about, paused } = store;
  say($("model"), about?.model ?? "");
  if (about) document.title = `${about.model} · kvloom`;
  const is = trouble ? "wrong" : busy() ? "busy" : "idle";
  $("status").dataset.is = is;
  say($("status"), trouble ? trouble.message.slice(0, 80) : !state ? "connecting" : paused ? "paused" : busy() ? `${count(state.running)} running, ${count(state.waiting)} waiting` : "idle");
  $("key").hidden = !hasKey() && trouble?.status !== 401;
  if (trouble?.status === 401 && !$("key-dialog").open) askForKey(hasKey());
}

function drawFigures({ state, answers, samples }) {
  if (!state) return;
  const { totals, memory } = state;
  const looked = totals.hit_tokens + totals.lossy_tokens + totals.miss_tokens;
  const saved = answers.reduce((sum, each) => sum + (each.saved_s ?? 0), 0);
  const latest = answers.slice(-20).map((each) => each.ttft_s).filter((each) => each !== null);
  const figures = [
    ["Prompt tokens reused", percent(totals.hit_tokens, looked)],
    ["First token, median", seconds(median(latest))],
    ["Answer tokens/s", samples.at(-1)?.rate ? count(samples.at(-1).rate) : "0"],
    ["KV in memory", bytes(memory.used_bytes)],
    ["Time saved, about", saved ? seconds(saved) : "–"],
  ];
  const box = $("figures");
  if (!box.children.length) box.append(...figures.map(([name]) => el("div", {}, el("span", {}, name), el("b", {}))));
  figures.forEach(([, value], n) => say(box.children[n].lastChild, value));
}

function askForKey(wrong) {
  $("key-wrong").hidden = !wrong;
  $("key-dialog").showModal();
  $("key-input").focus();
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key-input").value);
  $("key-input").value = "";
  $("key-dialog").close();
  forget();
  poll();
});
$("key-cancel").addEventListener("click", () => $("key-dialog").close());
$("key").addEventListener("click", () => askForKey(false));
$("pause").addEventListener("click", togglePause);
$("theme").addEventListener("click", nextTheme);
$("help").addEventListener("click", () => $("help-dialog").showModal());
$("help-close").addEventListener("click", () => $("help-dialog").close());

function togglePause() {
  setPaused(!store.paused);
  $("pause").setAttribute("aria-pressed", String(store.paused));
  say($("pause"), store.paused ? "Go on" : "Pause");
}

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop();
  const typing = event.target.closest("input, textarea, select, dialog");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const section = SECTIONS[event.key];
  if (section) {
    $(section).scrollIntoView({ block: "start" });
    $(section).focus({ preventScroll: true });
  } else if (event.key === "/") {
    $("question").focus();
  } else if (event.key === "p") {
    togglePause();
  } else if (event.key === "d") {
    nextTheme();
  } else if (event.key === "?") {
    $("help-dialog").showModal();
  } else {
    return;
  }
  event.preventDefault();
});

document.body.append(patterns());
startTheme();
startChat();
drawStates();
onNews(draw);
new ResizeObserver(() => draw()).observe($("traffic"));
poll();

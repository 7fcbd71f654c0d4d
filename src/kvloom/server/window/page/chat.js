// The chat: through the same endpoint as every client's, with an account of each answer.

import { account } from "./account.js";
import { events, post } from "./api.js";
import { $, el, empty, say } from "./dom.js";
import { poll, store } from "./store.js";
import { percent, plural } from "./words.js";

const PREFERRED = { method: "kvzap", allocator: "lukv" }; // what ships with kvloom for its small models
const KNOWN_DIGITS = 10;

let history = [];
let running = null;
let documentTokens = null;

export function startChat() {
  clear();
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) running.abort();
    else send();
  });
  $("question").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("ask").requestSubmit();
    }
  });
  for (const input of document.querySelectorAll("input[name=mode]")) input.addEventListener("change", () => ($("how").hidden = mode() === "exact"));
  $("ratio").addEventListener("input", () => say($("removed"), `${$("ratio").value}%`));
  $("method").addEventListener("change", () => fillAllocators());
  $("fresh").addEventListener("click", clear);
  $("file").addEventListener("change", takeFile);
  $("document").addEventListener("input", () => attached());
  $("document").addEventListener("change", countDocument);
}

/** Once it is known what can be asked for. */
export function offer({ about }) {
  if (!about || $("method").options.length) return;
  $("method").replaceChildren(...about.methods.map(({ name }) => el("option", { selected: name === PREFERRED.method }, name)));
  fillAllocators();
}

export function stop() {
  running?.abort();
}

const mode = () => new FormData($("ask")).get("mode");

function fillAllocators() {
  const method = store.about.methods.find(({ name }) => name === $("method").value);
  const preferred = method.name === PREFERRED.method ? PREFERRED.allocator : "uniform";
  $("allocator").replaceChildren(...method.allocators.map((name) => el("option", { selected: name === preferred }, name)));
}

function clear() {
  stop();
  history = [];
  $("turns").replaceChildren(empty("Ask something, then ask again", "The first answer computes its prompt; the second finds it in the cache. Attach a document and choose “Both” to see the same question answered from exact and from compressed KV."));
}

async function takeFile() {
  const [file] = $("file").files;
  if (!file) return;
  $("document").value = await file.text();
  attached();
  await countDocument();
}

function attached() {
  documentTokens = null;
  say($("document-note"), $("document").value ? `${plural($("document").value.length, "character")}` : "none: attach a text to ask about");
}

async function countDocument() {
  if (!$("document").value) return;
  try {
    await measured();
    say($("document-note"), plural(documentTokens, "token"));
  } catch (error) {
    say($("document-note"), error.message);
  }
}

const system = () => ($("document").value ? [{ role: "system", content: $("document").value }] : []);

/** Tokens of the prompt up to the end of the document: what is compressed before the question is known. */
async function measured() {
  if (documentTokens === null && system().length) {
    const reply = await post("tokenize", { messages: system(), add_generation_prompt: false });
    documentTokens = (await reply.json()).count;
  }
  return documentTokens;
}

async function send() {
  const question = $("question").value.trim();
  if (!question) return;
  const asked = mode();
  const lanes = asked === "both" ? ["exact", "compressed"] : [asked];
  if (!history.length) $("turns").replaceChildren();
  const made = lanes.map(lane);
  const verdict = el("p", { class: "verdict" });
  $("turns").append(el("article", { class: "turn" }, el("p", { class: "asked" }, question), el("div", { class: `lanes ${made.length > 1 ? "two" : ""}` }, made.map((each) => each.root)), verdict));
  $("turns").lastElementChild.scrollIntoView({ block: "nearest" });
  $("question").value = "";
  running = new AbortController();
  say($("send"), "Stop");
  const messages = [...system(), ...history, { role: "user", content: question }];
  const texts = [];
  try {
    for (const each of made) texts.push(await answer(each, messages, running.signal));
  } finally {
    running = null;
    say($("send"), "Send");
  }
  history.push({ role: "user", content: question });
  if (texts[0]) history.push({ role: "assistant", content: texts[0] });
  if (texts.length > 1) verdict.append(...compared(...texts));
}

function lane(kind) {
  const how = kind === "exact" ? "exact" : `${$("method").value}, ${$("ratio").value}% removed`;
  const note = el("span", { role: "status" }, "waiting");
  const text = el("div", { class: "lane-text waiting" });
  const root = el("section", { class: "lane", "aria-label": `Answer, ${how}`, "data-lane": kind }, el("div", { class: "lane-head" }, el("b", {}, kind === "exact" ? "Exact" : "Compressed"), el("span", {}, kind === "exact" ? "" : how), note), text);
  return { kind, root, text, note };
}

async function answer({ kind, root, text, note }, messages, signal) {
  let id = "";
  let usage = null;
  try {
    const body = { messages, stream: true, stream_options: { include_usage: true }, temperature: 0, max_tokens: Number($("length").value) || 128, kvloom: { cache: await cacheOf(kind) } };
    say(note, "computing the prompt");
    setTimeout(poll, 150);
    for await (const event of events(await post("v1/chat/completions", body, signal))) {
      id = event.id;
      usage = event.usage ?? usage;
      for (const choice of event.choices) {
        if (choice.delta.content) {
          if (!text.textContent) say(note, "answering");
          text.append(choice.delta.content);
        }
        if (choice.finish_reason) say(note, choice.finish_reason === "length" ? "cut off at its limit" : "");
      }
    }
  } catch (error) {
    say(note, signal.aborted ? "stopped" : "failed");
    if (!signal.aborted) root.append(el("p", { class: "error", role: "alert" }, error.message));
  }
  text.classList.remove("waiting");
  text.normalize();
  if (id) await explain(root, id, usage);
  return text.textContent;
}

async function cacheOf(kind) {
  if (kind === "exact") return { compression: { method: "exact" } };
  const compression = { method: $("method").value, ratio: Number($("ratio").value) / 100 };
  if ($("allocator").value !== "uniform") compression.allocator = $("allocator").value;
  const tokens = await measured();
  return tokens ? { compression, compress_after: tokens } : { compression };
}

/** The server names answers by their first digits. */
async function explain(root, id, usage) {
  const name = id.slice(0, id.indexOf("-") + 1 + KNOWN_DIGITS);
  const mine = (each) => each.id.startsWith(name);
  for (let n = 0; n < 5 && !store.answers.some(mine); n += 1) {
    await poll();
    if (!store.answers.some(mine)) await new Promise((done) => setTimeout(done, 200));
  }
  const told = store.answers.findLast(mine);
  setTimeout(poll, 600); // by then what it held has been given back
  if (told) root.append(account(told, store.state?.contexts.find(mine), usage));
}

function compared(exact, compressed) {
  const [ours, theirs] = [exact, compressed].map((text) => text.trim().split(/\s+/));
  let same = 0;
  while (same < ours.length && ours[same] === theirs[same]) same += 1;
  if (same === ours.length && same === theirs.length) return [el("b", {}, "The same answer, "), "word for word."];
  return [el("b", {}, `They differ from word ${same + 1} on: `), `the first ${percent(same, ours.length)} of the exact answer is the same.`];
}

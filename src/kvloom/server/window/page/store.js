// What is known of the server, and who wants to hear of news. One question at a time, and none while nobody looks.

import { Refused, get } from "./api.js";

const EVERY_MS = 1000;
const IDLE_MS = 2000;
const MOST_ANSWERS = 512;
const MOST_SAMPLES = 180;

export const store = { about: null, state: null, answers: [], samples: [], paused: false, trouble: null, selected: null };

const listeners = [];
let last = 0;
let timer = 0;
let asking = false;
let again = false;

export function onNews(listener) {
  listeners.push(listener);
}

export function tell() {
  for (const listener of listeners) listener(store);
}

/** Asks now, and from then on as often as there is something to see. */
export async function poll() {
  clearTimeout(timer);
  if (asking) {
    again = true;
    return;
  }
  asking = true;
  try {
    store.about ??= await get("window/about");
    take(await get(`window?after=${last}`));
    store.trouble = null;
  } catch (error) {
    store.trouble = error instanceof Refused ? error : new Refused(0, "the server cannot be reached");
  }
  asking = false;
  tell();
  if (again) {
    again = false;
    await poll();
  } else {
    plan();
  }
}

export function setPaused(paused) {
  store.paused = paused;
  if (paused) clearTimeout(timer);
  else poll();
  tell();
}

/** After a change of the key: what another key has told is not shown. */
export function forget() {
  Object.assign(store, { about: null, state: null, answers: [], samples: [], selected: null });
  last = 0;
}

export const busy = () => store.state !== null && store.state.running + store.state.waiting > 0;

function plan() {
  clearTimeout(timer);
  const locked = store.trouble?.status === 401;
  if (!store.paused && !document.hidden && !locked) timer = setTimeout(poll, busy() || store.trouble ? EVERY_MS : IDLE_MS);
}

function take(state) {
  if (state.last < last) forget(); // another process
  last = state.last;
  store.answers = store.answers.concat(state.answers).slice(-MOST_ANSWERS);
  store.state = state;
  const { generated_tokens, computed_tokens } = state.totals;
  const at = performance.now() / 1000;
  const before = store.samples.at(-1);
  const sample = { at, generated: generated_tokens, computed: computed_tokens, rate: null, prefill: null };
  if (before && at - before.at > 0.2) {
    const passed = at - before.at;
    sample.rate = Math.max(0, generated_tokens - before.generated) / passed;
    sample.prefill = Math.max(0, computed_tokens - before.computed - (generated_tokens - before.generated)) / passed;
  }
  if (!before || at - before.at > 0.2) store.samples = store.samples.concat(sample).slice(-MOST_SAMPLES);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !store.paused) poll();
});

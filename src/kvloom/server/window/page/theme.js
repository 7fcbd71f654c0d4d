// Light, dark, or as the system says. Only this choice is remembered by the browser.

import { $, say } from "./dom.js";

const THEMES = ["auto", "light", "dark"];
const NAME = "kvloom-theme";

export function startTheme() {
  let kept = null;
  try {
    kept = localStorage.getItem(NAME);
  } catch {
    // the browser keeps nothing
  }
  show(THEMES.includes(kept) ? kept : "auto");
}

export function nextTheme() {
  const theme = THEMES[(THEMES.indexOf(current()) + 1) % THEMES.length];
  show(theme);
  try {
    localStorage.setItem(NAME, theme);
  } catch {
    // then only for this page
  }
}

const current = () => document.documentElement.dataset.theme ?? "auto";

function show(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say($("theme"), `Theme: ${theme}`);
}

// Numbers and names for people.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export const count = (n) => whole.format(n);

export function bytes(n) {
  let unit = 0;
  while (n >= 1024 && unit < UNITS.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${n >= 100 || unit === 0 ? Math.round(n) : n.toFixed(1)} ${UNITS[unit]}`;
}

export function seconds(s) {
  if (s === null || s === undefined) return "–";
  if (s < 0.0995) return `${Math.max(1, Math.round(s * 1000))} ms`;
  return s < 10 ? `${s.toFixed(2)} s` : s < 120 ? `${s.toFixed(0)} s` : `${(s / 60).toFixed(0)} min`;
}

export function percent(part, all) {
  if (!all) return "–";
  const share = (100 * part) / all;
  return share > 0 && share < 1 ? "<1%" : share < 100 && share > 99 ? ">99%" : `${Math.round(share)}%`;
}

export function ago(s) {
  if (s < 2) return "now";
  return s < 90 ? `${Math.round(s)} s ago` : s < 5400 ? `${Math.round(s / 60)} min ago` : `${Math.round(s / 3600)} h ago`;
}

export const plural = (n, one) => `${count(n)} ${one}${n === 1 ? "" : "s"}`;

export const STATES = {
  hot: ["In RAM", "exactly as it was computed"],
  compressed: ["Compressed", "in RAM, what a method has left of it"],
  alone: ["Document alone", "as it was computed for a document alone"],
  tier: ["Colder tier", "on disk or elsewhere, or on its way from there"],
  computing: ["Being computed", "the next rows"],
  missing: ["Missing", "to be computed, or not there any more"],
};

const REASONS = {
  new: "never seen",
  differs: "another token here",
  evicted: "evicted for room",
  reset: "the cache was reset",
  window: "outside a window layer's span",
  "too-short": "too short for a page",
  "last-token": "last token, for its logits",
  scattered: "too scattered to be worth it",
  watched: "seen again by a method",
  compressed: "after a compressed context",
  fused: "after documents computed alone",
  "other-weights": "of another model",
  "other-formats": "in another format",
  "not-loaded": "a tier did not deliver it",
  "not-asked": "the request reads no cache",
  waiting: "waits for its turn",
  loading: "is being loaded",
};

export const reason = (name) => REASONS[name] ?? name;

const TIERS = { ram: "RAM", warm: "warm RAM", warm_int8: "warm RAM, 8 bits", disk: "disk", remote: "remote server" };

export const tier = (name) => TIERS[name] ?? name;

export const format = (use) => (use.by_head ? `single heads (compressed), ${use.codec}` : `${use.name === "full" ? "all heads" : use.name}, ${use.codec}`);

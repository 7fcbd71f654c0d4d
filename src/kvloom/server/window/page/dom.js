// Elements. What comes from a text is only ever put in as a text node: there is no markup from strings here.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

/** An element with attributes and children; strings become text nodes. `set`: custom properties of its style. */
export function el(tag, { set = {}, on = {}, ...attributes } = {}, ...children) {
  return filled(document.createElement(tag), attributes, set, on, children);
}

/** The same for SVG. */
export function svg(tag, { set = {}, on = {}, ...attributes } = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, set, on, children);
}

/** Replaces an element's text only if it is another. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function filled(element, attributes, set, on, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  for (const [name, value] of Object.entries(set)) element.style.setProperty(name, value);
  for (const [name, heard] of Object.entries(on)) element.addEventListener(name, heard);
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

/** A swatch with its words, for a legend. */
export function legend(kind, words, amount) {
  return el("li", {}, el("i", { class: `swatch ${kind}`, "aria-hidden": "true" }), words, amount ? el("b", {}, amount) : null);
}

/** What is said where there is nothing to draw yet. */
export function empty(title, text) {
  return el("div", { class: "empty" }, el("strong", {}, title), el("p", {}, text));
}

// What a run left: numbers that are a series as a plot, small values in the open, large ones folded.

import { h } from "./dom.js";
import { isSeries, plot } from "./plot.js";
import { count, exact, size } from "./words.js";

const SMALL = 240;
const MOST_SHOWN = 200_000;
const MOST_NAMES = 200;

function pretty(value) {
  const text = typeof value === "string" ? value : JSON.stringify(value, null, 2);
  return text.length > MOST_SHOWN ? `${text.slice(0, MOST_SHOWN)}\n… ${size(text.length - MOST_SHOWN)} more` : text;
}

function folded(label, value) {
  const details = h("details", {}, h("summary", {}, label));
  // written out when it is opened, so that a page with many large values is not slow
  details.addEventListener("toggle", () => details.open && details.childElementCount === 1 && details.append(h("pre", { tabindex: "0" }, pretty(value))));
  return details;
}

function kind(value) {
  if (Array.isArray(value)) return `a list of ${count(value.length)}`;
  if (value !== null && typeof value === "object") return `an object of ${count(Object.keys(value).length)}`;
  return typeof value === "string" ? "text" : typeof value;
}

function shown(name, value) {
  if (isSeries(value)) return h("div", {}, plot(name, value), folded("the numbers", value));
  if (typeof value === "number") return h("span", { class: "number" }, exact(value));
  const text = typeof value === "string" ? value : JSON.stringify(value);
  if (text.length <= SMALL) return h("code", { class: "value" }, text);
  return folded(`${kind(value)}, ${size(text.length)}`, value);
}

/** Show the outputs of a run. */
export function showOutputs(outputs) {
  if (outputs === null || outputs === undefined) return h("p", { class: "faint" }, "It left no outputs.");
  if (typeof outputs !== "object" || Array.isArray(outputs)) return shown("outputs", outputs);
  const names = Object.keys(outputs);
  if (names.length === 0) return h("p", { class: "faint" }, "It left no outputs.");
  const rows = names.slice(0, MOST_NAMES).map((name) => [h("dt", {}, name), h("dd", {}, shown(name, outputs[name]))]);
  if (names.length > MOST_NAMES) rows.push(h("dt", {}, "…"), h("dd", {}, `${count(names.length - MOST_NAMES)} more`));
  return h("dl", { class: "outputs" }, rows);
}

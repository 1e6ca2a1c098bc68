// A line through a series of numbers, drawn as SVG.

import { h, svg } from "./dom.js";
import { count, number } from "./words.js";

const WIDTH = 640;
const HEIGHT = 120;
const PAD = 6;
const MOST_POINTS = 640;

/** Whether a value is a series: two numbers or more, and nothing else. */
export function isSeries(value) {
  return Array.isArray(value) && value.length > 1 && value.every((one) => typeof one === "number" && Number.isFinite(one));
}

/** Keep the least and the greatest of each stretch, so that no peak is lost. */
function thinned(values) {
  if (values.length <= MOST_POINTS) return values.map((value, index) => [index, value]);
  const points = [];
  const step = (2 * values.length) / MOST_POINTS;
  for (let from = 0; from < values.length; from += step) {
    const stretch = values.slice(Math.floor(from), Math.ceil(from + step));
    for (const pick of [Math.min(...stretch), Math.max(...stretch)]) points.push([Math.floor(from) + stretch.indexOf(pick), pick]);
  }
  return points.sort(([a], [b]) => a - b);
}

export function plot(name, values) {
  const points = thinned(values);
  const all = points.map(([, value]) => value);
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const x = (index) => PAD + (index / (values.length - 1)) * (WIDTH - 2 * PAD);
  const y = (value) => (high === low ? HEIGHT / 2 : PAD + (1 - (value - low) / (high - low)) * (HEIGHT - 2 * PAD));
  const line = points.map(([index, value]) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  const label = `${name}: ${count(values.length)} numbers from ${number(low)} to ${number(high)}, the last ${number(values.at(-1))}`;
  const ends = values.length <= 40 ? points.map(([index, value]) => svg("path", { d: `M${x(index)} ${y(value)}h0`, class: "dot", "vector-effect": "non-scaling-stroke" })) : [];
  return h(
    "figure",
    { class: "plot" },
    h("div", { class: "scale", "aria-hidden": "true" }, h("span", {}, number(high)), h("span", {}, number(low))),
    svg(
      "svg",
      { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label, preserveAspectRatio: "none" },
      svg("polygon", { points: `${x(0)},${HEIGHT} ${line} ${x(values.length - 1)},${HEIGHT}`, class: "area" }),
      svg("polyline", { points: line, class: "line", "vector-effect": "non-scaling-stroke" }),
      ends,
    ),
    h("figcaption", {}, `${count(values.length)} numbers · first ${number(values[0])} · last ${number(values.at(-1))}`),
  );
}

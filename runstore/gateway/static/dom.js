// Makes elements. Text is always text: nothing here, and nothing that uses it, ever parses markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Make an element; `onclick` and the like are listeners, children are nodes or text. */
export function h(name, attributes, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** Make an element of SVG. */
export function svg(name, attributes, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

/** Set an element's text, where it is another. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A line of a shell that can be copied. */
export function command(text, copy) {
  return h("div", { class: "command" }, h("code", {}, text), copyButton("Copy", "Copy this command", () => text, copy));
}

export function copyButton(label, title, text, copy) {
  return h("button", { type: "button", class: "quiet", title, onclick: () => copy(text(), label) }, label);
}

// What a run wrote, as it comes: the newest of it, at most so much that a page stays quick.

import { h, setText } from "./dom.js";
import { Plain } from "./plain.js";
import { count } from "./words.js";

const MOST_CHARACTERS = 1_000_000;
const NEAR_END = 40;

export function logPanel() {
  const text = h("pre", { class: "logs", tabindex: "0", role: "log", "aria-live": "off", "aria-label": "What the run wrote" });
  const state = h("span", { class: "faint" }, "waiting for the first words");
  const toEnd = h("button", { type: "button", class: "quiet", hidden: true, onclick: () => ((text.scrollTop = text.scrollHeight), (toEnd.hidden = true)) }, "To the end ↓");
  const node = h("section", { class: "panel", "aria-label": "Logs" }, h("div", { class: "bar" }, h("h2", {}, "Logs"), state, h("span", { class: "space" }), toEnd), text);
  let held = 0;
  let cut = 0;
  let waiting = [];
  let frame = 0;
  let isOver = false;
  const plain = { stdout: new Plain(), stderr: new Plain() };

  function draw() {
    frame = 0;
    const follows = text.scrollHeight - text.scrollTop - text.clientHeight < NEAR_END;
    for (const piece of waiting) {
      takeBack(piece);
      if (!piece.text) continue;
      held += piece.text.length;
      const last = text.lastChild;
      if (last?.className === piece.stream && last.textContent.length < 20_000) last.append(piece.text);
      else text.append(h("span", { class: piece.stream }, piece.text));
    }
    waiting = [];
    while (held > MOST_CHARACTERS && text.childNodes.length > 1) {
      const gone = text.firstChild.textContent.length;
      text.firstChild.remove();
      held -= gone;
      cut += gone;
    }
    if (follows) text.scrollTop = text.scrollHeight;
    toEnd.hidden = follows;
    say();
  }

  /** Take away what a line of progress writes over, as far as it is the last that was written. */
  function takeBack({ stream, back }) {
    while (back > 0 && text.lastChild?.className === stream) {
      const last = text.lastChild;
      const kept = last.textContent.slice(0, -back);
      const gone = last.textContent.length - kept.length;
      if (kept) last.textContent = kept;
      else last.remove();
      back -= gone;
      held -= gone;
    }
  }

  function say() {
    const kept = cut ? `the first ${count(cut)} characters are left out here` : "";
    setText(state, kept || (isOver ? (held ? "" : "it wrote nothing") : held ? "as it comes" : "waiting for the first words"));
    text.hidden = isOver && held === 0;
  }

  return {
    node,
    add(piece) {
      waiting.push({ stream: piece.stream, ...plain[piece.stream].take(piece.text) });
      if (!frame) frame = requestAnimationFrame(draw);
    },
    end() {
      isOver = true;
      if (!frame) frame = requestAnimationFrame(draw);
    },
  };
}

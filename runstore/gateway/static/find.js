// The field that finds a run by the first digits of its id.

import { h } from "./dom.js";

export function findField({ client, signal, say }) {
  const input = h("input", { type: "search", name: "find", placeholder: "Find a run by its first digits", "aria-label": "Find a run by the first digits of its id", autocomplete: "off", spellcheck: "false", class: "mono" });
  const form = h("form", { class: "find", role: "search" }, input, h("kbd", { "aria-hidden": "true" }, "/"));
  let shown = null;
  const clear = () => {
    const gone = shown;
    shown = null; // first: what had the focus in there says that it lost it, and asks for the same
    gone?.remove();
  };
  const show = (...children) => {
    clear();
    shown = h("div", { class: "candidates", role: "status" }, children);
    form.append(shown);
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = input.value.trim();
    clear();
    if (!text) return;
    try {
      const run = await client.getRun(text, { signal });
      input.value = "";
      input.blur();
      location.hash = `#/run/${run.run_id}`;
    } catch (error) {
      if (signal.aborted) return;
      if (error.code === "ambiguous_run_id") show(h("p", { class: "faint" }, "Several runs begin so:"), error.candidates.map((id) => h("a", { href: `#/run/${id}`, class: "mono", onclick: clear }, id)));
      else if (error.code === "invalid_run_id") show(h("p", {}, "Give at least 4 of its digits, 0–9 and a–f."));
      else if (error.code === "run_not_found") show(h("p", {}, `No run that this token may read begins with ${text}.`));
      else (show(h("p", {}, error.message)), say(error.message));
    }
  });
  input.addEventListener("input", clear);
  globalThis.addEventListener("hashchange", clear, { signal });
  form.addEventListener("focusout", (event) => !form.contains(event.relatedTarget) && clear());
  input.addEventListener("keydown", (event) => event.key === "Escape" && (clear(), input.blur()));
  return { node: form, focus: () => (input.focus(), input.select()) };
}

// The form that asks for a token. It is kept for this tab alone, and ends with it.

import { command, h } from "./dom.js";

/** Show the form; `take(token)` is called with what was given, and answers with what is wrong with it, or nothing. */
export function signIn({ take, why, copy }) {
  const wrong = h("p", { class: "wrong", role: "alert" }, why);
  const input = h("input", { type: "password", name: "token", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "why" });
  const button = h("button", { class: "main" }, "Sign in");
  wrong.id = "why";
  const form = h(
    "form",
    { class: "signin" },
    h("h1", {}, "runstore"),
    h("label", {}, "Token", input),
    wrong,
    button,
    h(
      "details",
      {},
      h("summary", {}, "Where do I get one?"),
      h("p", {}, "runstore dev prints one when it starts. For a gateway that others run, whoever runs it makes you one:"),
      command("runstore token create --name me", copy),
      h("p", {}, "With the scope runs:read you see runs; cancelling needs runs:write."),
    ),
    h("p", { class: "faint" }, "It is kept in this tab only, and forgotten when the tab is closed."),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const token = input.value.trim();
    if (!token) return;
    button.disabled = true;
    button.textContent = "Signing in…";
    wrong.textContent = (await take(token)) ?? "";
    button.disabled = false;
    button.textContent = "Sign in";
    if (wrong.textContent) input.select();
  });
  return { node: h("main", { class: "page" }, form), focus: () => input.focus(), leave: () => {}, look: () => {}, step: () => {}, title: "sign in" };
}

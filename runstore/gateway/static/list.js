// The page of runs: filters, the listing, and what to do where there is nothing to list.

import { Book } from "./book.js";
import { command, h } from "./dom.js";
import { Live } from "./live.js";
import { Table } from "./table.js";
import { STATUSES, count, shortId, statusWord } from "./words.js";

const WAIT_MS = 350;
const ANNOUNCE_MS = 5000;

export function readFilters(query) {
  const asked = new URLSearchParams(query);
  return {
    project: asked.get("project") ?? "",
    status: asked.getAll("status").filter((status) => STATUSES.includes(status)),
    tag: asked.getAll("tag"),
    commit: asked.get("commit") ?? "",
  };
}

function write(filters) {
  const asked = new URLSearchParams();
  if (filters.project) asked.set("project", filters.project);
  for (const status of filters.status) asked.append("status", status);
  for (const tag of filters.tag) asked.append("tag", tag);
  if (filters.commit) asked.set("commit", filters.commit);
  const text = asked.toString();
  return text ? `#/?${text}` : "#/";
}

/** Show the page; returns its node and what the application calls. */
export function listPage({ client, filters, failed, copy, projects, touched }) {
  const stop = new AbortController();
  const go = (changes) => (location.hash = write({ ...filters, ...changes }));
  const book = new Book(client, filters, stop.signal);
  const table = new Table({ onMore: () => more() });
  const empty = h("div", {});
  const known = h("datalist", { id: "projects" });
  const bar = h("form", { class: "filters", role: "search", "aria-label": "Filter runs", onsubmit: (event) => event.preventDefault() }, chips(), ...fields());
  const title = h("h1", { class: "sr", tabindex: "-1" }, "Runs");
  const node = h("main", {}, title, bar, table.node, empty);
  const spoken = h("div", { class: "sr", role: "status" });
  node.append(spoken);
  table.node.hidden = true;
  let told = "";
  let trouble = null;

  async function more() {
    try {
      if (await book.more()) changed();
    } catch (error) {
      if (!stop.signal.aborted) failed(error);
    }
  }

  function chips() {
    const toggle = (status) => go({ status: filters.status.includes(status) ? filters.status.filter((one) => one !== status) : [...filters.status, status] });
    const chip = (label, isOn, press, mark) => h("button", { type: "button", class: "chip", name: `status-${label}`, "aria-pressed": String(isOn), onclick: press }, mark, label);
    const marks = (status) => h("span", { class: `mark ${status}`, "aria-hidden": "true" });
    return h(
      "div",
      { class: "chips", role: "group", "aria-label": "Status" },
      chip("all", filters.status.length === 0, () => go({ status: [] })),
      STATUSES.map((status) => chip(statusWord(status), filters.status.includes(status), () => toggle(status), marks(status))),
    );
  }

  function fields() {
    let timer;
    const field = (name, label, value, take, more) => {
      const input = h("input", { name, value, "aria-label": label, placeholder: label, autocomplete: "off", spellcheck: "false", maxlength: 200, ...more });
      const changed = () => (clearTimeout(timer), take(input.value.trim()));
      input.addEventListener("change", changed);
      input.addEventListener("input", () => (clearTimeout(timer), (timer = setTimeout(changed, 3 * WAIT_MS))));
      stop.signal.addEventListener("abort", () => clearTimeout(timer));
      return input;
    };
    return [
      field("project", "Project", filters.project, (project) => project !== filters.project && go({ project }), { list: "projects" }),
      field("tag", "Tags, by commas", filters.tag.join(", "), (text) => {
        const tag = text.split(",").map((one) => one.trim()).filter(Boolean);
        if (tag.join() !== filters.tag.join()) go({ tag });
      }),
      field("commit", "Commit", filters.commit, (commit) => commit !== filters.commit && go({ commit }), { class: "mono" }),
      write(filters) !== "#/" && h("button", { type: "button", class: "quiet", onclick: () => (location.hash = "#/") }, "Clear"),
      known,
    ];
  }

  function changed() {
    if (stop.signal.aborted) return;
    const names = [...new Set([...projects(), ...book.projects])].sort();
    if (known.childElementCount !== names.length) known.replaceChildren(...names.map((value) => h("option", { value })));
    const isUnread = !book.begun;
    const isEmpty = book.begun && book.isWhole && !book.active.length && !book.ended.length;
    table.node.hidden = isEmpty || isUnread;
    const note = isUnread ? trouble?.code ?? "" : isEmpty ? "empty" : "";
    if (note !== told) empty.replaceChildren(...(note === "" ? [] : [isUnread ? whyUnread() : whatToDo()]));
    told = note;
    table.draw();
  }

  /** Tell those who hear the page what ended, all of some seconds in one sentence. */
  function announce() {
    const ended = book.justEnded.splice(0);
    if (!ended.length || !node.isConnected) return;
    const [first] = ended;
    const bad = ended.filter((run) => run.status !== "success").length;
    spoken.textContent = ended.length === 1 ? `Run ${shortId(first.run_id)} of ${first.project_name}: ${statusWord(first.status)}` : `${count(ended.length)} runs ended, ${count(bad)} of them without success`;
  }

  /** What to say where not even the first look went well; the banner says what went wrong, and since when. */
  function whyUnread() {
    const [title, text, line] = {
      store_unavailable: ["The store cannot be reached", "The gateway answers, but what keeps the runs does not. On its machine, this tells why:", "runstore doctor"],
      gateway_unreachable: ["The gateway cannot be reached", "Nothing answers at this address. Check that the gateway runs, and that this machine has a network.", null],
      forbidden: ["This token may not read runs", "Sign out, and in again with a token that has the scope runs:read.", null],
    }[trouble.code] ?? ["The runs cannot be read", trouble.message, null];
    const goesOn = trouble.retryable ? "No need to reload: the runs show here as soon as they can be read." : null;
    return h("div", { class: "note" }, h("h1", {}, title), h("p", { class: "faint" }, text), line && command(line, copy), goesOn && h("p", { class: "faint" }, goesOn));
  }

  function whatToDo() {
    if (write(filters) !== "#/") {
      return h("div", { class: "note" }, h("h1", {}, "No run matches"), h("p", { class: "faint" }, "A status, tag, commit or project of the filter has no runs, or none that this token may read."), h("p", {}, h("button", { type: "button", onclick: () => (location.hash = "#/") }, "Show all runs")));
    }
    const project = projects()[0] ?? "forecasts";
    return h(
      "div",
      { class: "note" },
      h("h1", {}, "No runs yet"),
      h("p", { class: "faint" }, "None that this token may read. A run shows here as soon as it is asked for, or a worker tells of it:"),
      command(`runstore run ${project}`, copy),
      command("runstore exec --project reports -- make report", copy),
      h("p", { class: "faint" }, "Workers publish with one line around their work: see the page on publishing in the docs."),
    );
  }

  const live = new Live(client, book, {
    project: filters.project,
    signal: stop.signal,
    changed: () => (touched(), changed()),
    failed: (error) => ((trouble = error), failed(error), changed()),
  });
  table.show(book, filters.status);
  const speaking = setInterval(announce, ANNOUNCE_MS);
  const ticking = setInterval(() => !document.hidden && book.active.length && table.draw(), 1000);
  return {
    node,
    watch: (names) => live.watch(names),
    look: () => live.look(),
    step: (step) => table.step(step),
    leave: () => (clearInterval(ticking), clearInterval(speaking), stop.abort()),
    arrive: () => (table.hasCurrent ? table.focus() : title.focus({ preventScroll: true })),
    wake: () => (changed(), table.wake()),
    title: filters.project || "runs",
  };
}

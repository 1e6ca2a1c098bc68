// A listing of any length, of which only what is in sight is in the page. Keys: arrows or j and k, Home, End, Enter.

import { h, setText } from "./dom.js";
import { ACTIVE, ENDED, count, duration, moment, shortCommit, shortId, statusWord, whole } from "./words.js";

const NARROW = globalThis.matchMedia("(max-width: 760px)");
const BEYOND = 12;

function makeRow() {
  const cell = (name, ...children) => h("div", { role: "cell", class: name }, ...children);
  const mark = h("span", { "aria-hidden": "true" });
  const word = h("span", {});
  const link = h("a", { tabindex: "-1", class: "mono" });
  const cells = {
    state: cell("state", h("span", { class: "status" }, mark, word)),
    project: cell("project"), id: cell("id", link), commit: cell("commit mono"), when: cell("when"), took: cell("took"), about: cell("about"),
  };
  const node = h("div", { role: "row", class: "row" }, Object.values(cells));
  return { node, cells, mark, word, link, status: null };
}

function describe(row, run, progress, nowMs) {
  const { cells } = row;
  if (row.status !== run.status) {
    if (row.status !== null) {
      row.node.classList.remove("changed");
      void row.node.offsetWidth; // so that the highlight begins anew
      row.node.classList.add("changed");
    }
    row.status = run.status;
    row.mark.className = `mark ${run.status}`;
    row.word.className = run.status;
    setText(row.word, statusWord(run.status));
  }
  setText(cells.project, run.project_name);
  cells.project.title = run.project_name;
  setText(row.link, shortId(run.run_id));
  const label = `${run.project_name}, ${statusWord(run.status)}, run ${shortId(run.run_id)}`;
  if (row.link.getAttribute("aria-label") !== label) row.link.setAttribute("aria-label", label);
  row.link.setAttribute("href", `#/run/${run.run_id}`);
  setText(cells.commit, shortCommit(run.commit_sha));
  setText(cells.when, moment(run.created_at));
  cells.when.title = whole(run.created_at);
  setText(cells.took, duration(run, nowMs));
  const said = run.error_message ?? (run.status === "running" ? progress?.message : null) ?? "";
  const key = JSON.stringify([said, run.tags, run.status === "running" ? progress?.fraction : null]);
  if (row.about === key) return;
  row.about = key;
  cells.about.replaceChildren();
  if (run.status === "running" && typeof progress?.fraction === "number") {
    cells.about.append(h("progress", { max: 1, value: progress.fraction, "aria-label": "progress" }));
  }
  for (const tag of run.tags ?? []) cells.about.append(h("span", { class: "tag" }, tag));
  cells.about.append(said.split("\n", 1)[0].slice(0, 300));
  cells.about.title = said.slice(0, 1000);
}

export class Table {
  #book = null;
  #statuses = [];
  #onMore;
  #rows = new Map();
  #sections = [];
  #current = null;
  #frame = 0;
  #anchor = null;
  #spacer = h("div", { class: "spacer", role: "rowgroup" });

  constructor({ onMore }) {
    this.#onMore = onMore;
    const names = ["Status", "Project", "Run", "Commit", "Created", "Took", "About"];
    const head = h("div", { role: "row", class: "head" }, names.map((name) => h("div", { role: "columnheader", class: name === "Commit" ? "commit" : null }, name)));
    this.node = h("div", { class: "table", role: "table", "aria-label": "Runs, newest first", tabindex: "-1" }, h("div", { role: "rowgroup", class: "headgroup" }, head), this.#spacer);
    this.node.addEventListener("scroll", () => (this.#note(), this.draw()), { passive: true });
    this.node.addEventListener("keydown", (event) => this.#key(event));
    this.node.addEventListener("focusin", (event) => {
      const row = event.target.closest?.("[data-run]");
      if (row) this.#choose(row.dataset.run);
    });
    NARROW.addEventListener("change", () => this.draw());
  }

  get #height() {
    return NARROW.matches ? 58 : 34;
  }

  show(book, statuses) {
    this.#book = book;
    this.#statuses = statuses;
    this.#anchor = null;
    this.node.scrollTop = 0;
    this.draw();
  }

  /** Draw, once for all changes before the next frame. */
  draw() {
    if (!this.#frame) this.#frame = requestAnimationFrame(() => ((this.#frame = 0), this.#draw()));
  }

  get hasCurrent() {
    return !this.node.hidden && this.#current !== null;
  }

  focus() {
    const runId = this.#current ?? this.#at(this.#firstRun())?.run_id;
    if (runId) this.#focus(runId);
  }

  #layout() {
    const has = (known) => !this.#statuses.length || known.some((status) => this.#statuses.includes(status));
    const active = has(ACTIVE) ? this.#book.active.length + 1 : 0;
    const ended = has(ENDED) ? this.#book.ended.length + 1 + (this.#book.isWhole ? 0 : 1) : 0;
    return { active, ended, total: active + ended };
  }

  #at(index) {
    const { active } = this.#layout();
    if (index < active) return index === 0 ? undefined : this.#book.active[index - 1];
    return this.#book.ended[index - active - 1];
  }

  #indexOf(runId) {
    const { active } = this.#layout();
    const run = this.#book.get(runId);
    if (!run) return -1;
    const isActive = ACTIVE.includes(run.status);
    const at = (isActive ? this.#book.active : this.#book.ended).findIndex((one) => one.run_id === runId);
    return at < 0 ? -1 : at + 1 + (isActive ? 0 : active);
  }

  #firstRun() {
    const { total } = this.#layout();
    for (let index = 0; index < Math.min(total, 4); index += 1) if (this.#at(index)) return index;
    return 0;
  }

  /** Keep in mind which run is uppermost, so that what comes in above it does not move it. */
  #note() {
    if (!this.#book) return;
    const index = Math.ceil(this.node.scrollTop / this.#height);
    const run = this.#at(index) ?? this.#at(index + 1);
    this.#anchor = run && this.node.scrollTop > 0 ? { runId: run.run_id, status: run.status, gap: this.#indexOf(run.run_id) * this.#height - this.node.scrollTop } : null;
  }

  #draw() {
    if (!this.#book || !this.node.isConnected) return;
    const height = this.#height;
    const { active, ended, total } = this.#layout();
    this.#spacer.style.height = `${total * height}px`;
    this.node.setAttribute("aria-rowcount", this.#book.isWhole ? total + 1 : -1);
    if (this.#anchor) {
      const index = this.#book.get(this.#anchor.runId)?.status === this.#anchor.status ? this.#indexOf(this.#anchor.runId) : -1;
      const top = index * height - this.#anchor.gap;
      if (index >= 0 && Math.abs(top - this.node.scrollTop) >= 1) this.node.scrollTop = top;
    }
    const from = Math.max(0, Math.floor(this.node.scrollTop / height) - BEYOND);
    const upto = Math.min(total, Math.ceil((this.node.scrollTop + this.node.clientHeight) / height) + BEYOND);
    const wanted = new Map();
    for (let index = from; index < upto; index += 1) if (this.#at(index)) wanted.set(this.#at(index).run_id, index);
    const focused = document.activeElement?.closest?.("[data-run]")?.dataset.run;
    if (focused && !wanted.has(focused) && this.#indexOf(focused) >= 0) wanted.set(focused, this.#indexOf(focused));
    for (const [runId, row] of this.#rows) if (!wanted.has(runId)) (row.node.remove(), this.#rows.delete(runId));
    const now = Date.now();
    if (!this.#current || this.#indexOf(this.#current) < 0) this.#current = this.#at(this.#firstRun())?.run_id ?? null;
    for (const [runId, index] of wanted) {
      let row = this.#rows.get(runId);
      if (!row) {
        row = makeRow();
        row.node.dataset.run = runId;
        this.#rows.set(runId, row);
      }
      row.node.style.top = `${index * height}px`;
      row.node.setAttribute("aria-rowindex", index + 2);
      row.link.tabIndex = runId === this.#current ? 0 : -1;
      describe(row, this.#at(index), this.#book.progress.get(runId), now);
    }
    this.#drawSections(active, ended, height);
    this.#order(wanted, active);
    if (ended && upto >= total - 20 && !this.#book.isWhole) this.#onMore();
  }

  #drawSections(active, ended, height) {
    const told = [];
    const more = this.#book.active.length >= 1000 ? "the newest " : "";
    if (active) told.push([0, this.#book.active.length ? `Running now · ${more}${count(this.#book.active.length)}` : "Nothing is running now"]);
    if (ended) told.push([active, this.#book.ended.length || !this.#book.isWhole ? "Ended" : "Nothing has ended yet"]);
    if (ended && !this.#book.isWhole) told.push([active + ended - 1, "Loading more…"]);
    while (this.#sections.length > told.length) this.#sections.pop().remove();
    while (this.#sections.length < told.length) {
      const node = h("div", { class: "section", role: "row" }, h("div", { role: "cell" }));
      this.#sections.push(node);
    }
    told.forEach(([index, text], at) => {
      this.#sections[at].style.top = `${index * height}px`;
      this.#sections[at].style.height = `${height}px`;
      setText(this.#sections[at].firstChild, text);
    });
  }

  /** Put the rows into the page in the order in which they are seen: a screen reader reads them in the page's order. */
  #order(wanted, active) {
    const nodes = [...wanted].map(([runId, index]) => [index, this.#rows.get(runId).node]);
    const ended = this.#sections.length - (active ? 1 : 0);
    this.#sections.forEach((node, at) => nodes.push([active && at === 0 ? 0 : at === this.#sections.length - ended ? active : Infinity, node]));
    nodes.sort(([a], [b]) => a - b);
    const focused = this.#spacer.contains(document.activeElement) ? document.activeElement : null;
    let next = this.#spacer.firstChild;
    for (const [, node] of nodes) {
      if (node === next) next = next.nextSibling;
      else this.#spacer.insertBefore(node, next);
    }
    if (focused && document.activeElement !== focused) focused.focus({ preventScroll: true });
  }

  /** Draw at once, where the page is shown again after it was put aside. */
  wake() {
    this.#draw();
  }

  #choose(runId) {
    this.#current = runId;
    for (const [one, row] of this.#rows) row.link.tabIndex = one === runId ? 0 : -1;
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(this.node.clientHeight / this.#height) - 2);
    const steps = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const step = steps[event.key];
    if (step === undefined) return;
    event.preventDefault();
    this.step(step);
  }

  /** Go up or down by so many rows. */
  step(step) {
    const { total } = this.#layout();
    const isFocused = this.#current && document.activeElement?.closest?.("[data-run]");
    const here = this.#current ? this.#indexOf(this.#current) : -1;
    let index = !isFocused && Number.isFinite(step) ? Math.max(here, 0) : Math.min(total - 1, Math.max(0, here + step));
    const way = step < 0 ? -1 : 1;
    while (index > 0 && index < total && !this.#at(index)) index += Number.isFinite(step) ? way : -way;
    const run = this.#at(index) ?? this.#at(this.#firstRun());
    if (run) this.#focus(run.run_id);
  }

  #focus(runId) {
    const height = this.#height;
    const top = this.#indexOf(runId) * height;
    const head = NARROW.matches ? 0 : 30;
    if (top < this.node.scrollTop) this.node.scrollTop = top;
    else if (top + height + head > this.node.scrollTop + this.node.clientHeight) this.node.scrollTop = top + height + head - this.node.clientHeight;
    this.#current = runId;
    this.#note();
    this.#draw();
    this.#rows.get(runId)?.link.focus({ preventScroll: true });
  }
}

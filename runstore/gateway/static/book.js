// The runs that a listing shows: what runs now, and what ended, newest first; pages by cursor, changes as they come.

import { ACTIVE, ENDED } from "./words.js";

const PAGE = 200;
const MOST_ACTIVE = 1000;
const MOST_PAGES_AT_ONCE = 5;
const FRESH = 50;

const isBefore = (a, b) => (a.created_at === b.created_at ? a.run_id > b.run_id : a.created_at > b.created_at);

/** Put a run into its place in an array that is in order; its index. */
function place(runs, run) {
  let low = 0;
  let high = runs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isBefore(runs[middle], run)) low = middle + 1;
    else high = middle;
  }
  runs.splice(low, 0, run);
}

export class Book {
  active = [];
  ended = [];
  progress = new Map();
  isWhole = false;
  isLoading = false;
  begun = false;
  justEnded = [];
  #byId = new Map();
  #cursor = null;
  #client;
  #filters;
  #signal;

  constructor(client, filters, signal) {
    this.#client = client;
    this.#filters = filters;
    this.#signal = signal;
  }

  get(runId) {
    return this.#byId.get(runId);
  }

  get projects() {
    return new Set([...this.#byId.values()].map((run) => run.project_name));
  }

  get #wanted() {
    const statuses = this.#filters.status;
    const among = (known) => (statuses.length ? known.filter((status) => statuses.includes(status)) : known);
    return { active: among(ACTIVE), ended: among(ENDED) };
  }

  /** Ask for what runs now and the newest of what ended. Raises what a request raises. */
  async refresh() {
    const { active, ended } = this.#wanted;
    const current = active.length ? await this.#walk(active, MOST_ACTIVE) : [];
    const known = new Set(current.map((run) => run.run_id));
    for (const run of [...this.active]) if (!known.has(run.run_id)) this.#drop(run);
    for (const run of current) this.#put(run);
    if (this.begun && ended.length) {
      const page = await this.#ask(ended, FRESH, null);
      for (const run of page.runs) this.#put(run);
      if (this.ended.length === 0 && page.next_cursor === null) this.isWhole = true;
    }
    if (!this.begun) {
      this.begun = true;
      if (ended.length) await this.more();
      else this.isWhole = true;
    }
  }

  /** Ask for the next page of what ended; false where there is none. */
  async more() {
    if (this.isWhole || this.isLoading) return false;
    this.isLoading = true;
    try {
      // where filters are narrow a page may be short, or empty, and not be the last
      for (let pages = 0, got = 0; pages < MOST_PAGES_AT_ONCE && got < PAGE / 2 && !this.isWhole; pages += 1) {
        const page = await this.#ask(this.#wanted.ended, PAGE, this.#cursor);
        for (const run of page.runs) this.#put(run, true);
        got += page.runs.length;
        this.#cursor = page.next_cursor;
        this.isWhole = page.next_cursor === null;
      }
    } finally {
      this.isLoading = false;
    }
    return true;
  }

  /** Take a run as it was pushed; false where nothing is known of it but that it has changed. */
  hear(pushed) {
    const known = this.#byId.get(pushed.run_id);
    if (!known) return false;
    const { output: _, ...run } = pushed;
    this.#drop(known);
    if (ACTIVE.includes(known.status) && ENDED.includes(run.status)) this.justEnded.push(run);
    const { active, ended } = this.#wanted;
    if ([...active, ...ended].includes(run.status)) this.#put({ ...known, ...run });
    return true;
  }

  #put(run, isPaged = false) {
    const known = this.#byId.get(run.run_id);
    // a page that was read before a push must not take it back
    if (known && ENDED.includes(known.status) && ACTIVE.includes(run.status)) return;
    if (known) this.#drop(known);
    const isActive = ACTIVE.includes(run.status);
    const last = this.ended.at(-1);
    if (!isActive && !isPaged && !this.isWhole && last && isBefore(last, run)) return; // a page will bring it
    this.#byId.set(run.run_id, run);
    place(isActive ? this.active : this.ended, run);
    if (!isActive) this.progress.delete(run.run_id);
  }

  #drop(run) {
    this.#byId.delete(run.run_id);
    const runs = ACTIVE.includes(run.status) ? this.active : this.ended;
    const at = runs.findIndex((one) => one.run_id === run.run_id);
    if (at >= 0) runs.splice(at, 1);
  }

  async #walk(statuses, most) {
    const runs = [];
    for (let cursor = null; runs.length < most; ) {
      const page = await this.#ask(statuses, PAGE, cursor);
      runs.push(...page.runs);
      cursor = page.next_cursor;
      if (cursor === null) break;
    }
    return runs;
  }

  #ask(status, limit, cursor) {
    const { project, commit, tag } = this.#filters;
    const filters = { project_name: project, commit_sha: commit, tag, status };
    return this.#client.listPage({ ...filters, limit, cursor, signal: this.#signal });
  }
}

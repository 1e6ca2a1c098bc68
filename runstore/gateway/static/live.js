// What keeps a listing up to date: a watch of each project that is in sight, and a look at the listing now and then.

const MOST_PROJECTS = 60;
const LOOK_EVERY_MS = 15_000;
const LOOK_SOON_MS = 700;
const LOOK_UNWATCHED_MS = 2000;

/** Keep a book up to date until the signal is aborted; `changed` is called after each change, `failed` with errors. */
export class Live {
  #client;
  #book;
  #only;
  #signal;
  #changed;
  #failed;
  #watched = new Set();
  #timer = null;
  #isLooking = false;
  #again = false;
  #isSoon = false;

  constructor(client, book, { project, signal, changed, failed }) {
    this.#client = client;
    this.#book = book;
    this.#only = project;
    this.#signal = signal;
    this.#changed = changed;
    this.#failed = failed;
    signal.addEventListener("abort", () => clearTimeout(this.#timer));
    if (project) this.watch([project]);
    this.look();
  }

  /** Watch these projects as well. */
  watch(projects) {
    for (const project of projects) {
      if (this.#watched.has(project) || (this.#only && project !== this.#only)) continue;
      if (this.#watched.size >= MOST_PROJECTS) return; // the others are looked at now and then
      this.#watched.add(project);
      this.#follow(project);
    }
  }

  /** Look at the listing now, and again after a while. */
  async look() {
    if (this.#signal.aborted) return;
    if (this.#isLooking) {
      this.#again = true; // what it is about to answer may be from before
      return;
    }
    clearTimeout(this.#timer);
    this.#isLooking = true;
    this.#isSoon = false;
    try {
      await this.#book.refresh();
      this.watch(this.#book.projects);
      this.#failed(null);
      this.#changed();
    } catch (error) {
      if (!this.#signal.aborted) this.#failed(error);
    } finally {
      this.#isLooking = false;
      this.#lookAfter(this.#again ? LOOK_SOON_MS : this.#watched.size ? LOOK_EVERY_MS : LOOK_UNWATCHED_MS);
      this.#again = false;
    }
  }

  #lookSoon() {
    if (this.#isLooking) this.#again = true;
    else if (!this.#isSoon) {
      this.#isSoon = true; // however many come, and however fast
      this.#lookAfter(LOOK_SOON_MS);
    }
  }

  #lookAfter(ms) {
    clearTimeout(this.#timer);
    if (!this.#signal.aborted) this.#timer = setTimeout(() => (document.hidden ? this.#lookAfter(ms) : this.look()), ms);
  }

  async #follow(project) {
    const onProgress = (runId, progress) => {
      this.#book.progress.set(runId, progress);
      this.#changed();
    };
    try {
      const asked = { projectName: project, events: "all", output: false, onProgress, signal: this.#signal };
      const watch = this.#client.watch(asked);
      let isFirst = true;
      // what happened between the look and the watch; a watch that fails says so below
      const ready = watch.ready().then(() => this.look(), () => {});
      for await (const run of watch) {
        if (isFirst) await ready;
        isFirst = false;
        if (this.#book.hear(run)) this.#changed();
        else this.#lookSoon();
      }
    } catch (error) {
      if (this.#signal.aborted) return;
      if (error.retryable) this.#watched.delete(project); // the next look begins it again
      this.#failed(error);
    }
  }
}

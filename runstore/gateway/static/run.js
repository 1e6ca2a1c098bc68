// The page of one run: what became of it and when, its logs as they come, and what it left.

import { copyButton, h, setText } from "./dom.js";
import { logPanel } from "./logs.js";
import { showOutputs } from "./output.js";
import { ACTIVE, duration, moment, statusWord, whole } from "./words.js";

const SOON_MS = 250;

/** Show the page of a run, by its id or a prefix of it. */
export function runPage({ client, runId, failed, copy, touched, back = "#/" }) {
  const stop = new AbortController();
  const signal = stop.signal;
  const parts = {
    mark: h("span", { "aria-hidden": "true" }), word: h("span", {}), title: h("h1", { tabindex: "-1" }, "Reading the run…"), took: h("dd", {}),
    facts: h("dl", { class: "facts" }), error: h("section", { class: "panel error wide", hidden: true, "aria-label": "Why it ended so", tabindex: "0" }),
    progress: h("section", { class: "panel wide", hidden: true, "aria-label": "Progress" }),
    timeline: h("ol", { class: "timeline" }), outputs: h("div", {}, h("p", { class: "faint" }, "Nothing yet.")), note: h("p", { class: "faint" }),
  };
  const cancel = h("button", { type: "button", class: "danger", hidden: true, onclick: () => ask.showModal() }, "Cancel run");
  const ask = confirmation();
  const curl = () => `curl -s -H "Authorization: Bearer $RUNSTORE_TOKEN" ${new URL(`v1/runs/${run?.run_id ?? runId}`, document.baseURI)}`;
  const logs = logPanel();
  const article = h("article", { class: "run unread" });
  const node = h("main", { class: "page" }, article, ask);
  article.append(
      h(
        "div",
        { class: "titles wide" },
        h("a", { href: back, class: "faint" }, "← Runs"),
        parts.title,
        h("span", { class: "status", role: "status" }, parts.mark, parts.word),
        h("div", { class: "actions" }, cancel, copyButton("Copy id", "Copy the run's id (c)", () => run?.run_id ?? runId, copy), copyButton("Copy curl", "Copy a command that looks this run up", curl, copy)),
      ),
      h("section", { class: "panel wide", "aria-label": "Facts" }, parts.facts),
      parts.error,
      parts.progress,
      h("div", {}, h("section", { class: "panel", "aria-label": "Output" }, h("div", { class: "bar" }, h("h2", {}, "Output")), parts.outputs, parts.note), logs.node),
      h("section", { class: "panel", "aria-label": "Timeline" }, h("h2", {}, "Timeline"), parts.timeline),
  );
  let run = null;
  let isShown = false;
  let timer;
  let isFollowing = false;
  let hurry = () => {};
  let hasLogs = false;
  look();
  const ticking = setInterval(() => run && !document.hidden && setText(parts.took, duration(run, Date.now())), 1000);

  function confirmation() {
    const dialog = h(
      "dialog",
      { "aria-labelledby": "cancel-title" },
      h("h1", { id: "cancel-title" }, "Cancel this run?"),
      h("p", {}, "Its worker is told to stop it, and it ends as cancelled. This cannot be taken back."),
      h(
        "div",
        { class: "actions" },
        h("button", { type: "button", onclick: () => dialog.close() }, "Let it run"),
        h("button", { type: "button", class: "danger", onclick: () => (dialog.close(), doCancel()) }, "Cancel run"),
      ),
    );
    return dialog;
  }

  async function doCancel() {
    cancel.disabled = true;
    setText(cancel, "Cancelling…");
    try {
      take(await client.cancel(run.run_id, { signal }));
    } catch (error) {
      cancel.disabled = false;
      setText(cancel, "Cancel run");
      if (!signal.aborted) failed(error.code === "forbidden" ? new Error("This token may not cancel: it lacks the scope runs:write.") : error, true);
    }
  }

  /** Look at the run now; one loop follows it, however often it is asked to look. */
  async function look() {
    hurry();
    if (isFollowing) return;
    isFollowing = true;
    await follow();
    isFollowing = false;
  }

  async function follow() {
    for (;;) {
      try {
        // a watch hands an ended run out at once, and one that goes on with its next step: so look as well
        take(await client.getRun(runId, { signal }));
        runId = run.run_id;
        failed(null);
        if (!hasLogs) readLogs();
        hasLogs = true;
        readEvents();
        if (!ACTIVE.includes(run.status)) return;
        const watch = client.watch({ runIds: runId, events: "all", onProgress: showProgress, signal });
        await watch.ready();
        take(await client.getRun(runId, { signal })); // what came between
        for await (const next of watch) {
          take(next);
          clearTimeout(timer);
          timer = setTimeout(readEvents, SOON_MS);
        }
        return;
      } catch (error) {
        if (signal.aborted) return;
        if (!error.retryable) {
          if (error.code === "run_not_found" || error.code === "invalid_run_id" || error.code === "ambiguous_run_id") nothing(error);
          else failed(error);
          // a whole id may be of a run that is about to be told of
          if (error.code !== "run_not_found" || runId.replaceAll("-", "").length !== 32) return;
        } else failed(error);
        if (error.retryable && !run) setText(parts.title, "The run cannot be read yet");
        await new Promise((resolve) => ((hurry = resolve), setTimeout(resolve, 2000)));
        if (signal.aborted) return;
      }
    }
  }

  function nothing(error) {
    const list = (error.candidates ?? []).map((id) => h("p", {}, h("a", { href: `#/run/${id}`, class: "mono" }, id)));
    const title = error.code === "ambiguous_run_id" ? "More than one run begins so" : "No such run";
    node.replaceChildren(h("div", { class: "note" }, h("h1", {}, title), h("p", { class: "faint" }, list.length ? "Choose one, or give more of its digits." : `${error.message}. Check its digits, or whether this token may read its project.`), list, h("p", {}, h("a", { href: "#/" }, "← All runs"))));
  }

  async function readEvents() {
    try {
      const events = await client.events(runId, { signal });
      parts.timeline.replaceChildren(...events.map(timelineItem));
      touched();
    } catch (error) {
      if (!signal.aborted) failed(error);
    }
  }

  async function readLogs() {
    try {
      for await (const piece of client.logs(runId, { signal })) logs.add(piece);
      logs.end();
    } catch (error) {
      if (!signal.aborted) (logs.end(), failed(error));
    }
  }

  function showProgress(_, progress) {
    parts.progress.hidden = false;
    const percent = typeof progress.fraction === "number" ? `${Math.round(progress.fraction * 100)} %` : "";
    parts.progress.replaceChildren(
      h("div", { class: "bar" }, h("h2", {}, "Progress"), typeof progress.fraction === "number" && h("progress", { max: 1, value: progress.fraction, "aria-label": "Progress" }), h("span", {}, `${percent} ${progress.message ?? ""}`.trim())),
    );
  }

  function take(next) {
    if (run && !ACTIVE.includes(run.status) && ACTIVE.includes(next.status)) return; // an answer from before
    run = next;
    if (article.parentNode !== node) node.replaceChildren(article, ask); // it was not there a moment ago
    article.classList.remove("unread");
    touched();
    const isActive = ACTIVE.includes(run.status);
    document.title = `${statusWord(run.status)} · ${run.project_name} · runstore`;
    setText(parts.title, run.project_name);
    parts.mark.className = `mark ${run.status}`;
    parts.word.className = run.status;
    setText(parts.word, statusWord(run.status));
    cancel.hidden = !isActive;
    if (!isActive) parts.progress.hidden = true;
    setText(parts.took, duration(run, Date.now()));
    const fact = (name, value, title) => value && h("div", {}, h("dt", {}, name), value instanceof Node ? value : h("dd", { title, class: name === "Run" || name === "Commit" ? "mono" : null }, value));
    parts.facts.replaceChildren(
      ...[
        fact("Run", run.run_id), fact("Number", run.run_number === null ? "" : `#${run.run_number}`), fact("Commit", run.commit_sha),
        fact("Started", moment(run.started_at), run.started_at && whole(run.started_at)), fact("Ended", moment(run.finished_at), run.finished_at && whole(run.finished_at)),
        fact("Took", run.started_at ? parts.took : ""), fact("Exit code", run.output?.exit_code === null || run.output?.exit_code === undefined ? "" : String(run.output.exit_code)),
      ].filter(Boolean),
    );
    parts.error.hidden = !run.error_message;
    setText(parts.error, run.error_message ?? "");
    if (isActive) return;
    if (isShown) return; // its output never changes again, and what was unfolded stays so
    isShown = true;
    if (run.output && !(run.truncated && run.output.outputs === null)) parts.outputs.replaceChildren(showOutputs(run.output.outputs));
    else parts.outputs.replaceChildren();
    const why = run.truncated ? "What it left is over 1 MiB, and cut here." : run.output ? "" : "It did not end in success. What it left until then can be read all the same.";
    parts.note.replaceChildren(...(why ? [why, " ", readAll()] : []));
  }

  /** A button that asks for what the gateway does not send by itself. */
  function readAll() {
    const button = h("button", { type: "button", onclick: read }, "Read all of it");
    return button;

    async function read() {
      button.disabled = true;
      setText(button, "Reading…");
      try {
        const whole = await client.output(run.run_id, null, { signal });
        parts.outputs.replaceChildren(showOutputs(whole.outputs));
        setText(parts.note, "");
      } catch (error) {
        if (signal.aborted) return;
        if (error.code === "output_not_found") setText(parts.note, "It left no outputs.");
        else failed(error, true);
        button.disabled = false;
        setText(button, "Read all of it");
      }
    }
  }

  return {
    node,
    look,
    arrive: () => parts.title.focus({ preventScroll: true }),
    copyId: () => copy(run?.run_id ?? runId, "Copy id"),
    step: (step) => node.scrollBy({ top: Math.sign(step) * 80 }),
    leave: () => (clearInterval(ticking), clearTimeout(timer), stop.abort()),
    title: runId.slice(0, 8),
  };
}

function timelineItem(event) {
  const word = statusWord(event.status) + (event.attempt > 1 || event.status === "running" ? `, attempt ${event.attempt}` : "");
  const details = [event.worker && `by ${event.worker}`, event.error_message].filter(Boolean).join(" · ");
  return h(
    "li",
    { class: event.ignored ? "ignored" : null },
    h("span", { class: `mark ${event.status}`, "aria-hidden": "true" }),
    h(
      "div",
      {},
      event.ignored ? h("span", {}, h("s", {}, word), " changed nothing") : word,
      h("small", { title: `said ${whole(event.at)}, recorded ${whole(event.recorded_at)}` }, moment(event.at)),
      event.ignored && event.reason && h("small", {}, event.reason),
      details && h("small", {}, details.slice(0, 600)),
    ),
  );
}

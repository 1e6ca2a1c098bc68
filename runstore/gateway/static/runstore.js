/*
 * runstore.js: look runs up, ask for them, and hear of them as they go on. For browsers and Node 20 or later, with no
 * dependency. Types are in runstore.d.ts.
 *
 * Waits and watches share one websocket and outlive it. Lost touch is never the end of a run: the link connects again,
 * with growing pauses drawn at random, and asks again from where each watch stood. Where websockets are refused it goes
 * on by streams of events (fetch, so that the token stays in a header), else by long poll, from the same places, and
 * tries the websocket again from time to time. What comes again after a resumption is not told twice.
 */

const SUBPROTOCOL = "runstore.v1";
const BEARER = "runstore.bearer.";
const EVENT_STREAM = "text/event-stream";
const MAX_RUN_IDS = 1000;
const MAX_SUBSCRIPTIONS = 100;
const KEPT_FOR_WAITS = 20;
const MERGE_ABOVE = 32;
const MAX_HOLD_S = 60;
const PAGE = 200;
const CLOSED_UNAUTHORIZED = 4401;
const ENDED = new Set(["success", "failed", "timed_out", "cancelled"]);
const RETRYABLE = new Set(["store_unavailable", "gateway_unreachable", "rate_limited", "wait_timeout"]);
const IN_BROWSER = typeof globalThis.document !== "undefined";

const DEFAULTS = {
  /** How long one request may take, beyond the time it asked the gateway to hold its answer. Seconds. */
  timeoutS: 30,
  /** How long the handshake of a websocket may take. Seconds. */
  connectTimeoutS: 10,
  /** How long a request that may be repeated is repeated while the gateway is away or too busy. Seconds; 0: never. */
  retryForS: 5,
  /** How long waits and watches look for a gateway that they lost before they fail. Seconds; Infinity: for ever. */
  giveUpS: 300,
  /** After how much silence the websocket is asked whether it still lives; half as long again, and it is lost. */
  heartbeatS: 30,
  /** The first pause before another attempt; it doubles, and the real one is drawn between 0 and it. Seconds. */
  backoffS: 0.2,
  /** The longest pause before another attempt. Seconds. */
  maxBackoffS: 5,
  /** The pause before a subscription that the gateway could not begin is asked for again. Seconds. */
  putOffS: 1,
  /** How long an unused websocket is kept open. Seconds. */
  idleS: 5,
  /** How long the client goes on without a websocket, where these are refused, before it tries one again. Seconds. */
  websocketRetryS: 60,
  /** How long a stream of events may be without a first word before it counts as held back by a proxy. Seconds. */
  streamPatienceS: 5,
  /** Runs that are held at one time without a websocket. A browser opens six connections to one address at most. */
  heldAtOnce: IN_BROWSER ? 3 : 48,
  /** How many runs a watch keeps for a reader that is slow, before it lets go and resumes by cursor. */
  bufferItems: 10_000,
  /** How many characters of runs a watch keeps for a reader that is slow, likewise. */
  bufferCharacters: 32 * 1024 * 1024,
};

/** Whether a run has ended: its status never changes again. */
export function isTerminal(run) {
  return ENDED.has(run.status);
}

/** What went wrong. `code` is stable: those of the gateway, `gateway_unreachable`, `wait_timeout`, `unexpected_answer`. */
export class RunstoreError extends Error {
  constructor(code, detail, { status = null, candidates = [], retryAfterS = 0 } = {}) {
    super(detail);
    this.name = "RunstoreError";
    this.code = code;
    this.status = status;
    this.candidates = candidates;
    this.retryAfterS = retryAfterS;
  }

  /** Whether the same may go well later. */
  get retryable() {
    return RETRYABLE.has(this.code);
  }
}

const unreachable = (detail) => new RunstoreError("gateway_unreachable", detail);
const invalid = (detail) => new RunstoreError("invalid_request", detail);
const unexpected = (detail, status = null) => new RunstoreError("unexpected_answer", detail, { status });

// ---- small things

const nowMs = () => globalThis.performance.now();

function drawPauseMs(config, attempt) {
  return Math.max(10, Math.random() * 1000 * Math.min(config.maxBackoffS, config.backoffS * 2 ** Math.min(attempt, 30)));
}

function abortReason(signal) {
  return signal.reason ?? new DOMException("aborted", "AbortError");
}

function sleep(ms, signal) {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(abortReason(signal));
    const stop = () => (clearTimeout(timer), reject(abortReason(signal)));
    const timer = setTimeout(() => (signal?.removeEventListener("abort", stop), resolve()), ms);
    signal?.addEventListener("abort", stop, { once: true });
  });
}

/** A controller that is aborted with any of these signals; `drop` lets go of them. */
function linked(...signals) {
  const controller = new AbortController();
  const given = signals.filter(Boolean);
  const stop = (event) => controller.abort(abortReason(event.target));
  for (const signal of given) {
    if (signal.aborted) controller.abort(abortReason(signal));
    else signal.addEventListener("abort", stop, { once: true });
  }
  return { controller, signal: controller.signal, drop: () => given.forEach((s) => s.removeEventListener("abort", stop)) };
}

/** Lets many wait for one thing that happens again and again. */
class Bell {
  #waiting = [];
  #rung = false;

  ring() {
    this.#rung = true;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  /** Wait until it was rung since the last wait. */
  async wait(signal) {
    if (!this.#rung) {
      await new Promise((resolve, reject) => {
        if (signal?.aborted) return reject(abortReason(signal));
        const stop = () => reject(abortReason(signal));
        this.#waiting.push(() => (signal?.removeEventListener("abort", stop), resolve()));
        signal?.addEventListener("abort", stop, { once: true });
      });
    }
    this.#rung = false;
  }
}

const HEX = /^[0-9a-f]+$/i;

/** Return a whole id in its canonical spelling, and a prefix as it was typed. */
function canonical(runId) {
  const text = String(runId ?? "").trim();
  const digits = text.replaceAll("-", "").toLowerCase();
  if (digits.length < 4 || digits.length > 32 || !HEX.test(digits)) {
    throw new RunstoreError("invalid_run_id", `${JSON.stringify(text.slice(0, 60))} is no run id: give 4 to 32 hex digits of it`);
  }
  if (digits.length < 32) return text;
  return [digits.slice(0, 8), digits.slice(8, 12), digits.slice(12, 16), digits.slice(16, 20), digits.slice(20)].join("-");
}

const isWhole = (runId) => runId.replaceAll("-", "").length === 32;

/** When the newest event was folded that a cursor stands behind, in ms since 1970; 0: unknown. It is msgpack. */
function cursorMs(cursor) {
  let newest = 0;
  try {
    const packed = Uint8Array.from(atob(cursor.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    const view = new DataView(packed.buffer);
    let at = 0;
    const uint = (bytes) => {
      let value = 0;
      for (let left = bytes; left > 0; left -= 1) value = value * 256 + view.getUint8(at++);
      return value;
    };
    const list = (length) => Array.from({ length }, read);
    const skip = (length) => ((at += length), null);
    function read() {
      const kind = view.getUint8(at++);
      if (kind < 0x80) return kind;
      if (kind >= 0x90 && kind < 0xa0) return list(kind & 15);
      if (kind >= 0xa0 && kind < 0xc0) return skip(kind & 31);
      if (kind === 0xc0) return null;
      if (kind >= 0xc4 && kind <= 0xc6) return skip(uint(2 ** (kind - 0xc4)));
      if (kind >= 0xcc && kind <= 0xcf) return uint(2 ** (kind - 0xcc));
      if (kind === 0xdc || kind === 0xdd) return list(uint(kind === 0xdc ? 2 : 4));
      throw new RangeError("not of a cursor");
    }
    for (const [, , , , entry, folded] of read()) newest = Math.max(newest, (folded ?? entry ?? [0])[0]);
  } catch {
    return 0;
  }
  return newest;
}

/** Take text as it comes, and hand out server-sent events as `{kind, data, id}`. `id` stays until it changes. */
class SseSplitter {
  #rest = "";
  #kind = "message";
  #data = [];
  #id = "";

  *take(text) {
    this.#rest += text;
    const lines = this.#rest.split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        if (this.#data.length) yield { kind: this.#kind, data: this.#data.join("\n"), id: this.#id };
        this.#kind = "message";
        this.#data = [];
        continue;
      }
      const colon = line.indexOf(":");
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
      if (name === "event") this.#kind = value;
      else if (name === "data") this.#data.push(value);
      else if (name === "id") this.#id = value;
    }
  }
}

// ---- requests

class Http {
  #token;

  constructor(url, token, config) {
    let base;
    try {
      base = new URL(url);
    } catch {
      throw invalid(`${JSON.stringify(String(url).slice(0, 100))} is no gateway's address: give one such as http://127.0.0.1:8080`);
    }
    if (base.username || base.password) throw invalid("leave user and password out of the address: a token is given apart");
    if (!/^https?:$/.test(base.protocol)) throw invalid("a gateway's address begins with http:// or https://");
    base.search = base.hash = "";
    base.pathname = base.pathname.replace(/\/*$/, "/");
    this.base = base;
    this.config = config;
    this.#token = token;
  }

  get renewsToken() {
    return typeof this.#token === "function";
  }

  async token() {
    return (this.renewsToken ? await this.#token() : this.#token) || null;
  }

  url(path, query = []) {
    const url = new URL(path.replace(/^\//, ""), this.base);
    for (const [name, value] of query) url.searchParams.append(name, value);
    return url;
  }

  /** Ask, and return `{status, headers, text, json()}`. `holdS`: how long the gateway was asked to hold its answer. */
  async request(method, path, { query, headers, body, repeatable = true, holdS = 0, signal } = {}) {
    const giveUpAt = nowMs() + this.config.retryForS * 1000;
    for (let attempt = 0; ; attempt += 1) {
      try {
        return await this.#once(method, path, { query, headers, body, holdS, signal });
      } catch (error) {
        const pause = Math.max((error.retryAfterS ?? 0) * 1000, drawPauseMs(this.config, attempt));
        if (!(error instanceof RunstoreError) || !error.retryable || !repeatable || nowMs() + pause > giveUpAt) throw error;
        await sleep(pause, signal);
      }
    }
  }

  async #once(method, path, { query, headers, body, holdS, signal }) {
    const { signal: limit, controller, drop } = linked(signal);
    const timer = setTimeout(() => controller.abort(new Error("timeout")), (this.config.timeoutS + holdS) * 1000);
    try {
      const response = await this.#fetch(method, path, { query, headers, body, signal: limit });
      const text = method === "HEAD" ? "" : await response.text();
      if (response.ok) return { status: response.status, headers: response.headers, text, json: () => parse(text) };
      throw readProblem(response, text, `${method} ${path}`);
    } catch (error) {
      throw this.#explained(error, signal);
    } finally {
      clearTimeout(timer);
      drop();
    }
  }

  /** Ask for server-sent events, and hand them out as they come. `firstS` limits the wait for a word, `quietS` silence. */
  async *stream(path, { headers, firstS, quietS, signal, onWord }) {
    const { signal: limit, controller, drop } = linked(signal);
    // a read that is begun after its answer was aborted does not end in every Node
    const aborted = new Promise((_, reject) => {
      if (limit.aborted) reject(limit.reason);
      limit.addEventListener("abort", () => reject(limit.reason), { once: true });
    });
    aborted.catch(() => {});
    let timer;
    const expect = (seconds) => {
      clearTimeout(timer);
      timer = setTimeout(() => controller.abort(new StreamSilent()), seconds * 1000);
    };
    try {
      expect(firstS);
      const response = await this.#fetch("GET", path, { headers: { Accept: EVENT_STREAM, ...headers }, signal: limit });
      if (!response.ok) throw readProblem(response, await response.text(), `GET ${path}`);
      const kind = (response.headers.get("Content-Type") ?? "").split(";")[0].trim();
      if (kind !== EVENT_STREAM) throw unexpected(`the answer is ${kind || "of no type"}, not ${EVENT_STREAM}`);
      const splitter = new SseSplitter();
      const decoder = new TextDecoder();
      const reader = response.body.getReader();
      for (;;) {
        const { done, value } = await Promise.race([reader.read(), aborted]);
        if (done) return;
        clearTimeout(timer); // whoever takes the events may take a while for it: that is no silence of the gateway's
        onWord?.();
        yield* splitter.take(decoder.decode(value, { stream: true }));
        expect(quietS);
      }
    } catch (error) {
      if (limit.aborted && limit.reason instanceof StreamSilent) throw limit.reason;
      throw this.#explained(error, signal);
    } finally {
      clearTimeout(timer);
      drop();
      controller.abort();
    }
  }

  async #fetch(method, path, { query, headers, body, signal }) {
    const token = await this.token();
    const sent = { ...headers };
    if (token) sent.Authorization = `Bearer ${token}`;
    if (body !== undefined) sent["Content-Type"] = "application/json";
    const options = { method, headers: sent, body, signal, redirect: "manual", credentials: "omit", cache: "no-store" };
    const response = await fetch(this.url(path, query), options);
    if (response.type === "opaqueredirect" || (response.status >= 300 && response.status < 400)) {
      throw unexpected(`${method} ${path}: the answer was a redirect; give the gateway's own address`, response.status);
    }
    return response;
  }

  #explained(error, signal) {
    if (signal?.aborted) return abortReason(signal);
    if (error instanceof RunstoreError) return error;
    const why = error?.cause?.code ?? error?.cause?.message ?? error?.message ?? String(error);
    return unreachable(`the gateway at ${this.base.origin} cannot be reached: ${why}`);
  }
}

class StreamSilent extends Error {}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    throw unexpected("the answer cannot be read; is this a runstore gateway?");
  }
}

function readProblem(response, text, what) {
  const status = response.status;
  const told = Number(response.headers.get("Retry-After") ?? 0);
  const retryAfterS = Number.isFinite(told) ? Math.min(Math.max(told, 0), 60) : 0;
  let problem = null;
  try {
    problem = JSON.parse(text);
  } catch {
    // no problem document: the status alone has to say it
  }
  if (typeof problem?.code === "string") {
    const candidates = Array.isArray(problem.candidates) ? problem.candidates : [];
    return new RunstoreError(problem.code, problem.detail ?? problem.title ?? problem.code, { status, candidates, retryAfterS });
  }
  if ([502, 503, 504].includes(status)) return unreachable(`${what}: a proxy answered ${status}, so the gateway is away`);
  if (status === 401) return new RunstoreError("unauthorized", `${what}: give a valid token (the answer was 401)`, { status });
  if (status === 429) return new RunstoreError("rate_limited", `${what}: too many requests`, { status, retryAfterS });
  return unexpected(`${what}: the answer was ${status} without a problem document; is this a runstore gateway?`, status);
}

// ---- what a watch asks for, and what it has told

const RANKS = { pending: 0, running: 1 };
const ENDED_RANK = 2;
const MAX_SEEN = 50_000;
const rankOf = (run) => RANKS[run.status] ?? ENDED_RANK;

/**
 * What a watch has handed out. A run moves only forward: what is behind what was handed out is a repeat, and so is
 * whatever follows an end. The same again is a repeat only right after a resumption; else it is news (a new attempt
 * looks no different).
 */
class Seen {
  #last = new Map();
  #suspects = new Set();

  resumed() {
    this.#suspects = new Set(this.#last.keys());
  }

  hasEnded(runId) {
    return this.#last.get(runId)?.rank === ENDED_RANK;
  }

  isNews(run, wasAskedFor) {
    const rank = rankOf(run);
    const text = rank === ENDED_RANK ? "" : JSON.stringify(run);
    const last = this.#last.get(run.run_id);
    const isSuspect = wasAskedFor || this.#suspects.has(run.run_id);
    this.#suspects.delete(run.run_id);
    if (last && (last.rank === ENDED_RANK || rank < last.rank || (isSuspect && rank === last.rank && text === last.text))) {
      return false;
    }
    this.#last.delete(run.run_id);
    this.#last.set(run.run_id, { rank, text });
    if (this.#last.size > MAX_SEEN) this.#last.delete(this.#last.keys().next().value);
    return true;
  }
}

/** The state of one watch. The link writes into it, its reader takes from it. */
class Channel {
  parts;
  error = null;
  catchUp = null;
  caughtUpSince = null;
  touchedAt = null;
  #items = [];
  #characters = 0;
  #news = new Bell();
  #stalled = false;
  #seen = new Seen();
  #config;
  #subscribed;

  constructor(asked, cursor, names, config) {
    this.asked = asked;
    this.#config = config;
    const chunks = asked.projectName === null ? [] : [[]];
    for (let at = 0; at < asked.runIds.length; at += MAX_RUN_IDS) chunks.push(asked.runIds.slice(at, at + MAX_RUN_IDS));
    this.parts = chunks.map((runIds) => ({
      name: names(), runIds: new Set(runIds), cursor, sent: false, putOff: false, stood: false, done: false,
    }));
    this.subscribed = new Promise((resolve) => (this.#subscribed = resolve));
  }

  get hearsAll() {
    return this.asked.events === "all";
  }

  get over() {
    return this.error !== null || this.parts.every((part) => part.done);
  }

  get cursor() {
    return this.parts.length === 1 ? this.parts[0].cursor : null;
  }

  get stoodOnce() {
    return this.parts.some((part) => part.stood);
  }

  *commands() {
    if (this.#stalled || this.error !== null) return;
    for (const part of this.parts) {
      if (part.sent || part.done || part.putOff) continue;
      part.sent = true;
      const { projectName, events, output } = this.asked;
      const what = projectName !== null ? { project_name: projectName } : { run_ids: [...part.runIds] };
      yield { type: "subscribe", id: part.name, ...what, events, output, cursor: part.cursor ?? undefined };
    }
  }

  *letGo() {
    for (const part of this.parts) {
      if (part.sent && !part.done) yield { type: "unsubscribe", id: part.name };
      part.sent = false;
    }
  }

  disconnected() {
    for (const part of this.parts) {
      part.sent = part.putOff = false;
      if (this.asked.projectName === null && part.runIds.size === 0) this.finish(part);
    }
    this.#seen.resumed();
  }

  stands(part, runIds, cursor) {
    if (runIds?.length && this.asked.projectName === null) part.runIds = new Set(runIds);
    part.cursor = cursor ?? part.cursor;
    part.stood = true;
    this.touchedAt = nowMs();
    if (this.parts.every((one) => one.stood || one.done)) this.#subscribed();
  }

  /** Take a run for the reader; false where the reader is so slow that the subscriptions are to be let go. */
  offer(run, { part = null, cursor = null, characters = 256, wasAskedFor = cursor === null } = {}) {
    if (this.#stalled) return true;
    this.touchedAt = nowMs();
    if (part) {
      part.cursor = cursor ?? part.cursor;
      if (isTerminal(run)) part.runIds.delete(run.run_id);
    }
    if ((isTerminal(run) || this.hearsAll) && this.#seen.isNews(run, wasAskedFor)) {
      this.#items.push({ run, cursor });
      this.#characters += characters;
      this.#news.ring();
    }
    const isFull = this.#items.length > this.#config.bufferItems || this.#characters > this.#config.bufferCharacters;
    this.#stalled = isFull && cursor !== null;
    return !this.#stalled;
  }

  offerPolled(run, part, wasAskedFor) {
    this.offer(this.asked.output ? run : { ...run, output: null }, { part, wasAskedFor });
    if (this.asked.projectName === null && part.runIds.size === 0) this.finish(part);
  }

  toldUpto(part, cursor) {
    if (this.asked.runIds.length === 1) part.cursor = cursor;
  }

  lacksEnd(runId) {
    return !this.#seen.hasEnded(runId);
  }

  lookAgain() {
    this.#seen.resumed();
  }

  tellProgress(runId, progress) {
    this.asked.onProgress?.(runId, progress);
  }

  finish(part) {
    part.done = true;
    this.#news.ring();
    if (this.parts.every((one) => one.stood || one.done)) this.#subscribed();
  }

  fail(error) {
    this.error ??= error;
    this.#news.ring();
    this.#subscribed();
  }

  /** Wait for a run; null when nothing will come any more. */
  async take() {
    while (this.#items.length === 0) {
      if (this.error !== null) throw this.error;
      if (this.over) return null;
      await this.#news.wait();
    }
    const item = this.#items.shift();
    if (this.#items.length === 0) this.#characters = 0;
    return item;
  }

  /** Begin again where the reader had been too slow; true where there is something to ask for again. */
  resume() {
    const resumes = this.#stalled && this.#items.length === 0;
    if (resumes) {
      this.#stalled = false;
      this.#seen.resumed();
    }
    return resumes;
  }
}

/** The runs that are awaited, each in at most one subscription; those that are asked for at one moment share one. */
class Waits {
  #waiting = new Map();
  #unasked = new Set();
  #putOff = new Set();
  #batches = [];
  #groups = new Map();
  #over = [];
  #names;

  constructor(names) {
    this.#names = names;
  }

  get runIds() {
    return this.#waiting.keys();
  }

  get size() {
    return this.#waiting.size;
  }

  has(runId) {
    return this.#waiting.has(runId);
  }

  hasGroup(name) {
    return this.#groups.has(name);
  }

  add(runId, waiter) {
    const waiters = this.#waiting.get(runId);
    if (waiters) waiters.add(waiter);
    else {
      this.#waiting.set(runId, new Set([waiter]));
      this.#unasked.add(runId);
    }
  }

  drop(runId, waiter) {
    const waiters = this.#waiting.get(runId);
    if (waiters?.delete(waiter) && waiters.size === 0) this.#leave(runId, false);
  }

  ended(run) {
    this.#settle(run.run_id, (waiter) => waiter.resolve(run), true);
  }

  fail(runId, error) {
    this.#settle(runId, (waiter) => waiter.reject(error), false);
  }

  failAll(error) {
    for (const runId of [...this.#waiting.keys()]) this.fail(runId, error);
  }

  /** Ask for a group's runs anew. */
  renew(name) {
    if (this.#dissolve(name).length) this.#over.push(name);
  }

  done(name) {
    this.#dissolve(name);
  }

  refused(name, error) {
    const runIds = this.#dissolve(name);
    if (error.retryable) {
      for (const runId of runIds) {
        this.#unasked.delete(runId);
        this.#putOff.add(runId);
      }
    } else if (runIds.length > 1) {
      const middle = runIds.length >> 1;
      this.#batches.push(runIds.slice(0, middle), runIds.slice(middle)); // one bad run does not spoil the others
    } else if (runIds.length) this.fail(runIds[0], error);
  }

  retry() {
    for (const runId of this.#putOff) this.#unasked.add(runId);
    this.#putOff.clear();
  }

  disconnected() {
    for (const name of [...this.#groups.keys()]) this.#dissolve(name);
    this.#over = [];
    this.#batches = [];
    this.retry();
  }

  *commands(room) {
    if (this.#unasked.size && this.#groups.size >= MERGE_ABOVE) this.#merge();
    for (const id of this.#over.splice(0)) yield { type: "unsubscribe", id };
    while (this.#unasked.size && this.#groups.size < room) {
      const wanted = this.#batches.pop() ?? [...this.#unasked].slice(0, MAX_RUN_IDS);
      const runIds = wanted.filter((runId) => this.#unasked.delete(runId));
      if (runIds.length === 0) continue;
      const id = this.#names();
      this.#groups.set(id, { runIds: new Set(runIds), dropped: false });
      yield { type: "subscribe", id, run_ids: runIds };
    }
  }

  #settle(runId, tell, heard) {
    const waiters = this.#waiting.get(runId);
    if (!waiters) return;
    this.#leave(runId, heard);
    for (const waiter of waiters) tell(waiter);
  }

  #leave(runId, heard) {
    this.#waiting.delete(runId);
    this.#unasked.delete(runId);
    this.#putOff.delete(runId);
    for (const [name, group] of this.#groups) {
      if (!group.runIds.delete(runId)) continue;
      group.dropped ||= !heard;
      if (group.runIds.size === 0) {
        this.#groups.delete(name);
        if (group.dropped) this.#over.push(name); // where every run has ended the gateway ends it by itself
      }
      return;
    }
  }

  #dissolve(name) {
    const runIds = [...(this.#groups.get(name)?.runIds ?? [])];
    this.#groups.delete(name);
    for (const runId of runIds) this.#unasked.add(runId);
    return runIds;
  }

  #merge() {
    const bySize = [...this.#groups].sort(([, a], [, b]) => a.runIds.size - b.runIds.size);
    let total = this.#unasked.size;
    for (const [name, group] of bySize.slice(0, bySize.length >> 1)) {
      total += group.runIds.size;
      if (total > MAX_RUN_IDS) return;
      this.renew(name);
    }
  }
}

// ---- without a websocket

const TURN_MS = 100;
const LEAST_MS = 500;
const HOLD_S = 20;
const SILENCE_S = 40;
const MUTE_LIMIT = 3;
const SLACK_MS = 30_000;
const OVERLAP_MS = 5_000;
const MOMENT_MS = 1_000;

class StreamRefused extends Error {}

/** Serves the desk where websockets are refused: a worker takes one run at a time, and holds on to it. */
class Poller {
  #link;
  #http;
  #turns = [];
  #turn = new Bell();
  #known = new Set();
  #held = new Map();
  #places = new Map();
  #mute = 0;
  #muteAt = -Infinity;
  #refusedUntil = -Infinity;

  constructor(link, http) {
    this.#link = link;
    this.#http = http;
  }

  forgetPlaces() {
    this.#places.clear();
  }

  async run(forMs, dirty) {
    const stop = new AbortController();
    const timer = setTimeout(() => stop.abort(), forMs);
    const { signal, drop } = linked(stop.signal, this.#link.closing);
    const met = new Set();
    this.#turns = [];
    this.#known.clear();
    const work = Array.from({ length: this.#http.config.heldAtOnce }, () => this.#work(signal));
    try {
      while (this.#link.busy) {
        const fresh = this.#link.channels.filter((channel) => !met.has(channel));
        for (const channel of fresh) {
          met.add(channel);
          if (channel.asked.projectName !== null) work.push(this.#followProject(channel, signal));
          else for (const part of channel.parts) channel.stands(part, null, null); // an end stays to be seen
        }
        this.#addTurns();
        this.#letGo(new Set(fresh.flatMap((channel) => channel.parts.flatMap((part) => [...part.runIds]))));
        await dirty.wait(signal);
      }
    } catch (error) {
      if (!signal.aborted) throw error;
    } finally {
      clearTimeout(timer);
      stop.abort();
      drop();
      await Promise.allSettled(work);
    }
  }

  #wanted() {
    const wanted = new Set(this.#link.waits.runIds);
    for (const channel of this.#link.channels) for (const part of channel.parts) part.runIds.forEach((id) => wanted.add(id));
    return wanted;
  }

  #watching(key) {
    const parts = this.#link.channels.flatMap((channel) => channel.parts.map((part) => ({ channel, part })));
    return parts.filter(({ part }) => part.runIds.has(key));
  }

  #isWanted(key) {
    return this.#link.waits.has(key) || this.#watching(key).length > 0;
  }

  get #isCrowded() {
    return this.#known.size > this.#http.config.heldAtOnce;
  }

  #addTurns() {
    for (const key of this.#wanted()) {
      if (this.#known.has(key)) continue;
      this.#known.add(key);
      this.#turns.push(key);
    }
    this.#turn.ring();
  }

  /** Hold no longer what nobody wants, what a new watch has to be told of first, or anything in a crowd. */
  #letGo(renewed) {
    for (const [key, hold] of this.#held) if (this.#isCrowded || renewed.has(key) || !this.#isWanted(key)) hold.abort();
  }

  async #work(signal) {
    let attempt = 0;
    while (!signal.aborted) {
      const key = this.#turns.shift();
      if (key === undefined) {
        await this.#turn.wait(signal);
        continue;
      }
      if (!this.#isWanted(key)) {
        this.#known.delete(key);
        this.#places.delete(key);
        continue;
      }
      let pause;
      try {
        pause = await this.#takeTurn(key, signal);
        attempt = 0;
      } catch (error) {
        if (signal.aborted) return;
        pause = drawPauseMs(this.#http.config, attempt++);
        if (!(error instanceof RunstoreError)) this.#fail(key, unexpected(`the client failed: ${error}`));
        else if (!error.retryable) this.#fail(key, error);
        else this.#link.report("lost", error.message);
      }
      if (!this.#link.busy) this.#link.wake();
      await sleep(pause, signal);
      this.#turns.push(key);
      this.#turn.ring();
    }
  }

  async #takeTurn(key, signal) {
    const beganAt = nowMs();
    const { controller, signal: held, drop } = linked(signal);
    try {
      if (this.#isCrowded) {
        await this.#ask(key, 0, held);
        return TURN_MS;
      }
      this.#held.set(key, controller);
      await this.#hold(key, held);
    } catch (error) {
      if (signal.aborted) throw error;
      if (held.aborted) return 0;
      if (error.code === "run_not_found" && isWhole(key)) return LEAST_MS;
      if (error.code !== "cursor_lost") throw error;
      this.#losePlace(key);
      return 0;
    } finally {
      if (this.#held.get(key) === controller) this.#held.delete(key);
      drop();
    }
    return Math.max(0, LEAST_MS - (nowMs() - beganAt)); // what cuts streams or drops `Prefer` is not asked without end
  }

  async #hold(key, signal) {
    if (nowMs() >= this.#refusedUntil) {
      try {
        return await this.#listen(key, signal);
      } catch (error) {
        if (!(error instanceof StreamRefused)) throw error;
      }
    }
    const hearsAll = this.#watching(key).some(({ channel }) => channel.hearsAll);
    return this.#ask(key, hearsAll ? 1 : HOLD_S, signal);
  }

  async #ask(key, holdS, signal) {
    const answer = await this.#get(key, holdS, null, signal);
    this.#tell(key, answer.json(), this.#watching(key), true);
    this.#addTurns();
  }

  /** Ask for a run, and hear its stream from the place where it was last heard of. */
  async #listen(key, signal) {
    let place = this.#place(key);
    const answer = await this.#get(key, 0, null, signal);
    const run = answer.json();
    // Whoever hears each transition and knows its place hears them from there, one after the other.
    const first = this.#watching(key).filter(({ channel }) => place === null || !channel.hearsAll || key !== run.run_id);
    this.#tell(key, run, first, true);
    this.#addTurns();
    if (key !== run.run_id || !this.#isWanted(key)) return;
    place ??= answer.headers.get("Runstore-Cursor");
    let isRepeat = place === null;
    if (place !== null) this.#stand(key, place);
    for await (const event of this.#hear(key, place, signal)) {
      isRepeat ||= event.kind === "reset";
      await this.#takeEvent(key, event, isRepeat, signal);
    }
    // The stream was asked for from behind the end: whoever still waits for it gets what was read.
    if (isTerminal(run)) this.#tell(key, run, this.#watching(key), true);
  }

  async #takeEvent(key, event, isRepeat, signal) {
    if (event.kind === "transition") {
      const told = parse(event.data);
      const watching = this.#watching(key);
      const isEnd = isTerminal(told) && !told.ignored;
      if (isEnd || (!told.ignored && watching.some(({ channel }) => channel.hearsAll))) {
        const run = (await this.#get(key, 0, event.id, signal)).json();
        this.#tell(key, isEnd || run.status === told.status ? run : asTold(run, told), watching, isRepeat);
      }
      this.#stand(key, event.id);
    } else if (event.kind === "progress") {
      const { run_id: runId, progress } = parse(event.data);
      for (const { channel } of this.#watching(key)) if (channel.hearsAll) channel.tellProgress(runId, progress);
    } else if (event.kind === "reset") this.#losePlace(key);
  }

  async *#hear(key, place, signal) {
    let heard = false;
    const onWord = () => ((heard = true), (this.#mute = 0), this.#link.report("streams"));
    const headers = place !== null ? { "Last-Event-ID": place } : {};
    const limits = { firstS: this.#http.config.streamPatienceS, quietS: SILENCE_S, signal, onWord };
    try {
      yield* this.#http.stream(`/v1/runs/${key}/events`, { headers, ...limits });
    } catch (error) {
      if (error instanceof StreamSilent && !heard) throw this.#refuse();
      if (error instanceof StreamSilent) throw (this.#noteMute(), unreachable("a stream fell silent"));
      if (error.code === "unexpected_answer" || error.code === "not_acceptable") throw this.#refuse();
      throw error;
    }
    if (!heard) this.#noteMute();
  }

  #noteMute() {
    const now = nowMs();
    if (now - this.#muteAt > 1000) this.#mute += 1; // all streams of a frozen gateway fall silent together
    this.#muteAt = now;
    if (this.#mute >= MUTE_LIMIT) throw this.#refuse();
  }

  #refuse() {
    this.#refusedUntil = nowMs() + 10_000 * this.#http.config.websocketRetryS;
    this.#mute = 0;
    return new StreamRefused();
  }

  #tell(key, run, watching, wasAskedFor) {
    if (isTerminal(run)) this.#link.waits.ended(run);
    for (const { channel, part } of watching) {
      part.runIds.delete(key);
      part.runIds.add(run.run_id);
      channel.offerPolled(run, part, wasAskedFor);
    }
  }

  async #get(key, holdS, after, signal) {
    const place = after ?? this.#place(key);
    const query = place !== null ? [["after", place]] : [];
    const headers = holdS ? { Prefer: `wait=${holdS}` } : {};
    const answer = await this.#http.request("GET", `/v1/runs/${key}`, { query, headers, holdS, signal });
    this.#link.report(nowMs() >= this.#refusedUntil ? "streams" : "polling");
    return answer;
  }

  #place(key) {
    return this.#places.get(key) ?? this.#watching(key).find(({ part }) => part.cursor !== null)?.part.cursor ?? null;
  }

  #stand(key, place) {
    this.#places.set(key, place);
    for (const { channel, part } of this.#watching(key)) channel.toldUpto(part, place);
  }

  #losePlace(key) {
    this.#places.delete(key);
    for (const { channel, part } of this.#watching(key)) {
      part.cursor = null;
      channel.lookAgain();
    }
  }

  #fail(key, error) {
    const watching = this.#watching(key);
    this.#link.waits.fail(key, error);
    for (const { channel } of watching) channel.fail(error);
  }

  /** No stream tells of a project: look, each second, at what its listing says has finished since the last look. */
  async #followProject(channel, signal) {
    let since = null;
    let attempt = 0;
    while (!channel.over && !signal.aborted) {
      let pause = 1000;
      try {
        const query = [["project_name", channel.asked.projectName], ["limit", "1"]];
        const asked = await this.#http.request("GET", "/v1/runs", { query, signal });
        const told = Date.parse(asked.headers.get("Date") ?? "");
        const now = Number.isNaN(told) ? Date.now() : told;
        if (since === null && channel.touchedAt !== null) since = now - (nowMs() - channel.touchedAt) - SLACK_MS;
        else if (since === null && channel.cursor !== null) since = Math.min(cursorMs(channel.cursor), now) - SLACK_MS;
        since = Math.max(0, since ?? now - MOMENT_MS);
        await readSince(this.#http, channel, new Date(since).toISOString(), signal);
        channel.stands(channel.parts[0], null, null);
        this.#link.report("polling");
        since = now - OVERLAP_MS;
        attempt = 0;
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof RunstoreError) || !error.retryable) {
          channel.fail(error);
          this.#link.wake();
        } else this.#link.report("lost", error.message);
        pause = drawPauseMs(this.#http.config, attempt++);
      }
      await sleep(pause, signal);
    }
  }
}

/** Return a run as it stood at a transition, where it has gone on since. */
function asTold(run, told) {
  const began = told.status === "running" ? run.started_at : null;
  return { ...run, status: told.status, started_at: began, finished_at: null, error_message: null, output: null, truncated: false };
}

/** Hand a project's watch what finished after a time and, if it hears each transition, what goes on. */
async function readSince(http, channel, since, signal) {
  const project = ["project_name", channel.asked.projectName];
  const asked = [[project, ["finished_after", since]]];
  if (channel.hearsAll) asked.push([project, ["status", "pending"], ["status", "running"]]);
  for (const query of asked) {
    for (let cursor = null; ; ) {
      const more = cursor !== null ? [["cursor", cursor]] : [];
      const answer = await http.request("GET", "/v1/runs", { query: [...query, ["limit", String(PAGE)], ...more], signal });
      const page = answer.json();
      for (const listed of page.runs) await handOver(http, channel, listed, signal);
      cursor = page.next_cursor;
      if (cursor === null) break;
    }
  }
}

async function handOver(http, channel, listed, signal) {
  if (!channel.asked.output || !isTerminal(listed)) {
    const { created_at: _, tags: __, truncated, ...run } = listed;
    channel.offer({ ...run, output: null, truncated });
  } else if (channel.lacksEnd(listed.run_id)) {
    try {
      channel.offer((await http.request("GET", `/v1/runs/${listed.run_id}`, { signal })).json());
    } catch (error) {
      if (error.code !== "run_not_found") throw error;
    }
  }
}

// ---- the link

class SocketRefused extends Error {}

/** Keeps touch with the gateway for as long as anything is awaited or watched. */
class Link {
  waits;
  #http;
  #config;
  #poller;
  #onState;
  #names;
  #channels = new Map();
  #over = [];
  #dirty = new Bell();
  #closing = new AbortController();
  #hurry = new AbortController();
  #running = false;
  #mute = 0;
  #refused = 0;
  #met = false;
  #socket = null;

  constructor(http, onState) {
    let count = 0;
    this.#names = () => String((count += 1));
    this.#http = http;
    this.#config = http.config;
    this.#onState = onState;
    this.waits = new Waits(this.#names);
    this.#poller = new Poller(this, http);
    if (IN_BROWSER) {
      const options = { signal: this.#closing.signal };
      for (const name of ["online", "offline"]) globalThis.addEventListener(name, () => this.hurry(), options);
      globalThis.document.addEventListener("visibilitychange", () => this.hurry(), options);
    }
  }

  get busy() {
    return !this.#closing.signal.aborted && (this.waits.size > 0 || this.channels.length > 0);
  }

  get closing() {
    return this.#closing.signal;
  }

  get channels() {
    return [...this.#channels.keys()].filter((channel) => !channel.over);
  }

  report(state, reason = "") {
    this.#onState(state, reason);
  }

  wait(runId, signal) {
    this.#checkOpen();
    return new Promise((resolve, reject) => {
      if (signal?.aborted) return reject(abortReason(signal));
      const settled = (how) => (value) => (signal?.removeEventListener("abort", stop), how(value), this.wake());
      const waiter = { resolve: settled(resolve), reject: settled(reject) };
      const stop = () => (this.waits.drop(runId, waiter), waiter.reject(abortReason(signal)));
      signal?.addEventListener("abort", stop, { once: true });
      this.waits.add(runId, waiter);
      this.wake();
    });
  }

  openChannel(asked, cursor) {
    this.#checkOpen();
    const channel = new Channel(asked, cursor, this.#names, this.#config);
    const parts = [...this.#channels.keys()].reduce((sum, one) => sum + one.parts.length, channel.parts.length);
    if (parts > MAX_SUBSCRIPTIONS - KEPT_FOR_WAITS) {
      const most = MAX_SUBSCRIPTIONS - KEPT_FOR_WAITS;
      throw new RunstoreError("rate_limited", `a client has at most ${most} watches, and one for each 1,000 runs: close some`);
    }
    this.#channels.set(channel, null);
    this.wake();
    return channel;
  }

  closeChannel(channel) {
    if (!this.#channels.delete(channel)) return;
    this.#over.push(...channel.letGo());
    channel.catchUp?.abort();
    this.wake();
  }

  /** Let what has changed be told to the gateway. */
  wake() {
    this.#dirty.ring();
    if (this.#running || !this.busy) return;
    this.#running = true;
    // in the next microtask, so that what is asked for at one moment goes out together
    Promise.resolve().then(() => this.#run());
  }

  /** Look after the connection at once, as the network or the page has just come back. */
  hurry() {
    this.#hurry.abort();
    this.#hurry = new AbortController();
    this.#socket?.probe();
  }

  close() {
    const error = unreachable("the client was closed");
    this.waits.failAll(error);
    for (const channel of this.#channels.keys()) {
      channel.catchUp?.abort();
      channel.fail(error);
    }
    this.#closing.abort();
    this.#socket?.close();
    this.#dirty.ring();
  }

  #checkOpen() {
    if (this.#closing.signal.aborted) throw unreachable("the client was closed");
  }

  async #run() {
    try {
      await this.#keepTouch();
    } catch (error) {
      if (!this.#closing.signal.aborted) this.#fail(unexpected(`the client failed: ${error?.stack ?? error}`));
    } finally {
      this.#running = false;
      this.report("idle");
      if (this.busy) this.wake();
    }
  }

  #fail(error) {
    this.waits.failAll(error);
    for (const channel of this.channels) channel.fail(error);
  }

  async #keepTouch() {
    let lostAt = nowMs();
    let attempt = 0;
    while (this.busy) {
      try {
        const socket = await this.#connect();
        const heard = await this.#converse(socket);
        lostAt = nowMs();
        attempt = heard ? 0 : attempt + 1;
        if (this.#mute >= MUTE_LIMIT) throw new SocketRefused();
      } catch (error) {
        if (error instanceof SocketRefused) {
          this.#met = true;
          await this.#poller.run(this.#config.websocketRetryS * 1000, this.#dirty);
          lostAt = nowMs();
          attempt = this.#mute = 0;
          continue;
        }
        if (!(error instanceof RunstoreError)) throw error;
        this.report("lost", error.message);
        const patienceS = this.#met ? this.#config.giveUpS : Math.min(this.#config.giveUpS, this.#config.timeoutS);
        if (!error.retryable || nowMs() - lostAt > patienceS * 1000) this.#fail(error);
        attempt += 1;
      }
      if (this.busy) await this.#pause(drawPauseMs(this.#config, attempt));
    }
  }

  async #pause(ms) {
    const { signal, drop } = linked(this.#hurry.signal, this.#closing.signal);
    await sleep(ms, signal).catch(() => {});
    drop();
  }

  async #connect() {
    const Socket = this.#config.WebSocket ?? globalThis.WebSocket;
    if (!Socket) throw new SocketRefused();
    const token = await this.#http.token();
    const url = this.#http.url("/v1/ws");
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new OpenSocket(Socket, url, token ? [SUBPROTOCOL, BEARER + token] : [SUBPROTOCOL], this.#config);
    if (await socket.opened) {
      this.#refused = 0;
      return socket;
    }
    // A browser does not tell how a handshake was answered: a plain request by the same token says who is to blame.
    try {
      await this.#http.request("HEAD", "/v1/openapi.json", { repeatable: false, signal: this.#closing.signal });
    } catch (error) {
      if (error.code !== "unexpected_answer") throw error;
    }
    this.#refused += 1;
    if (this.#refused < 2) throw unreachable("the websocket was refused");
    this.#refused = 0;
    throw new SocketRefused();
  }

  /** Speak and listen until the connection is gone, and say whether anything was heard. */
  async #converse(socket) {
    this.#disconnected();
    this.#poller.forgetPlaces();
    this.#socket = socket;
    if (this.#closing.signal.aborted) socket.close();
    socket.onMessage = (text) => {
      this.report("live");
      if (this.#hear(text)) this.#dirty.ring();
    };
    this.#dirty.ring();
    while (!socket.isClosed) {
      const wasIdle = !this.busy;
      const timer = setTimeout(() => wasIdle && this.#dirty.ring(), this.#config.idleS * 1000);
      await Promise.race([this.#dirty.wait(), socket.closed]);
      clearTimeout(timer);
      if (socket.isClosed || this.closing.aborted) break;
      let sent = 0;
      for (const command of this.#commands()) sent = socket.send(JSON.stringify(command));
      if (wasIdle && !sent && !this.busy) break;
    }
    socket.close();
    this.#socket = null;
    this.#dirty.ring();
    this.#disconnected();
    this.#mute = socket.heard ? 0 : this.#mute + 1;
    this.#met ||= socket.heard;
    if (socket.code === CLOSED_UNAUTHORIZED && !(socket.heard && this.#http.renewsToken)) {
      throw new RunstoreError("unauthorized", "the token has expired or was revoked: give a valid one", { status: 401 });
    }
    if (this.busy) this.report("lost", socket.reason || "the connection was lost");
    return socket.heard;
  }

  *#commands() {
    yield* this.#over.splice(0);
    for (const channel of this.#channels.keys()) yield* channel.commands();
    const taken = [...this.#channels.keys()].reduce((sum, channel) => sum + channel.parts.length, 0);
    yield* this.waits.commands(MAX_SUBSCRIPTIONS - taken);
  }

  #disconnected() {
    this.#over = [];
    this.waits.disconnected();
    for (const channel of this.#channels.keys()) channel.disconnected();
  }

  /** Take a message; true where something is to be sent after it. What makes no sense hurts nobody. */
  #hear(text) {
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return false;
    }
    const name = String(message?.id ?? "");
    for (const channel of this.#channels.keys()) {
      const part = channel.parts.find((one) => one.name === name);
      if (part) return this.#hearChannel(message, channel, part, text.length);
    }
    if (!this.waits.hasGroup(name)) return false; // of a subscription that was ended meanwhile, or the answer to a probe
    if (message.type === "run" && isTerminal(message.run)) this.waits.ended(message.run);
    else if (message.type === "done") this.waits.done(name);
    else if (message.type === "reset") this.waits.renew(name);
    else if (message.type === "error") {
      const error = new RunstoreError(message.code, message.detail);
      this.waits.refused(name, error);
      if (error.retryable) this.#retryLater();
    }
    return true;
  }

  #hearChannel(message, channel, part, characters) {
    switch (message.type) {
      case "subscribed":
        channel.stands(part, message.run_ids, message.cursor);
        return false;
      case "run":
        if (channel.offer(message.run, { part, cursor: message.cursor, characters })) return false;
        this.#over.push(...channel.letGo());
        for (const one of channel.parts) one.name = this.#names(); // what is on its way for the old ones is not news
        return true;
      case "progress":
        channel.tellProgress(message.run_id, message.progress);
        return false;
      case "done":
        channel.finish(part);
        return true;
      case "reset":
        if (channel.asked.projectName !== null) this.#catchUp(channel, message.since);
        else channel.lookAgain();
        return false;
      case "error": {
        const error = new RunstoreError(message.code, message.detail);
        if (!error.retryable) channel.fail(error);
        else {
          part.sent = false;
          part.putOff = true;
          this.#retryLater();
        }
        return true;
      }
      default:
        return false;
    }
  }

  #retryLater() {
    setTimeout(() => {
      this.waits.retry();
      for (const channel of this.#channels.keys()) for (const part of channel.parts) part.putOff = false;
      this.#dirty.ring();
    }, this.#config.putOffS * 1000);
  }

  async #catchUp(channel, since) {
    channel.catchUp?.abort();
    const from = channel.caughtUpSince && channel.caughtUpSince < since ? channel.caughtUpSince : since;
    const task = new AbortController();
    channel.catchUp = task;
    channel.caughtUpSince = from;
    for (let attempt = 0; !channel.over && !task.signal.aborted; attempt += 1) {
      try {
        await readSince(this.#http, channel, from, task.signal);
        if (channel.catchUp === task) channel.catchUp = channel.caughtUpSince = null;
        return;
      } catch (error) {
        if (task.signal.aborted) return;
        if (!(error instanceof RunstoreError) || !error.retryable) channel.fail(error);
      }
      await sleep(drawPauseMs(this.#config, attempt), task.signal).catch(() => {});
    }
  }
}

const PROBE = JSON.stringify({ type: "unsubscribe", id: "are you there" });

/** One websocket from its handshake to its end. It asks for an answer where it was silent for long. */
class OpenSocket {
  heard = false;
  isClosed = false;
  code = 1006;
  reason = "";
  onMessage = null;
  #socket;
  #early = [];
  #heardAt = nowMs();
  #probedAt = null;
  #timer;
  #config;
  #settle;

  constructor(Socket, url, protocols, config) {
    this.#config = config;
    this.closed = new Promise((resolve) => (this.#settle = resolve));
    let opened;
    this.opened = new Promise((resolve) => (opened = resolve));
    this.closed.then(() => opened(false));
    try {
      this.#socket = new Socket(url.href, protocols);
    } catch (error) {
      throw invalid(`the token cannot be given to a websocket: ${error.name}`);
    }
    const handshake = setTimeout(() => this.#end(1006, "the handshake took too long"), config.connectTimeoutS * 1000);
    this.#socket.addEventListener("open", () => {
      clearTimeout(handshake);
      this.#heardAt = nowMs();
      this.#timer = setInterval(() => this.#watch(), Math.min(5000, config.heartbeatS * 250));
      opened(this.#socket.protocol === SUBPROTOCOL);
      if (this.#socket.protocol !== SUBPROTOCOL) this.close();
    });
    this.#socket.addEventListener("message", ({ data }) => {
      if (typeof data !== "string" || this.isClosed) return;
      this.heard = true;
      this.#heardAt = nowMs();
      this.#probedAt = null;
      if (this.onMessage) this.onMessage(data);
      else this.#early.push(data);
    });
    this.#socket.addEventListener("close", ({ code, reason }) => (clearTimeout(handshake), this.#end(code, reason)));
    // a close follows, but not in every Node
    this.#socket.addEventListener("error", () => (clearTimeout(handshake), this.#end(1006, "the connection broke")));
  }

  send(text) {
    for (const early of this.#early.splice(0)) this.onMessage?.(early);
    if (!this.isClosed) this.#socket.send(text);
    return 1;
  }

  probe() {
    if (this.#probedAt !== null || this.isClosed || this.#socket.readyState !== 1) return;
    this.#probedAt = nowMs();
    this.#socket.send(PROBE);
  }

  close() {
    this.#end(1000, "");
  }

  #watch() {
    const patienceMs = this.#config.heartbeatS * 1000;
    if (this.#probedAt !== null && nowMs() - this.#probedAt > patienceMs / 2) this.#end(1006, "the gateway fell silent");
    else if (nowMs() - this.#heardAt > patienceMs) this.probe();
  }

  #end(code, reason) {
    if (this.isClosed) return;
    this.isClosed = true;
    this.code = code;
    this.reason = reason;
    clearInterval(this.#timer);
    try {
      this.#socket.close();
    } catch {
      // it is gone already
    }
    this.#settle();
  }
}

// ---- what callers hold

/** Runs as they come: iterate with `for await`. */
class Watch {
  #link;
  #channel;
  #cursor;
  #signal;
  #stop = () => this.close();

  constructor(link, channel, cursor, signal) {
    this.#link = link;
    this.#channel = channel;
    this.#cursor = cursor;
    this.#signal = signal;
    signal?.addEventListener("abort", this.#stop, { once: true });
  }

  /** The place behind the last run that was handed out: `watch({..., cursor})` goes on from there. */
  get cursor() {
    return this.#cursor;
  }

  /** Wait until the gateway listens for this watch: what happens from then on is heard. */
  async ready() {
    await this.#channel.subscribed;
    if (this.#channel.error !== null) throw this.#channel.error;
    this.#cursor ??= this.#channel.cursor;
    return this;
  }

  async next() {
    if (this.#signal?.aborted) throw abortReason(this.#signal);
    if (this.#channel.resume()) this.#link.wake();
    let item;
    try {
      item = await this.#channel.take();
    } catch (error) {
      this.close();
      throw this.#signal?.aborted ? abortReason(this.#signal) : error;
    }
    if (item === null) {
      this.close();
      if (this.#signal?.aborted) throw abortReason(this.#signal);
      return { done: true, value: undefined };
    }
    this.#cursor = item.cursor ?? this.#cursor;
    return { done: false, value: item.run };
  }

  async return() {
    this.close();
    return { done: true, value: undefined };
  }

  /** Listen no longer; may be called twice. */
  close() {
    this.#signal?.removeEventListener("abort", this.#stop);
    this.#link.closeChannel(this.#channel);
    for (const part of this.#channel.parts) this.#channel.finish(part);
  }

  [Symbol.asyncIterator]() {
    return this;
  }
}

const FILTERS = new Set(["project_name", "status", "commit_sha", "tag", "created_after", "created_before", "finished_after"]);

function filterQuery(filters) {
  const query = [];
  for (const [name, value] of Object.entries(filters)) {
    if (!FILTERS.has(name)) throw invalid(`there is no filter ${name}: there are ${[...FILTERS].join(", ")}`);
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one === null || one === undefined || one === "") continue;
      query.push([name, one instanceof Date ? one.toISOString() : String(one)]);
    }
  }
  return query;
}

/**
 * A client of one gateway. It fires the event `link`, whose `detail` is `{state, reason, heardAt}`, whenever its touch
 * with the gateway changes: `live` (websocket), `streams`, `polling`, `lost`, `idle` (nothing is awaited or watched).
 */
export class Client extends EventTarget {
  #http;
  #link = null;
  #state = { state: "idle", reason: "", heardAt: null };

  constructor(url, { token = null, ...config } = {}) {
    super();
    const env = globalThis.process?.env ?? {};
    const here = IN_BROWSER ? globalThis.location?.origin : env.RUNSTORE_URL;
    if (url === undefined && !here) throw invalid("give the gateway's address, such as http://127.0.0.1:8080");
    for (const name of Object.keys(config)) {
      if (!(name in DEFAULTS) && name !== "WebSocket") throw invalid(`there is no option ${name}: there are ${Object.keys(DEFAULTS).join(", ")}`);
    }
    // a token that is meant for one address is never sent to another
    const own = IN_BROWSER || (url !== undefined && url !== env.RUNSTORE_URL) ? null : env.RUNSTORE_TOKEN;
    this.#http = new Http(url ?? here, token ?? own ?? null, { ...DEFAULTS, ...config });
  }

  /** How touch with the gateway stands: `{state, reason, heardAt}`. */
  get link() {
    return this.#state;
  }

  /** Ask for a run; with `mode: "sync"` return it when it has ended. A lost answer is asked for again, and makes no second run. */
  async run(projectName, { inputs, mode = "async", idempotencyKey, signal, ...asked } = {}) {
    const body = JSON.stringify({ project_name: projectName, inputs, mode, ...asked });
    const key = idempotencyKey ?? (asked.run_id === undefined ? randomKey() : undefined);
    const headers = key === undefined ? {} : { "Idempotency-Key": key };
    const holdS = mode === "sync" ? MAX_HOLD_S : 0;
    const run = (await this.#http.request("POST", "/v1/runs", { headers, body, holdS, signal })).json();
    return mode === "async" || isTerminal(run) ? run : this.wait(run.run_id, { signal });
  }

  /** Get a run by its id or a prefix of it, held until it has ended where `waitS` says for how long at most. */
  async getRun(runId, { waitS = 0, after, signal } = {}) {
    for (let left = Math.ceil(waitS); ; left -= MAX_HOLD_S) {
      const holdS = Math.min(Math.max(left, 0), MAX_HOLD_S);
      const headers = holdS ? { Prefer: `wait=${holdS}` } : {};
      const query = after === undefined ? [] : [["after", after]];
      const run = (await this.#http.request("GET", pathOf(runId), { query, headers, holdS, signal })).json();
      if (isTerminal(run) || left <= MAX_HOLD_S) return run;
    }
  }

  /** Wait until a run has ended and return it: pushed, never polled. All waits of a client share one connection. */
  async wait(runId, { timeoutS = null, signal } = {}) {
    const { controller, signal: limit, drop } = linked(signal);
    const over = new RunstoreError("wait_timeout", `run ${runId} has not ended within ${timeoutS} s`);
    const timer = timeoutS === null ? undefined : setTimeout(() => controller.abort(over), timeoutS * 1000);
    try {
      let id = canonical(runId);
      if (!isWhole(id)) {
        const run = await this.getRun(id, { signal: limit });
        if (isTerminal(run)) return run;
        id = run.run_id;
      }
      return await this.#theLink().wait(id, limit);
    } finally {
      clearTimeout(timer);
      drop();
    }
  }

  /**
   * Watch runs (`runIds`) or all of a project (`projectName`). A watch of runs ends by itself after the last has ended, a
   * project's never does. `events: "all"` hands out each transition, and calls `onProgress(runId, progress)` in between.
   */
  watch({ runIds = [], projectName = null, events = "terminal", output = true, cursor = null, onProgress, signal } = {}) {
    const ids = [...new Set((Array.isArray(runIds) ? runIds : [runIds]).map(canonical))];
    if (ids.length > 0 === (projectName !== null)) throw invalid("watch either some runs or a project: {runIds} or {projectName}");
    if (events !== "terminal" && events !== "all") throw invalid(`events are "terminal" or "all", not ${JSON.stringify(events)}`);
    if (signal?.aborted) throw abortReason(signal);
    const link = this.#theLink();
    return new Watch(link, link.openChannel({ runIds: ids, projectName, events, output, onProgress }, cursor), cursor, signal);
  }

  /** Get one page of runs, newest first; `cursor` is the `next_cursor` of the page before. */
  async listPage({ limit = 50, cursor = null, signal, ...filters } = {}) {
    const query = [...filterQuery(filters), ["limit", String(limit)]];
    if (cursor !== null) query.push(["cursor", cursor]);
    return (await this.#http.request("GET", "/v1/runs", { query, signal })).json();
  }

  /** Walk over all runs that match, newest first; none that existed when it began is missed or repeated. */
  async *listRuns({ signal, ...filters } = {}) {
    for (let cursor = null; ; ) {
      const page = await this.listPage({ ...filters, limit: PAGE, cursor, signal });
      yield* page.runs;
      cursor = page.next_cursor;
      if (cursor === null) return;
    }
  }

  /** Ask for a run to be cancelled, and return it as it stands; one that has ended stays as it is. */
  async cancel(runId, { signal } = {}) {
    return (await this.#http.request("POST", `${pathOf(runId)}/cancel`, { repeatable: false, signal })).json();
  }

  /** Get all that a run left behind, uncut, or one named output of it. */
  async output(runId, name = null, { signal } = {}) {
    const path = `${pathOf(runId)}/output${name === null ? "" : `/${encodeURIComponent(name)}`}`;
    return (await this.#http.request("GET", path, { holdS: 240, signal })).json();
  }

  /** Get the events of a run in order, the ignored ones marked. */
  async events(runId, { signal } = {}) {
    return (await this.#http.request("GET", `${pathOf(runId)}/events`, { signal })).json().events;
  }

  /** Read what a run wrote, as `{stream, text}`, as it comes and to its end; lost connections are resumed. */
  async *logs(runId, { signal } = {}) {
    const path = `${pathOf(runId)}/logs`;
    let lastId = "";
    let touchedAt = nowMs();
    for (let attempt = 0; ; attempt += 1) {
      try {
        const headers = lastId ? { "Last-Event-ID": lastId } : {};
        const limits = { firstS: this.#http.config.timeoutS, quietS: SILENCE_S, signal };
        for await (const event of this.#http.stream(path, { headers, ...limits })) {
          lastId = event.id || lastId;
          attempt = 0;
          touchedAt = nowMs();
          if (event.kind === "done") return;
          const text = event.kind === "stdout" || event.kind === "stderr" ? parse(event.data).text : "";
          if (text) yield { stream: event.kind, text };
        }
      } catch (error) {
        const isOver = nowMs() - touchedAt > this.#http.config.giveUpS * 1000;
        if (!(error instanceof StreamSilent) && (isOver || !(error instanceof RunstoreError && error.retryable))) throw error;
      }
      await sleep(drawPauseMs(this.#http.config, attempt), signal);
    }
  }

  /** Make a token for one run, read-only and short-lived, for a browser to watch it. */
  async runToken(runId, { expiresS, signal } = {}) {
    const body = expiresS === undefined ? undefined : JSON.stringify({ expires_s: expiresS });
    return (await this.#http.request("POST", `${pathOf(runId)}/token`, { body, signal })).json();
  }

  /** Ask the gateway for any other address below its own, such as `/v1/store`, and return the JSON. */
  async get(path, { signal } = {}) {
    return (await this.#http.request("GET", path, { signal })).json();
  }

  /** Close the connection; what still waits gets `gateway_unreachable`. May be called twice. */
  close() {
    this.#link?.close();
  }

  #theLink() {
    this.#link ??= new Link(this.#http, (state, reason) => this.#report(state, reason));
    return this.#link;
  }

  #report(state, reason) {
    const { state: before, heardAt } = this.#state;
    const isTouch = state === "live" || state === "streams" || state === "polling";
    this.#state = { state, reason, heardAt: isTouch ? Date.now() : heardAt };
    if (state !== before) this.dispatchEvent(new CustomEvent("link", { detail: this.#state }));
  }
}

function pathOf(runId) {
  return `/v1/runs/${canonical(runId)}`;
}

/** A key that works where a page is served without TLS too, where there is no `randomUUID`. */
function randomKey() {
  return Array.from(globalThis.crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

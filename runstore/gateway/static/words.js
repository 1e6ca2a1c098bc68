// How statuses, times, sizes and numbers are written.

export const STATUSES = ["pending", "running", "success", "failed", "timed_out", "cancelled"];
export const ACTIVE = ["pending", "running"];
export const ENDED = ["success", "failed", "timed_out", "cancelled"];

export const statusWord = (status) => status.replace("_", " ");
export const shortId = (runId) => runId.slice(0, 8);
export const shortCommit = (sha) => (sha ? sha.slice(0, 7) : "");

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });
const WHOLE = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });
const NUMBER = new Intl.NumberFormat("en", { maximumSignificantDigits: 6 });
const EXACT = new Intl.NumberFormat("en", { maximumFractionDigits: 20 });
const COUNT = new Intl.NumberFormat("en");

export const clock = (ms) => CLOCK.format(ms);
export const whole = (text) => WHOLE.format(Date.parse(text));
export const count = (value) => COUNT.format(value);
export const number = (value) => (Math.abs(value) >= 1e9 || (value !== 0 && Math.abs(value) < 1e-4) ? value.toExponential(3) : NUMBER.format(value));

/** A number as it is, no digit of it rounded away. */
export function exact(value) {
  const size = Math.abs(value);
  return size >= 1e15 || (size !== 0 && size < 1e-6) ? String(value) : EXACT.format(value);
}

/** When something was: the time of day, and the day where it is not today. */
export function moment(text) {
  if (!text) return "";
  const ms = Date.parse(text);
  const isToday = new Date(ms).toDateString() === new Date().toDateString();
  return isToday ? CLOCK.format(ms) : `${DAY.format(ms)} ${CLOCK.format(ms).slice(0, 5)}`;
}

/** How long something took. */
export function span(ms) {
  if (ms < 0) ms = 0;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s < 10 ? s.toFixed(1) : Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} m ${String(Math.floor(s % 60)).padStart(2, "0")} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${String(Math.floor((s % 3600) / 60)).padStart(2, "0")} m`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** How long ago, for people: without the tenths of `span`. */
export function age(ms) {
  return ms < 1000 ? "less than a second" : span(Math.max(1, Math.floor(ms / 1000)) * 1000).replace(".0 s", " s");
}

/** How long a run took, or has been running. */
export function duration(run, nowMs) {
  if (!run.started_at) return "";
  const end = run.finished_at ? Date.parse(run.finished_at) : ACTIVE.includes(run.status) ? nowMs : NaN;
  return Number.isNaN(end) ? "" : span(end - Date.parse(run.started_at));
}

export function size(characters) {
  if (characters < 1000) return `${characters} characters`;
  return characters < 1e6 ? `${(characters / 1000).toFixed(1)} k characters` : `${(characters / 1e6).toFixed(1)} M characters`;
}

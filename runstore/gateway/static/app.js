// The dashboard: who is signed in, which page is shown, how the store is, and how old what is shown is.

import { h, setText } from "./dom.js";
import { findField } from "./find.js";
import { listPage, readFilters } from "./list.js";
import { runPage } from "./run.js";
import { Client } from "./runstore.js";
import { signIn } from "./signin.js";
import { age, clock, count } from "./words.js";

const TOKEN = "runstore.token";
const THEME = "runstore.theme";
const HEALTH_MS = 10_000;
const PATIENCE_MS = 1500;
const BASE = new URL(".", document.baseURI);

let client = null;
let shownHash = "";
let page = null;
let session = null;
let freshAt = null;
let lostAt = null;
let trouble = null;
let store = null;
let cameFromList = false;
let shelf = null; // the listing that a run was opened from, and its address: it is gone back to as it was left

const toast = h("div", { class: "toast", role: "status" });
const banner = h("div", { class: "banner", hidden: true });
const bannerText = h("span", {});
const announced = h("div", { class: "sr", role: "status" });
const retry = h("button", { type: "button", onclick: () => (page?.look(), readHealth()) }, "Try now");
const health = h("div", { class: "health" });
const touch = h("span", { class: "touch" });
banner.append(bannerText, h("span", { class: "space" }), retry);

// ---- words to the user

let toastTimer;
function say(text) {
  clearTimeout(toastTimer);
  toast.textContent = text;
  toastTimer = setTimeout(() => (toast.textContent = ""), 3500);
}

async function copy(text, label) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${label}: done`);
  } catch {
    // without TLS a page has no clipboard: the older way does it
    const field = h("textarea", { readonly: true, class: "sr" });
    field.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(field);
    field.select();
    say(document.execCommand("copy") ? `${label}: done` : text);
    field.remove();
  }
}

// ---- how old what is shown is

function touched() {
  freshAt = Date.now();
}

function failed(error, isPassing = false) {
  if (error === null) trouble = null;
  else if (error.code === "unauthorized") leave("The token is not taken any more: it has expired or was revoked. Give another.");
  else if (isPassing) say(error.message);
  else trouble = error;
  showTouch();
}

/** Say how touch with the gateway stands, and how old what is shown is where there is none. */
function showTouch() {
  if (!client) return;
  const { state, reason, heardAt } = client.link;
  const asOf = Math.max(freshAt ?? 0, freshAt && heardAt ? heardAt : 0) || null;
  const isLost = state === "lost" || trouble?.code === "gateway_unreachable" || trouble?.code === "store_unavailable";
  lostAt = isLost ? (lostAt ?? Date.now()) : null;
  const isShown = isLost ? Date.now() - lostAt > PATIENCE_MS : trouble !== null;
  if (banner.hidden === isShown) {
    banner.hidden = !isShown;
    setText(announced, isShown ? "Touch with the gateway is lost. What is shown is getting old." : "Touch with the gateway is there again.");
  }
  if (isShown) {
    const since = asOf === null ? "Nothing could be read yet." : `What is shown is from ${clock(asOf)}, ${age(Date.now() - asOf)} ago.`;
    const why = trouble?.code === "store_unavailable" ? `The store cannot be reached: ${trouble.message}. Whoever runs it finds out why with runstore doctor.` : "Touch with the gateway is lost; trying again.";
    const told = isLost ? `${why} ${since}` : trouble.code === "forbidden" ? `${trouble.message}. Sign in with a token that has the scope runs:read.` : trouble.message;
    setText(bannerText, told);
    banner.classList.toggle("bad", !isLost);
    banner.title = isLost ? reason || trouble?.message || "" : "";
  }
  const words = { live: "live", streams: "live, by streams", polling: "live, by polling", lost: "link lost", idle: "connected" };
  touch.dataset.state = isShown ? "lost" : state === "lost" ? "live" : state;
  setText(touch, isShown ? "link lost" : state === "lost" ? "live" : words[state]);
}

async function readHealth() {
  if (!client || document.hidden) return;
  try {
    store = await client.get("/v1/store");
    if (trouble?.code === "gateway_unreachable" || trouble?.code === "store_unavailable") page?.look();
    page?.watch?.(store.projects);
  } catch (error) {
    store = null;
    if (error.code === "unauthorized") failed(error);
  }
  const item = (name, value, isBad, title, isWide) => h("span", { class: `${isBad ? "bad" : ""} ${isWide ? "wide" : ""}`, title }, `${name} `, h("b", {}, value));
  health.replaceChildren(
    touch,
    ...(store
      ? [
          item("lag", store.lag_s === null ? "?" : `${store.lag_s.toFixed(1)} s`, store.lag_s > 2, store.reason || "How far the projector is behind the log, on the longest partition"),
          item("sockets", count(store.sockets), false, "Websockets and streams that are open at this gateway", true),
          item("dead letters", store.dead_letters === null ? "?" : count(store.dead_letters), store.dead_letters > 0, "Events that nobody could read, or that broke a rule: runstore doctor shows them", true),
        ]
      : []),
  );
}

// ---- who is signed in

async function take(token) {
  const tried = new Client(BASE, { token, giveUpS: Infinity, retryForS: 2 });
  try {
    await tried.get(token.startsWith("rrt_") ? "/v1/openapi.json" : "/v1/runs?limit=1");
  } catch (error) {
    if (error.code === "unauthorized") return "This token is not taken here. Check that it is whole, and of this gateway.";
    if (error.code === "forbidden") return `${error.message}. Reading runs needs the scope runs:read.`;
    if (!error.retryable) return error.message;
    if (error.code === "gateway_unreachable") return "The gateway cannot be reached. Check that it runs, then try again.";
  }
  sessionStorage.setItem(TOKEN, token);
  enter(tried);
  return null;
}

function enter(made) {
  client = made;
  session = new AbortController();
  freshAt = lostAt = trouble = null;
  client.addEventListener("link", showTouch);
  const find = findField({ client, signal: session.signal, say });
  const top = h(
    "header",
    { class: "top" },
    h("a", { class: "brand", href: "#/", "aria-label": "runstore, all runs" }, h("img", { src: new URL("./icon.svg", import.meta.url), alt: "", width: 20, height: 20 }), "runstore"),
    find.node,
    h("span", { class: "space" }),
    health,
    h("button", { type: "button", class: "quiet", title: "Light, dark, or as the system", "aria-label": "Change colours", onclick: nextTheme }, "◐"),
    h("button", { type: "button", class: "quiet keys", title: "Keys (?)", "aria-label": "Keys", onclick: () => keys.showModal() }, "?"),
    h("button", { type: "button", class: "quiet", onclick: () => leave() }, "Sign out"),
  );
  health.replaceChildren(touch);
  document.body.replaceChildren(top, banner, announced, toast, keys);
  const timers = [setInterval(showTouch, 500), setInterval(readHealth, HEALTH_MS)];
  const options = { signal: session.signal };
  session.signal.addEventListener("abort", () => timers.forEach(clearInterval));
  globalThis.addEventListener("hashchange", route, options);
  document.addEventListener("visibilitychange", readHealth, options);
  document.addEventListener("keydown", (event) => press(event, find), options);
  route();
  readHealth();
}

function leave(why = "") {
  sessionStorage.removeItem(TOKEN);
  session?.abort();
  client?.close();
  page?.leave();
  shelf?.page.leave();
  client = shelf = page = session = store = null;
  const form = signIn({ take, why, copy });
  document.title = "runstore";
  document.body.replaceChildren(form.node, toast);
  form.focus();
}

// ---- pages

function route() {
  const focused = page?.node.contains(document.activeElement) ? document.activeElement.getAttribute("name") : null;
  const isFirst = page === null;
  const isRun = /^#\/?run(\/|$)/.test(location.hash);
  cameFromList = Boolean(page?.watch);
  if (isRun && cameFromList) shelf = { page, hash: shownHash };
  else page?.leave();
  page?.node.remove();
  shownHash = location.hash;
  trouble = null;
  if (!isRun && shelf && !cameFromList && sameHash(shelf.hash, location.hash)) page = shelf.page;
  else page = makePage();
  if (!isRun) {
    if (shelf && shelf.page !== page) shelf.page.leave();
    shelf = null;
  }
  document.title = `${page.title} · runstore`;
  announced.before(page.node);
  page.wake?.();
  if (store) page.watch?.(store.projects);
  // whoever changes a filter by keyboard goes on in it; who comes to another page begins at its title, or at the run left
  const same = focused && page.node.querySelector(`[name="${CSS.escape(focused)}"]`);
  if (same) {
    same.focus({ preventScroll: true });
    same.setSelectionRange?.(same.value.length, same.value.length);
  } else if (!isFirst) page.arrive();
  showTouch();
}

const sameHash = (a, b) => (a || "#/") === (b || "#/");

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // half an escape, by somebody who typed the address
  }
}

function makePage() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const shared = { client, failed, copy, touched };
  const [kind, rest = ""] = path.split("/");
  return kind === "run" ? runPage({ ...shared, runId: decoded(rest), back: shelf?.hash || "#/" }) : listPage({ ...shared, filters: readFilters(query), projects: () => store?.projects ?? [] });
}

const keys = h(
  "dialog",
  { "aria-labelledby": "keys-title" },
  h("h1", { id: "keys-title" }, "Keys"),
  h("dl", {}, [["/", "find a run"], ["j, k or arrows", "go down or up"], ["Enter", "open"], ["c", "copy the run's id"], ["Esc or u", "back to all runs"], ["?", "this"]].map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
  h("div", { class: "actions" }, h("button", { type: "button", onclick: () => keys.close() }, "Close")),
);

/** Go from a run to the runs, as they were filtered. */
function goUp() {
  if (!page.copyId) return;
  if (cameFromList) history.back();
  else location.hash = shelf?.hash || "#/";
}

function press(event, find) {
  const isTyping = event.target.closest?.("input, textarea, select, dialog[open]");
  if (isTyping || event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  const does = {
    "/": () => find.focus(),
    "?": () => keys.showModal(),
    j: () => page.step(1),
    k: () => page.step(-1),
    c: () => page.copyId?.(),
    u: goUp,
    Escape: goUp,
  }[event.key];
  if (!does) return;
  event.preventDefault();
  does();
}

function nextTheme() {
  const themes = ["", "light", "dark"];
  const next = themes[(themes.indexOf(document.documentElement.dataset.theme ?? "") + 1) % themes.length];
  localStorage.setItem(THEME, next);
  setTheme(next);
  say(next === "" ? "Colours as the system has them" : `Colours: ${next}`);
}

function setTheme(theme) {
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

setTheme(localStorage.getItem(THEME));
const kept = sessionStorage.getItem(TOKEN);
if (kept) enter(new Client(BASE, { token: kept, giveUpS: Infinity, retryForS: 2 }));
else leave();

// The page as it lives: it listens to /events, keeps what it is told, and shows it. The past it asks for.

import { ago, by, bytes, clock, colour, keyed, make, put, span } from "./show.js";
import { showTimeline } from "./timeline.js";
import { offerModels } from "./trial.js";
import { eventsOf, request } from "./wire.js";

const AGAIN = 2000;
const TICK = 5000;
const PAST_AT_MOST = 1500;
const PAST_AT_LEAST = 20000;
const KEPT = 400;
const HOURS = 6;
const BAD = ["failed", "quarantined", "refused"];
const WARN = ["lagging", "bridge", "upstream", "device"];
const GOOD = ["ready", "adopted", "returned"];
const UP = ["ready", "starting", "sleeping", "stopping"];

/** All that the daemon has told: pieces of state by kind and by which one, records, and what else there is to know. */
const told = { model: new Map(), device: new Map(), lease: new Map(), upstream: new Map(), health: new Map(), records: [], about: null, past: null };
const state = { stream: null, tokens: new Map(), due: false, pastAt: 0, pastTimer: 0 };

// --- asking ----------------------------------------------------------------------------------------------------------

/** Listens for as long as the page is looked at; comes back when the daemon went away. */
async function listen() {
  state.stream?.abort();
  const ours = (state.stream = new AbortController());
  try {
    told.about = await (await request("/api/page", { signal: ours.signal })).json();
    const answer = await request("/events", { signal: ours.signal });
    for (const kind of ["model", "device", "lease", "upstream", "health"]) told[kind].clear();
    pastSoon(0);
    for await (const { event, data } of eventsOf(answer.body)) take(event, JSON.parse(data));
    away("the stream ended");
  } catch (error) {
    if (!ours.signal.aborted) away(error);
  }
  if (state.stream === ours && !document.hidden && by("key-form").hidden) setTimeout(() => state.stream === ours && listen(), AGAIN);
}

function take(event, data) {
  if (event === "record") {
    // The past, asked for in between, may have had it already.
    if (!told.records.slice(-50).some((one) => one[0] === data.time && one[3] === data.message)) {
      told.records.push([data.time, data.event, data.model, data.message]);
      told.records.splice(0, told.records.length - KEPT);
    }
    pastSoon(PAST_AT_MOST);
  } else if (event === "gone") {
    told[data[0]]?.delete(data[1]);
  } else if (told[event] instanceof Map) {
    told[event].set(data.name ?? data.id ?? (data.upstream ? `${data.upstream} ${data.address}` : ""), data);
    if (event === "model" || event === "device") pastSoon(PAST_AT_MOST);
  }
  soon();
}

/** Shows everything in the next frame, however much changes until then. */
function soon() {
  if (state.due) return;
  state.due = true;
  requestAnimationFrame(() => {
    state.due = false;
    show();
  });
}

/** Asks for the past, some time after something changed: the picture need not be drawn for every change. */
function pastSoon(milliseconds) {
  if (state.pastTimer && milliseconds) return;
  clearTimeout(state.pastTimer);
  state.pastTimer = setTimeout(askPast, milliseconds);
}

async function askPast() {
  state.pastTimer = 0;
  state.pastAt = performance.now();
  try {
    const chosen = by("hours").value;
    const past = await (await request(`/api/history?hours=${chosen === "auto" ? HOURS : chosen}`)).json();
    if (chosen === "auto") past.from = interesting(past);
    told.past = past;
    const last = past.records.at(-1)?.[0] ?? 0;
    told.records = [...past.records, ...told.records.filter((one) => one[0] > last)];
    showPast();
    soon();
  } catch (error) {
    away(error);
  }
}

/** From when on there is something to see: the picture begins a little before that, and shows five minutes at least. */
function interesting(past) {
  const firsts = [...Object.values(past.residency), ...Object.values(past.waits)].map((entries) => entries[0][0]);
  const first = Math.min(past.now - 300, ...firsts);
  return Math.max(past.from, first - (past.now - first) * 0.03);
}

// Ages and what is left of a time change by themselves.
setInterval(() => {
  if (document.hidden || by("health").className === "away") return;
  soon();
  if (performance.now() - state.pastAt > PAST_AT_LEAST) pastSoon(0);
}, TICK);

document.addEventListener("visibilitychange", () => (document.hidden ? state.stream?.abort() : listen()));

// --- showing ---------------------------------------------------------------------------------------------------------

const named = (kind) => [...told[kind].values()].sort((a, b) => ((a.name ?? a.id ?? a.upstream) < (b.name ?? b.id ?? b.upstream) ? -1 : 1));
const now = () => Date.now() / 1000;

function show() {
  if (!told.about || !told.health.size) return;
  const [models, devices] = [named("model"), named("device")];
  for (const model of models) colour(model.name);
  put(by("machine"), `on ${told.about.machine}`);
  put(by("version"), told.about.version);
  showHealth(models, devices);
  keyed(by("device-list"), devices, (one) => one.id, buildDevice, (box, device) => updateDevice(box, device, models));
  keyed(by("model-rows"), models, (one) => one.name, buildModel, updateModel);
  showUpstreams(named("upstream"));
  showRecords(models);
  offerModels(models, told.about.tiers);
}

function showPast() {
  const sizes = Object.fromEntries(named("device").map((one) => [one.id, one.total]));
  const names = named("model").map((one) => one.name);
  names.forEach(colour);
  if (told.past && names.length) showTimeline(told.past, sizes, names);
}

function showHealth(models, devices) {
  const { problems } = told.health.get("");
  by("health").className = problems.length ? "bad" : "good";
  put(by("health-text"), problems.length ? `${problems.length} ${problems.length === 1 ? "problem" : "problems"}` : "healthy");
  document.title = `${problems.length ? "⚠ " : ""}aitherd on ${told.about.machine}`;
  by("problems").hidden = !problems.length;
  keyed(by("problems"), problems, (text) => text, (text) => make("li", { text }), () => {});
  const sum = (name) => models.reduce((total, model) => total + model[name], 0);
  const watts = devices.map((one) => one.watts).filter((one) => typeof one === "number");
  const power = watts.length ? ` · ${Math.round(watts.reduce((a, b) => a + b, 0))} W` : "";
  put(by("pulse"), `${sum("in_flight")} in flight · ${sum("waiting")} waiting${power} · ${clock(now())}`);
  put(by("permission"), told.about.may_stop ? "" : "read-only for you: stopping is for members of the daemon's group");
}

/** The daemon cannot be heard, and why. */
function away(error) {
  by("key-form").hidden = error.status !== 401;
  by("health").className = "away";
  put(by("health-text"), "not reachable, trying again");
  console.info(String(error));
}

// Devices

function buildDevice(device) {
  const title = make("h3", {}, make("span", { class: "id" }), make("span", { class: "note kind" }), make("span", { class: "number" }));
  const box = make("div", { class: device.id === "host" ? "device small" : "device" }, title);
  box.append(make("div", { class: "bar", role: "img" }), make("ul", { class: "key" }), make("p", { class: "trouble", hidden: true }));
  return box;
}

function updateDevice(box, device, models) {
  const title = device.id === "host" ? ["Host memory", ""] : [device.id, device.name];
  put(box.querySelector(".id"), title[0]);
  put(box.querySelector(".kind"), title[1]);
  const facts = [`${bytes(device.total - device.free)} of ${bytes(device.total)}`];
  if (typeof device.busy === "number") facts.push(`${Math.round(device.busy * 100)} % busy`);
  if (typeof device.watts === "number") facts.push(`${device.watts.toFixed(0)} W`);
  put(box.querySelector(".number"), facts.join(" · "));
  const parts = owners(device, models);
  const bar = box.querySelector(".bar");
  keyed(bar, parts, (part) => part.id, () => make("span", { class: "part" }), (part, one) => {
    const share = device.total ? (one.bytes / device.total) * 100 : 0;
    put(part, fitting(one, (share / 100) * bar.clientWidth), `part ${one.look}`);
    part.style.width = `${share}%`;
    part.title = `${one.label}: ${bytes(one.bytes)}`;
  });
  const free = { id: "free", label: "free", look: "free", bytes: device.owners.free };
  const rows = [...parts, free];
  bar.setAttribute("aria-label", `${title[0]}: ${rows.map((one) => `${one.label} ${bytes(one.bytes)}`).join(", ")}`);
  keyed(box.querySelector("ul"), rows, (row) => row.id, keyRow, (row, one) => {
    if (row.className !== one.look) row.className = one.look;
    put(row.children[1], one.label);
    put(row.children[2], bytes(one.bytes), "mono");
  });
  const trouble = box.querySelector(".trouble");
  trouble.hidden = device.fresh;
  put(trouble, device.problem);
}

/** As much of what a part of the bar is called as there is room for, in pixels. */
function fitting(part, room) {
  const texts = [`${part.label} ${bytes(part.bytes)}`, part.label];
  return texts.find((text) => text.length * 6.6 + 16 < room) ?? "";
}

/** Who holds how much of a device, in the order in which it is drawn; what is free is left out. */
function owners(device, models) {
  const parts = [];
  const add = (id, label, look, count) => count > 0 && parts.push({ id, label, look, bytes: count });
  for (const model of models) {
    const asleep = model.residency === "sleeping" ? " (asleep)" : "";
    if (model.residency !== "quarantined") add(`model ${model.name}`, `${model.name}${asleep}`, `${colour(model.name)} ${model.residency}`, model.measured[device.id]);
  }
  for (const lease of named("lease")) {
    if (lease.device === device.id && !lease.waiting) add(`lease ${lease.id}`, `lease: ${lease.purpose}`, "lease", Math.max(lease.bytes, lease.used));
  }
  const others = new Map();
  for (const one of device.foreign) if (!one.leased) others.set(one.name, (others.get(one.name) ?? 0) + one.bytes);
  for (const [name, count] of [...others].sort((a, b) => b[1] - a[1])) add(`process ${name}`, name, "process", count);
  add("quarantine", "quarantined", "quarantined", device.owners.quarantine);
  add("other", device.id === "host" ? "in use" : "driver", "other", device.owners.other);
  add("reserve", "reserve", "reserve", device.owners.reserve);
  return parts;
}

function keyRow() {
  return make("li", {}, make("i", { class: "swatch" }), make("b"), make("span", { class: "mono" }));
}

// Models

function buildModel(model) {
  const cell = (label, className) => make("td", { role: "cell", class: className, "data-label": label });
  const row = make("tr", { role: "row" });
  const name = make("div", { class: "name" }, make("i", { class: `swatch ${colour(model.name)}` }), make("span", { text: model.name }), make("span", { class: "tag" }));
  row.append(make("td", { role: "cell" }, name, make("div", { class: "about" })));
  row.append(make("td", { role: "cell", class: "state" }, make("span", { class: "badge" }), make("div", { class: "stage" })));
  row.append(cell("memory", "number"), cell("in flight", "number"), cell("queue", "number"), cell("tokens/s", "number"), cell("used", ""));
  const start = make("button", { type: "button", text: "Start", "aria-label": `Start ${model.name}` });
  const stop = make("button", { type: "button", text: "Stop", "aria-label": `Stop ${model.name}` });
  start.addEventListener("click", () => change(`/swap/request-${encodeURIComponent(model.name)}?wait=0`, `${model.name} is to start`));
  stop.addEventListener("click", () => change(`/api/models/unload/${encodeURIComponent(model.name)}`, `${model.name} has stopped`, `${model.name} is being drained and stopped`));
  row.append(make("td", { role: "cell", class: "act" }, start, stop));
  return row;
}

function updateModel(row, model) {
  const [name, residency, memory, flight, queue, speed, used, act] = row.children;
  const tags = [model.class === "on-demand" ? "" : model.class, model.held && model.class !== "essential" ? "held" : ""].filter(Boolean);
  const tag = name.querySelector(".tag");
  put(tag, tags.join(", "));
  tag.hidden = !tags.length;
  const serves = model.serves.length ? `as ${model.serves.join(", ")}` : "";
  put(name.querySelector(".about"), [model.description, model.engine, serves].filter(Boolean).join(" · "));
  put(residency.firstChild, model.level ? `asleep, level ${model.level}` : model.residency, `badge ${model.residency}`);
  const stops = model.stops_at ? `stops in ${span(Math.max(model.stops_at - now(), 0))}` : "";
  const said = model.error || model.stage || (model.residency === "ready" ? stops : "");
  put(residency.lastChild, said, model.error ? "stage error" : "stage");
  residency.lastChild.title = said;
  const held = Object.entries(model.measured).filter(([device]) => device !== "host").reduce((sum, [, count]) => sum + count, 0);
  put(memory, held ? bytes(held) : model.expected ? `~${bytes(model.expected)}` : "—", held ? "number" : "number idle");
  memory.title = held ? "measured" : "expected";
  put(flight, String(model.in_flight), model.in_flight ? "number live" : "number idle");
  put(queue, String(model.waiting), model.waiting ? "number live" : "number idle");
  const rate = tokenRate(model);
  put(speed, rate === null ? "—" : rate.toFixed(rate < 10 ? 1 : 0), rate ? "number live" : "number idle");
  put(used, model.last_used ? ago(model.last_used, now()) : "not yet", model.last_used ? "note" : "note idle");
  const [start, stop] = act.children;
  const up = UP.includes(model.residency);
  start.hidden = up && model.residency !== "sleeping";
  put(start, model.residency === "sleeping" ? "Wake" : "Start");
  start.setAttribute("aria-label", `${start.textContent} ${model.name}`);
  stop.hidden = !up || model.class === "essential";
  stop.disabled = !told.about.may_stop || model.residency === "stopping";
}

/** Tokens a second since the last look; null where they are not counted. */
function tokenRate(model) {
  if (typeof model.tokens !== "number") return null;
  const before = state.tokens.get(model.name);
  const passed = before ? now() - before.at : 0;
  if (!before || passed >= 1.5) {
    const rate = before ? Math.max(model.tokens - before.tokens, 0) / passed : 0;
    state.tokens.set(model.name, { at: now(), tokens: model.tokens, rate });
  }
  return state.tokens.get(model.name).rate;
}

async function change(path, after, meanwhile = "") {
  if (meanwhile) put(by("said"), meanwhile);
  try {
    await request(path, { method: "POST" });
    put(by("said"), after);
  } catch (error) {
    put(by("said"), error.message);
  }
}

// Upstreams and decisions

function showUpstreams(upstreams) {
  by("upstreams").hidden = !upstreams.length;
  const cell = (label, className) => make("td", { role: "cell", "data-label": label, class: className });
  const build = () => make("tr", { role: "row" },
    make("td", { role: "cell" }, make("b"), make("div", { class: "about" })),
    make("td", { role: "cell", class: "state" }, make("span", { class: "badge" }), make("div", { class: "stage" })),
    cell("in flight", "number"), cell("spent", "number"));
  keyed(by("upstream-rows"), upstreams, (one) => `${one.upstream} ${one.address}`, build, (row, one) => {
    put(row.children[0].firstChild, one.upstream);
    put(row.children[0].lastChild, one.address);
    put(row.children[1].firstChild, one.up ? "answers" : "given a rest", `badge ${one.up ? "ready" : "failed"}`);
    put(row.children[1].lastChild, one.reason ?? "");
    put(row.children[2], String(one.in_flight));
    put(row.children[3], one.spent_today.toFixed(2));
  });
}

function showRecords(models) {
  const of = by("of");
  const names = ["", ...models.map((one) => one.name)];
  keyed(of, names, (name) => name, (name) => make("option", { value: name, text: name || "all" }), () => {});
  const shown = told.records.filter((one) => !of.value || one[2] === of.value).slice(-200).reverse();
  const look = (event) => (BAD.includes(event) ? "bad" : WARN.includes(event) ? "warn" : GOOD.includes(event) ? "good" : "");
  keyed(by("records"), shown, (one) => `${one[0]} ${one[1]} ${one[3]}`, ([time, event, model, message]) =>
    make("li", {}, make("time", { text: clock(time), datetime: new Date(time * 1000).toISOString() }),
      make("p", {}, make("span", { class: `event ${look(event)}`, text: event }), model && !message.includes(model) ? ` ${model}` : "", ` ${message}`)), () => {});
}

// --- colours ---------------------------------------------------------------------------------------------------------

const THEMES = ["", "dark", "light"];
const WORDS = { "": "as the system", dark: "dark", light: "light" };

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  const button = by("theme");
  button.title = `Colours: ${WORDS[name]}`;
  button.setAttribute("aria-label", button.title);
}

by("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % THEMES.length];
  localStorage.setItem("theme", next);
  theme(next);
});
theme(localStorage.getItem("theme") ?? "");
by("hours").value = localStorage.getItem("hours") ?? "auto";
by("hours").addEventListener("change", () => {
  localStorage.setItem("hours", by("hours").value);
  pastSoon(0);
});
by("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("key", by("key").value);
  by("key-form").hidden = true;
  listen();
});
by("of").addEventListener("change", soon);

listen();

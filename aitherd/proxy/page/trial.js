// The form that tries a model: a chat request like any other, whose answer is shown as it comes.

import { by, make, put, span } from "./show.js";
import { eventsOf, request } from "./wire.js";

let running = null;
let known = "";
const can = new Map();

/** Offers the models that chat, and the tiers. */
export function offerModels(models, tiers) {
  for (const model of models) can.set(model.name, model.can);
  const chatting = models.filter((one) => !one.can.length || one.can.includes("chat") || one.can.includes("vision"));
  const names = [...chatting.map((one) => one.name), ...Object.keys(tiers)];
  if (names.join() === known) return;
  known = names.join();
  const select = by("trial-model");
  const before = select.value;
  const group = (label, list) => (list.length ? [make("optgroup", { label }, ...list.map((name) => make("option", { value: name, text: name })))] : []);
  select.replaceChildren(...group("Models", chatting.map((one) => one.name)), ...group("Tiers", Object.keys(tiers)));
  const likely = [...chatting].sort((a, b) => fit(b) - fit(a))[0]?.name;
  if (names.includes(before)) select.value = before;
  else if (likely) select.value = likely;
  chosen();
}

/** How well a model suits to begin with: it says that it chats, and it is there. */
function fit(model) {
  return 2 * model.can.includes("chat") + (model.residency === "ready");
}

function chosen() {
  const abilities = can.get(by("trial-model").value);
  by("trial-picture").hidden = abilities !== undefined && !abilities.includes("vision");
}

async function asDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

async function send(event) {
  event.preventDefault();
  running?.abort();
  const ours = (running = new AbortController());
  const answer = by("trial-answer");
  answer.hidden = false;
  answer.replaceChildren();
  answer.setAttribute("aria-busy", "true");
  by("trial-stop").disabled = false;
  by("trial-facts").replaceChildren();
  put(by("trial-state"), "waiting for the model");
  const began = performance.now();
  const seen = { pieces: 0, first: 0, tokens: null };
  try {
    const response = await request("/v1/chat/completions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(await body()),
      signal: ours.signal,
    });
    facts({ "Answered by": response.headers.get("x-aither-upstream"), Because: response.headers.get("x-aither-reason") });
    for await (const piece of pieces(response.body)) {
      if (piece.error) throw new Error(piece.error.message ?? "the answer broke off");
      show(answer, piece, seen, began);
    }
    done(seen, began);
  } catch (error) {
    if (running === ours) failed(answer, error, ours.signal.aborted);
  } finally {
    if (running === ours) {
      answer.removeAttribute("aria-busy");
      by("trial-stop").disabled = true;
    }
  }
}

async function body() {
  const prompt = by("trial-prompt").value;
  const file = by("trial-picture").hidden ? null : by("trial-image").files[0];
  const picture = file && { type: "image_url", image_url: { url: await asDataUrl(file) } };
  return {
    model: by("trial-model").value,
    messages: [{ role: "user", content: picture ? [{ type: "text", text: prompt }, picture] : prompt }],
    max_tokens: Number(by("trial-tokens").value) || 256,
    stream: true,
    stream_options: { include_usage: true },
  };
}

/** The pieces of an answer, up to its [DONE]. Comments say that the model is still loading. */
async function* pieces(stream) {
  for await (const { comment, data } of eventsOf(stream)) {
    if (comment) put(by("trial-state"), comment);
    else if (data === "[DONE]") return;
    else yield JSON.parse(data);
  }
  throw new Error("the answer broke off");
}

function show(answer, piece, seen, began) {
  if (piece.usage) seen.tokens = piece.usage.completion_tokens;
  const delta = piece.choices?.[0]?.delta ?? {};
  const thought = delta.reasoning_content ?? delta.reasoning;
  for (const [text, kind] of [[thought, "thought"], [delta.content, "text"]]) {
    if (!text) continue;
    if (!seen.first) {
      seen.first = performance.now();
      facts({ "First word after": span((seen.first - began) / 1000) });
      put(by("trial-state"), "answering");
    }
    seen.pieces += 1;
    if (answer.lastElementChild?.className !== kind) answer.append(make("span", { class: kind }));
    answer.lastElementChild.append(text);
    answer.scrollTop = answer.scrollHeight;
  }
}

function done(seen, began) {
  const seconds = (performance.now() - (seen.first || began)) / 1000;
  const count = seen.tokens ?? seen.pieces;
  facts({ Speed: seconds > 0 && count > 1 ? `${(count / seconds).toFixed(1)} tokens/s` : null, Tokens: count });
  put(by("trial-state"), "the answer is complete");
}

function failed(answer, error, stopped) {
  put(by("trial-state"), stopped ? "stopped" : "it failed");
  if (!stopped) answer.append(make("p", { class: "wrong", text: String(error.message ?? error) }));
}

function facts(entries) {
  for (const [name, value] of Object.entries(entries)) {
    if (value !== null && value !== undefined) by("trial-facts").append(make("dt", { text: name }), make("dd", { text: value }));
  }
}

function preview() {
  const image = by("trial-preview");
  const [file] = by("trial-image").files;
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = !file;
  if (file) image.src = URL.createObjectURL(file);
}

by("trial-form").addEventListener("submit", send);
by("trial-stop").addEventListener("click", () => running?.abort());
by("trial-model").addEventListener("change", chosen);
by("trial-image").addEventListener("change", preview);
by("trial-prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) by("trial-form").requestSubmit();
});

// How things look as text, and small ways to make and update elements. Nothing here knows what the page is about.

const NS = "http://www.w3.org/2000/svg";

export const by = (id) => document.getElementById(id);

/** An element with attributes (`class`, `data-…`; `text` is its text) and children. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(NS, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") element.textContent = value;
    else if (value !== undefined && value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Sets what differs only, so that focus and selection stay and a screen reader is not told what it knows. */
export function put(element, text, className) {
  if (element.textContent !== text) element.textContent = text;
  if (className !== undefined && element.className !== className) element.className = className;
}

/** Has the children of `parent` be those that `build` makes of `items`, one for each key, kept while the key stays. */
export function keyed(parent, items, key, build, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const id = key(item);
    let child = known.get(id);
    if (child === undefined) {
      child = build(item);
      child.dataset.key = id;
    }
    known.delete(id);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
    update(child, item);
  }
  for (const child of known.values()) child.remove();
}

/** 5.2 GiB */
export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  let value = Math.abs(count);
  while (value >= 1024 && power < 4) {
    value /= 1024;
    power += 1;
  }
  const shown = power && value < 100 ? value.toFixed(1) : value.toFixed(0);
  return `${count < 0 ? "−" : ""}${shown} ${units[power]}`;
}

/** 250 ms, 3.1 s, 5 min, 1 h 30 min */
export function span(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return minutes % 60 && hours < 24 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
}

/** How long ago, for an instant that may be now. */
export function ago(instant, now) {
  const seconds = Math.max(now - instant, 0);
  return seconds < 2 ? "now" : seconds < 60 ? `${Math.floor(seconds)} s ago` : `${span(seconds)} ago`;
}

/** 14:03:27, in the time zone of whoever looks; with `short` without seconds. */
export function clock(instant, short = false) {
  const options = { hour: "2-digit", minute: "2-digit", second: short ? undefined : "2-digit", hourCycle: "h23" };
  return new Date(instant * 1000).toLocaleTimeString([], options);
}

const colours = new Map();
/** A class of colour for each model, in the order of their names as they were first seen. */
export function colour(name) {
  if (!colours.has(name)) colours.set(name, `c${colours.size % 10}`);
  return colours.get(name);
}

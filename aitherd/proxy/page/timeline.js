// The last hours as a picture: a lane for each model, the bytes of each device by owner, the waiting times; and the same
// as tables, for whoever does not see the picture.

import { by, bytes, clock, colour, draw, make, span } from "./show.js";

const LANE = 21;
const BAR = 13;
const AREA = 74;
const WAITS = 38;
const AXIS = 20;
const GAP = 14;
const STEPS = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600];

let shown = null;

/** Draws `past`, the answer of /api/history. `totals` are the sizes of the devices, `models` all names. */
export function showTimeline(past, totals, models) {
  shown = { past, totals, models };
  paint();
}

new ResizeObserver(() => shown && paint()).observe(by("timeline"));

function paint() {
  const { past, totals, models } = shown;
  const box = by("timeline");
  const width = Math.max(box.clientWidth, 280);
  const left = width < 560 ? 0 : 112;
  const x = (time) => left + ((Math.max(time, past.from) - past.from) / (past.now - past.from)) * (width - left);
  const lanes = models.map((name) => [name, spans(past.residency[name] ?? [], past)]).filter(([, found]) => found.length);
  const devices = Object.keys(past.bytes).filter((id) => totals[id] && id !== "host").sort();
  const waits = Object.keys(past.waits).length > 0;
  const lane = left ? LANE : LANE + 13;
  const height = lanes.length * lane + devices.length * (AREA + GAP + (left ? 0 : 13)) + (waits ? WAITS + GAP + (left ? 0 : 13) : 0) + AXIS + 4;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": summary(lanes, past) });
  grid(svg, past, x, left, width, height);
  let y = 0;
  for (const [name, found] of lanes) {
    y += left ? 0 : 13;
    svg.append(draw("text", { class: "lane", x: 0, y: left ? y + 14 : y - 2, text: clip(name, left) }));
    svg.append(draw("line", { class: "grid", x1: left, x2: width, y1: y + LANE - 2, y2: y + LANE - 2 }));
    for (const one of found) {
      const title = `${name}: ${one.state} from ${clock(one.from)}, ${span(one.to - one.from)}`;
      const at = { x: x(one.from), y: y + 3, width: Math.max(x(one.to) - x(one.from), 1.5), height: BAR, rx: 2 };
      svg.append(draw("rect", { class: `span ${one.state} ${colour(name)}`, ...at }, draw("title", { text: title })));
    }
    y += LANE;
  }
  for (const id of devices) {
    y += GAP + (left ? 0 : 13);
    const label = [draw("text", { class: "lane", x: 0, y: left ? y + 12 : y - 3, text: id })];
    label.push(draw("text", { x: left ? 0 : 40, y: left ? y + 27 : y - 3, text: bytes(totals[id]) }));
    svg.append(...label, ...areas(past.bytes[id], totals[id], models, past, x, y));
    svg.append(draw("line", { class: "base", x1: left, x2: width, y1: y + AREA, y2: y + AREA }));
    y += AREA;
  }
  if (waits) {
    y += GAP + (left ? 0 : 13);
    svg.append(...waiting(past, x, y, left, width));
    y += WAITS;
  }
  for (const [time] of past.began) {
    if (time >= past.from) svg.append(draw("line", { class: "began", x1: x(time), x2: x(time), y1: 0, y2: y }, draw("title", { text: `a daemon began at ${clock(time)}` })));
  }
  const cross = draw("line", { class: "cross", y1: 0, y2: y, visibility: "hidden" });
  svg.append(cross);
  follow(svg, cross, past, left, width);
  box.replaceChildren(svg);
  box.dataset.spans = lanes.reduce((sum, [, found]) => sum + found.length, 0);
  key(lanes.length > 0, devices.length > 0, waits);
  tables(lanes, past);
}

/** What a model was, from when to when; nothing while it was absent. */
function spans(entries, past) {
  return entries
    .map(([from, state, level], index) => ({ from, to: entries[index + 1]?.[0] ?? past.now, state, level }))
    .filter((one) => one.state !== "absent" && one.to >= past.from)
    .map((one) => ({ ...one, from: Math.max(one.from, past.from) }));
}

function grid(svg, past, x, left, width, height) {
  const wanted = (past.now - past.from) / Math.max((width - left) / 95, 2);
  const step = STEPS.find((one) => one >= wanted) ?? 21600;
  const offset = new Date().getTimezoneOffset() * 60;
  for (let time = Math.ceil((past.from - offset) / step) * step + offset; time <= past.now; time += step) {
    svg.append(draw("line", { class: "grid", x1: x(time), x2: x(time), y1: 0, y2: height - AXIS }));
    if (x(time) - left > 14 && width - x(time) > 14) {
      svg.append(draw("text", { x: x(time), y: height - 5, "text-anchor": "middle", text: clock(time, true) }));
    }
  }
}

/** The owners of a device, one on top of the other: models first, then others, then what nobody holds. */
function areas(entries, total, models, past, x, top) {
  const order = (name) => (models.includes(name) ? models.indexOf(name) : name === "unattributed" ? 1e6 : 1e5);
  const names = [...new Set(entries.flatMap(([, held]) => Object.keys(held)))].sort((a, b) => order(b) - order(a) || (a < b ? -1 : 1));
  const y = (count) => top + AREA - (Math.min(count, total) / total) * AREA;
  return names.map((name, index) => {
    const points = [];
    let last = null;
    for (const [time, held] of entries) {
      const below = names.slice(0, index).reduce((sum, other) => sum + (held[other] ?? 0), 0);
      const now = [y(below), y(below + (held[name] ?? 0))];
      // What was measured holds until the next measurement.
      if (last) points.push([x(time), ...last]);
      points.push([x(time), ...now]);
      last = now;
    }
    points.push([x(past.now), ...last]);
    const upper = points.map(([at, , high]) => `${at.toFixed(1)},${high.toFixed(1)}`);
    const lower = points.map(([at, low]) => `${at.toFixed(1)},${low.toFixed(1)}`).reverse();
    const kind = models.includes(name) ? colour(name) : name === "unattributed" ? "nobody" : "foreign";
    const title = draw("title", { text: name.replace(/^process:|^lease:/, "") });
    return draw("polygon", { class: `area ${kind}`, points: [...upper, ...lower].join(" ") }, title);
  });
}

function waiting(past, x, top, left, width) {
  const all = Object.values(past.waits).flat();
  const most = Math.max(...all.map((entry) => entry[3]), 1);
  // A wait of a second and one of minutes are to be seen in the same picture.
  const tall = (seconds) => (Math.log1p(seconds) / Math.log1p(most)) * WAITS;
  const parts = [
    draw("text", { class: "lane", x: 0, y: left ? top + 12 : top - 3, text: "waits" }),
    draw("text", { x: left ? 0 : 40, y: left ? top + 27 : top - 3, text: `up to ${span(most)}` }),
    draw("line", { class: "base", x1: left, x2: width, y1: top + WAITS, y2: top + WAITS }),
  ];
  for (const [name, entries] of Object.entries(past.waits)) {
    for (const [time, count, , longest] of entries) {
      const title = `${clock(time)}: ${count} waited for ${name}, up to ${span(longest)}`;
      const at = { x: x(time) - 1.5, width: 3, y: top + WAITS - tall(longest), height: Math.max(tall(longest), 2) };
      parts.push(draw("rect", { class: `wait ${colour(name)}`, ...at }, draw("title", { text: title })));
    }
  }
  return parts;
}

/** A line under the pointer, and what time it is there. */
function follow(svg, cross, past, left, width) {
  svg.addEventListener("pointermove", (event) => {
    const at = event.clientX - svg.getBoundingClientRect().left;
    const inside = at >= left;
    cross.setAttribute("visibility", inside ? "visible" : "hidden");
    cross.setAttribute("x1", at);
    cross.setAttribute("x2", at);
    const time = past.from + ((at - left) / (width - left)) * (past.now - past.from);
    by("instant").textContent = inside ? clock(time) : "";
  });
  svg.addEventListener("pointerleave", () => {
    cross.setAttribute("visibility", "hidden");
    by("instant").textContent = "";
  });
}

function key(lanes, devices, waits) {
  const entries = lanes ? [["ready", "ready"], ["starting", "starting or stopping"], ["sleeping", "asleep"], ["failed", "failed"]] : [];
  by("timeline-key").replaceChildren(
    ...entries.map(([state, text]) =>
      make("li", {}, draw("svg", { width: 14, height: 10, "aria-hidden": "true" }, draw("rect", { class: `keyspan ${state}`, x: .5, y: .5, width: 13, height: 9, rx: 2 })), make("span", { text }))),
    ...(lanes || devices ? [] : [make("li", { text: "Nothing has happened in this time." })]),
  );
}

function summary(lanes, past) {
  const said = lanes.map(([name, found]) => {
    const ready = found.filter((one) => one.state === "ready").reduce((sum, one) => sum + one.to - one.from, 0);
    return `${name} ready for ${span(ready)}, ${found.at(-1).to >= past.now ? `${found.at(-1).state} now` : "absent now"}`;
  });
  return `Timeline of the last ${span(past.now - past.from)}: ${said.join("; ") || "nothing happened"}. The table below says the same.`;
}

function tables(lanes, past) {
  if (!by("timeline-text").open) {
    by("timeline-text").ontoggle = () => by("timeline-text").open && tables(lanes, past);
    return;
  }
  const rows = lanes.flatMap(([name, found]) => found.map((one) => [name, one])).sort((a, b) => b[1].from - a[1].from);
  by("timeline-rows").replaceChildren(
    ...rows.map(([name, one]) =>
      make("tr", {}, make("th", { scope: "row", text: name }), make("td", { text: clock(one.from) }), make("td", { text: one.level ? `${one.state} (level ${one.level})` : one.state }), make("td", { text: span(one.to - one.from) }))),
  );
  by("wait-rows").replaceChildren(
    ...Object.entries(past.waits).map(([name, entries]) => {
      const [count, total] = [entries.reduce((sum, one) => sum + one[1], 0), entries.reduce((sum, one) => sum + one[2], 0)];
      const longest = Math.max(...entries.map((one) => one[3]));
      return make("tr", {}, make("th", { scope: "row", text: name }), make("td", { text: count }), make("td", { text: span(total / count) }), make("td", { text: span(longest) }));
    }),
  );
}

function clip(name, room) {
  return room && name.length > 16 ? `${name.slice(0, 15)}…` : name;
}

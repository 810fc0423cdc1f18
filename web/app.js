"use strict";

const EVERY_MS = 1000;
const POINTS = 60;
const TOKEN_KEY = "sumun-token";

const words = JSON.parse(document.body.dataset.words);
const numbers = new Intl.NumberFormat(document.documentElement.lang);
const short = new Intl.NumberFormat(document.documentElement.lang, { notation: "compact", maximumFractionDigits: 2 });

const rates = [];
let before = null;

function word(name) {
  return words[name] ?? name;
}

function byId(id) {
  return document.getElementById(id);
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

// Large numbers are shortened where they would not fit a column.
function number(value) {
  return Math.abs(value) < 1e8 ? numbers.format(value) : short.format(value);
}

function duration(seconds) {
  const units = [[86400, word("day")], [3600, word("hour")], [60, word("minute")], [1, word("second")]];
  const first = units.findIndex(([length]) => seconds >= length);
  if (first < 0) return "0" + word("second");
  return units.slice(first, first + 2).map(([length, unit]) => {
    const count = Math.floor(seconds / length);
    seconds -= count * length;
    return count + unit;
  }).join(" ");
}

function milliseconds(value) {
  if (value === 0) return "–";
  if (value < 10) return numbers.format(Math.round(value * 10) / 10) + " ms";
  return value < 10000 ? numbers.format(Math.round(value)) + " ms" : numbers.format(Math.round(value / 100) / 10) + " s";
}

// A column: its head, what stands in a cell, how its cells look, and what else one of them has.
function table(kind, columns, rows) {
  const made = element("table", kind);
  const head = made.createTHead().insertRow();
  for (const [title, , look] of columns) {
    const cell = element("th", look.includes("number") ? "number" : "", title);
    cell.scope = "col";
    head.append(cell);
  }
  const body = made.createTBody();
  for (const row of rows) {
    const line = body.insertRow();
    for (const [title, content, look, more] of columns) {
      const cell = line.insertCell();
      cell.className = more ? `${look} ${more(row)}` : look;
      if (!cell.classList.contains("plain")) cell.dataset.label = title;
      cell.append(content(row));
    }
  }
  return made;
}

function card(head, kind, rows, columns, none) {
  const made = element("div", "card");
  if (head) made.append(head);
  made.append(rows.length ? table(kind, columns, rows) : element("p", "empty", none));
  return made;
}

function state(server) {
  const looks = { up: "good", draining: "warn", disabled: "warn" };
  return element("span", "state " + (looks[server.state] ?? "bad"), word(server.state));
}

function showPools(pools) {
  const columns = [
    [word("server"), (server) => server.name, "strong most plain"],
    [word("state"), state, "beside plain"],
    [word("in_flight"), (server) => number(server.in_flight), "number"],
    [word("requests"), (server) => number(server.requests), "number"],
    [word("failures"), (server) => number(server.failures), "number", (server) => (server.failures ? "some" : "")],
    [word("weight"), (server) => number(server.weight), "number quiet"],
    [word("reason"), (server) => server.reason, "quiet full", (server) => (server.reason ? "" : "blank")],
  ];
  const cards = pools.map((pool) => {
    const up = pool.servers.filter((server) => server.state === "up").length;
    const head = element("div", "card-head");
    head.append(element("h3", "", pool.name), element("span", "", pool.balance));
    head.append(element("span", "", `${word("in_flight")} ${number(pool.in_flight)}`));
    if (pool.concurrency != null) head.append(element("span", "", `${word("limit")} ${number(pool.concurrency)}`));
    if (pool.queued) head.append(element("span", "state warn", `${number(pool.queued)} ${word("queued")}`));
    const look = up === pool.servers.length ? "good" : up ? "warn" : "bad";
    head.append(element("span", `up state ${look}`, `${up}/${pool.servers.length} ${word("servers_up")}`));
    return card(head, "servers", pool.servers, columns, word("none_servers"));
  });
  byId("pools").replaceChildren(...(cards.length ? cards : [card(null, "", [], [], word("none_pools"))]));
}

// What passes connections or datagrams on knows no requests.
function served(listener) {
  return listener.ended === undefined ? number(listener.requests) : `${number(listener.ended)} ${word("ended")}`;
}

function showRooms(rooms) {
  const columns = [
    [word("route"), (room) => room.route, "strong most plain"],
    [word("listener"), (room) => room.listener, "quiet beside plain"],
    [word("waiting"), (room) => number(room.waiting), "number"],
    [word("inside"), (room) => number(room.active), "number"],
    [word("admitted"), (room) => number(room.admitted), "number"],
  ];
  byId("rooms-section").hidden = rooms.length === 0;
  byId("rooms").replaceChildren(card(null, "routes", rooms, columns, ""));
}

function showListeners(listeners) {
  const columns = [
    [word("listener"), (listener) => listener.name, "strong most plain"],
    [word("address"), (listener) => listener.bind.join(", "), "quiet full plain"],
    [word("connections"), (listener) => number(listener.connections), "number half"],
    [word("requests"), served, "number half"],
  ];
  byId("listeners").replaceChildren(card(null, "listeners", listeners, columns, word("none_listeners")));
}

function showRoutes(routes) {
  const errors = (route) => Object.values(route.errors).reduce((sum, count) => sum + count, 0);
  const columns = [
    [word("route"), (route) => route.route, "strong most plain"],
    [word("listener"), (route) => route.listener, "quiet beside plain"],
    [word("requests"), (route) => number(route.requests), "number half"],
    [word("errors"), (route) => number(errors(route)), "number half", (route) => (errors(route) ? "some" : "")],
    ["p50", (route) => milliseconds(route.latency_ms.p50), "number"],
    ["p95", (route) => milliseconds(route.latency_ms.p95), "number"],
    ["p99", (route) => milliseconds(route.latency_ms.p99), "number"],
  ];
  const used = routes.filter((route) => route.requests > 0);
  byId("routes").replaceChildren(card(null, "routes", used, columns, word("none_routes")));
}

function showTrend() {
  const most = Math.max(...rates, 1);
  const step = 120 / (POINTS - 1);
  const start = 120 - (rates.length - 1) * step;
  const points = rates.map((rate, index) => `${(start + index * step).toFixed(2)},${(30 - (rate / most) * 28).toFixed(2)}`);
  byId("line").setAttribute("d", points.length > 1 ? "M" + points.join("L") : "");
  byId("area").setAttribute("d", points.length > 1 ? `M${start.toFixed(2)},32L${points.join("L")}L120,32Z` : "");
  byId("peak").textContent = `${word("last_minute")}, ${word("peak")} ${number(Math.round(Math.max(...rates)))}`;
}

// The first look at a process has nothing to compare with, and a new process counts from zero.
function showRate(status) {
  const now = { at: performance.now(), requests: status.requests, pid: status.pid };
  if (before && before.pid === now.pid && now.at > before.at) {
    const rate = Math.max(0, now.requests - before.requests) / ((now.at - before.at) / 1000);
    rates.push(rate);
    if (rates.length > POINTS) rates.shift();
    byId("rate").textContent = number(rate < 10 ? Math.round(rate * 10) / 10 : Math.round(rate));
    showTrend();
  }
  before = now;
}

function showStatus(status, pools) {
  byId("version").textContent = status.version;
  byId("uptime").textContent = duration(status.uptime_seconds);
  byId("workers").textContent = number(status.workers);
  byId("total").textContent = status.requests < 1e6 ? number(status.requests) : short.format(status.requests);
  byId("total").title = numbers.format(status.requests);
  byId("in-flight").textContent = number(pools.reduce((sum, pool) => sum + pool.in_flight, 0));
  byId("queued").textContent = number(pools.reduce((sum, pool) => sum + pool.queued, 0));
  for (const [side, count] of Object.entries(status.errors)) {
    const place = byId("by-" + side);
    if (!place) continue;
    place.textContent = number(count);
    place.classList.toggle("some", count > 0 && side !== "client");
  }
  pill(status.draining ? "warn" : "good", word(status.draining ? "draining_now" : "serving"));
}

function pill(look, text) {
  const place = byId("state");
  place.className = "pill " + look;
  if (place.textContent !== text) place.textContent = text;
}

function notice(text) {
  const place = byId("notice");
  place.hidden = !text;
  if (place.textContent !== text) place.textContent = text;
}

function lock(isLocked) {
  byId("ask").hidden = !isLocked;
  document.body.classList.toggle("locked", isLocked);
}

async function ask(path) {
  const token = sessionStorage.getItem(TOKEN_KEY);
  const answer = await fetch(path, {
    headers: token ? { Authorization: "Bearer " + token } : {},
    signal: AbortSignal.timeout(5000),
  });
  if (!answer.ok) throw Object.assign(new Error(path), { status: answer.status });
  return answer.json();
}

async function refresh() {
  let answers;
  try {
    answers = await Promise.all(["status", "pools", "routes"].map((name) => ask("/api/v1/" + name)));
  } catch (error) {
    const isLocked = error.status === 401;
    lock(isLocked);
    notice(isLocked ? "" : word(error.status ? "refused" : "stale"));
    pill(isLocked ? "warn" : "bad", word(isLocked ? "locked" : "no_contact"));
    return;
  }
  const [status, pools, routes] = answers;
  lock(false);
  notice("");
  showStatus(status, pools);
  showRate(status);
  showPools(pools);
  showListeners(status.listeners);
  showRooms(status.waiting_rooms);
  showRoutes(routes);
}

// One look after the other: a slow answer is waited for. A page that nobody sees does not ask.
async function run() {
  for (;;) {
    const next = new Promise((wake) => setTimeout(wake, EVERY_MS));
    if (!document.hidden) await refresh();
    await next;
  }
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(TOKEN_KEY, byId("token").value);
  byId("token").value = "";
  refresh();
});

run();

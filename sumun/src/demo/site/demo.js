"use strict";

// Asks the gateway again and again, and shows which of the two servers answered.

const DOTS_MAX = 160;
const counts = { east: 0, west: 0, failed: 0 };
const stream = document.getElementById("stream");
const note = document.getElementById("note");
const more = document.getElementById("more");
const crash = document.getElementById("crash");

function show(name) {
  counts[name] += 1;
  const card = document.getElementById(name);
  card.querySelector(".count").textContent = counts[name];
  if (name === "failed") {
    card.classList.add("some");
  } else {
    card.querySelector(".state").innerHTML = 'answers <span lang="ko">응답 중</span>';
  }
  const dot = document.createElement("li");
  dot.className = name;
  dot.title = name;
  stream.append(dot);
  while (stream.children.length > DOTS_MAX) {
    stream.firstChild.remove();
  }
}

async function ask() {
  try {
    const answer = await fetch("/api/hello", { cache: "no-store" });
    const { server } = await answer.json();
    show(answer.ok && server in counts ? server : "failed");
  } catch {
    show("failed");
  }
}

const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

async function askTimes(times, milliseconds) {
  for (let count = 0; count < times; count += 1) {
    await ask();
    await pause(milliseconds);
  }
}

function setBusy(busy) {
  more.disabled = busy;
  crash.disabled = busy;
}

more.addEventListener("click", async () => {
  setBusy(true);
  await askTimes(40, 50);
  setBusy(false);
});

crash.addEventListener("click", async () => {
  setBusy(true);
  try {
    const answer = await fetch("/api/crash", { method: "POST" });
    const text = await answer.text();
    note.textContent = answer.ok ? text : "no server was there to crash";
    const victim = answer.headers.get("Server");
    const state = document.querySelector(`#${victim === "east" ? "east" : "west"} .state`);
    state.innerHTML = 'gone <span lang="ko">중단</span>';
  } catch {
    note.textContent = "the gateway did not answer";
  }
  await askTimes(60, 120);
  note.innerHTML = 'It is back, and no request was lost. <span lang="ko">서버가 돌아왔고, 잃어버린 요청은 없습니다.</span>';
  if (counts.failed > 0) {
    note.textContent = "Some requests failed; the admin page and the log say why.";
  }
  setBusy(false);
});

askTimes(24, 60);

"use strict";
const test = JSON.parse(document.getElementById("test").textContent);
const page = document.getElementById("page");
const single = test.sounds[0].length === 1;
const names = single ? [""] : ["A", "B"];
let state = null;    // what the answers' file will hold
let shown = null;    // the item on the screen
let urls = [];

function make(tag, attributes, ...content) {
  const node = document.createElement(tag);
  Object.assign(node, attributes);
  node.append(...content);
  return node;
}

// A page that was closed goes on where it was, if this browser keeps anything for local files.
const place = (rater) => `listening-test ${test.digest} ${rater}`;
function keep() { try { localStorage.setItem(place(state.rater), JSON.stringify(state)); } catch (error) { /* goes on without */ } }
function kept(rater) { try { return JSON.parse(localStorage.getItem(place(rater))); } catch (error) { return null; } }

document.getElementById("begin").addEventListener("submit", (event) => {
  event.preventDefault();
  const rater = document.getElementById("rater").value.trim();
  if (!rater) return;
  const fresh = { format: "audiolm listening answers 1", page: test.digest, rater, started: new Date().toISOString(), finished: null, answers: [] };
  state = kept(rater) || fresh;
  next();
});

function soundUrl(base64) {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], { type: "audio/flac" }));
  urls.push(url);
  return url;
}

function sound(base64, side) {
  const audio = new Audio(soundUrl(base64));
  audio.preload = "auto";
  const key = single ? "space" : side === 0 ? "←" : "→";
  const label = make("span", { textContent: `▶ Play ${names[side]}` });
  const button = make("button", { type: "button", onclick: () => play(side) }, label, make("kbd", {}, key));
  const bar = make("progress", { max: 1, value: 0 });
  bar.setAttribute("aria-label", `position in recording ${names[side]}`);
  const one = { audio, box: make("div", { className: "sound" }, button, bar), heard: false, plays: 0 };
  const say = () => { label.textContent = `${audio.paused ? "▶ Play" : "❚❚ Pause"} ${names[side]}`; };
  audio.addEventListener("play", say);
  audio.addEventListener("pause", say);
  audio.addEventListener("timeupdate", () => { bar.value = audio.duration ? audio.currentTime / audio.duration : 0; });
  audio.addEventListener("ended", () => { one.heard = true; bar.value = 1; say(); refresh(); });
  audio.addEventListener("error", () => { shown.hint.textContent = "This browser cannot play the recording (FLAC). Please take a current Firefox, Chrome, Edge or Safari."; });
  return one;
}

function play(side) {
  shown.sounds.forEach((one, other) => { if (other !== side) one.audio.pause(); });
  const one = shown.sounds[side];
  shown.last = side;
  if (!one.audio.paused) { one.audio.pause(); return; }
  if (one.audio.ended || one.audio.currentTime === 0) { one.audio.currentTime = 0; one.plays += 1; }
  one.audio.play();
}

function next() {
  if (shown) shown.sounds.forEach((one) => one.audio.pause());
  urls.forEach((url) => URL.revokeObjectURL(url));
  urls = [];
  const index = state.answers.length, total = test.sounds.length;
  if (index === total) { finish(); return; }
  shown = { index, sounds: [], last: null, chosen: null, since: performance.now() };
  shown.sounds = test.sounds[index].map(sound);
  shown.buttons = test.codes.map((code, side) =>
    make("button", { type: "button", onclick: () => choose(side) }, test.labels[side], make("kbd", {}, test.keys[side])));
  shown.next = make("button", { type: "button", className: "main", onclick: confirmed }, "Next", make("kbd", {}, "Enter"));
  shown.hint = make("span", { className: "soft" });
  shown.hint.setAttribute("aria-live", "polite");
  const trial = index < test.trials ? " · trial, not counted" : "";
  const bar = make("progress", { max: total, value: index });
  bar.setAttribute("aria-label", "items done");
  page.replaceChildren(
    make("div", { className: "count soft" }, make("span", {}, `${index + 1} of ${total}${trial}`), make("span", {}, state.rater)),
    bar,
    make("h2", {}, test.question),
    make("div", { className: "sounds" }, ...shown.sounds.map((one) => one.box)),
    make("div", { className: "choices" }, ...shown.buttons),
    make("div", { className: "row" }, shown.hint, shown.next));
  refresh();
}

function refresh() {
  const heard = shown.sounds.every((one) => one.heard);
  shown.buttons.forEach((button, side) => {
    button.disabled = !heard;
    button.setAttribute("aria-pressed", String(shown.chosen === side));
  });
  shown.next.disabled = shown.chosen === null;
  shown.hint.textContent = heard ? (shown.chosen === null ? "Choose one." : "") : `Hear ${single ? "it" : "both"} to the end to answer.`;
}

function choose(side) {
  if (!shown.sounds.every((one) => one.heard)) return;
  shown.chosen = side;
  refresh();
}

function confirmed() {
  if (shown.chosen === null) return;
  const seconds = Math.round((performance.now() - shown.since) / 100) / 10;
  const plays = shown.sounds.map((one) => one.plays);
  state.answers.push({ item: shown.index + 1, answer: test.codes[shown.chosen], seconds, plays });
  if (state.answers.length === test.sounds.length) state.finished = new Date().toISOString();
  keep();
  next();
}

function finish() {
  shown = null;
  const text = JSON.stringify(state, null, 2) + "\n";
  const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  const file = `answers-${state.rater.replace(/[^\p{L}\p{N}_-]+/gu, "_")}.json`;
  const link = make("a", { href, download: file });
  const button = make("button", { type: "button", className: "main", onclick: () => link.click() }, "Save the answers");
  page.replaceChildren(
    make("h1", {}, "Done. Thank you!"),
    make("p", {}, `All ${state.answers.length} answers of ${state.rater} are in the file ${file}. Please send it to whoever gave you this page; nothing was sent by the page itself.`),
    button, link);
  button.focus();
}

document.addEventListener("keydown", (event) => {
  if (!shown || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const choice = test.keys.indexOf(event.key.toUpperCase());
  if (event.key === " ") {
    const unheard = shown.sounds.findIndex((one) => !one.heard);
    const playing = shown.sounds.findIndex((one) => !one.audio.paused);
    play(playing >= 0 ? playing : shown.last !== null && !shown.sounds[shown.last].heard ? shown.last : unheard >= 0 ? unheard : shown.last ?? 0);
  } else if (!single && event.key === "ArrowLeft") play(0);
  else if (!single && event.key === "ArrowRight") play(1);
  else if (choice >= 0) choose(choice);
  else if (event.key === "Enter") confirmed();
  else return;
  event.preventDefault();
});

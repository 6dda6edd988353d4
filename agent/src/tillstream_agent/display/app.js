"use strict";

// Keeps the page as the agent's board is, and sends what is pressed. When the agent is not heard, the page is emptied:
// the customer it was about may have left.

const RETRY_MS = 2000;
const SAID_MS = 3000;
// Keys that follow each other faster come from a scanner, which types like a keyboard.
const BURST_MS = 80;
// What came up under the finger a moment ago was not what the finger was meant for, and a second press so soon after the
// first was not meant for what has taken its place.
const UNSEEN_MS = 300;
const MODIFIERS = new Set(["Shift", "Control", "Alt", "AltGraph", "Meta", "CapsLock"]);
const KEYS = "tillstream-keys";

const page = document.body;
const offline = document.querySelector("#offline > span");
const said = document.getElementById("said");
const keys = document.getElementById("keys");

document.documentElement.classList.add("scripted");

// What is shown

let shown = {
  run: page.dataset.run,
  basket: page.dataset.basket,
  member: page.dataset.member,
  sequence: Number(page.dataset.sequence),
};
const arrivals = new WeakMap();
let listening = null;
let falling = 0;

function isSameCustomer(one) {
  return one.run === shown.run && one.basket === shown.basket && one.member === shown.member;
}

function controls(node) {
  return Array.from(node.querySelectorAll("button, input:not([type=hidden])"));
}

// Puts the pieces of `html` into a part of the page. A piece that is there already stays the same node, and so keeps
// what is typed into it, and the focus.
function fill(part, html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  const old = new Map(Array.from(part.children, (node) => [node.dataset.key, node]));
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const held = focused && focused.closest("[data-key]");
  const wanted = Array.from(template.content.children, (node) => {
    const before = old.get(node.dataset.key);
    return before && before.isEqualNode(node) ? before : node;
  });
  for (const node of Array.from(part.children)) if (!wanted.includes(node)) node.remove();
  wanted.forEach((node, index) => {
    if (part.children[index] === node) return;
    if (!node.isConnected) arrivals.set(node, performance.now());
    part.insertBefore(node, part.children[index] ?? null);
  });
  if (held && !held.isConnected) refocus(part, held.dataset.key, controls(held).indexOf(focused));
}

// Nobody who works by keyboard is sent back to the start of the page because what they were at has gone; but they are
// not sent to another button either, which the key that is still down would press.
function refocus(part, key, index) {
  const again = Array.from(part.children).find((node) => node.dataset.key === key);
  const control = again ? controls(again)[index] : null;
  (control ?? document.querySelector("main")).focus({ preventScroll: true });
}

function show(board, fresh) {
  if (!fresh && (board.run !== shown.run || board.sequence < shown.sequence)) return;
  if (!isSameCustomer(board)) say("");
  const { run, basket, member, sequence } = board;
  shown = { run, basket, member, sequence };
  Object.assign(page.dataset, { run, basket, member, sequence });
  for (const [id, html] of Object.entries(board.html)) fill(document.getElementById(id), html);
  offline.hidden = board.online;
}

function empty() {
  const html = { member: "", prompt: "", offers: "" };
  show({ ...shown, basket: "", member: "", online: false, html }, true);
}

function listen() {
  const stream = new EventSource("/display/stream" + location.search);
  let fresh = true;
  listening = stream;
  stream.addEventListener("board", (event) => {
    if (stream !== listening) return;
    show(JSON.parse(event.data), fresh);
    fresh = false;
  });
  stream.addEventListener("error", () => {
    stream.close();
    if (stream !== listening) return;
    listening = null;
    empty();
    setTimeout(returnTo, RETRY_MS);
  });
}

// A screen whose pairing has ended is shown what to do.
async function returnTo() {
  try {
    if ((await fetch("/display")).status === 401) return location.reload();
  } catch {
    // The agent is not there yet.
  }
  listen();
}

// What is pressed

let pressed = -Infinity;

function isMeant(event) {
  const now = performance.now();
  const soon = now - pressed < UNSEEN_MS;
  const held = event.target.closest("[data-key]");
  if (soon || now - (arrivals.get(held) ?? -Infinity) < UNSEEN_MS) return false;
  pressed = now;
  return true;
}

function say(text) {
  clearTimeout(falling);
  said.textContent = text;
  if (text) falling = setTimeout(() => say(""), SAID_MS);
}

async function send(address, fields) {
  const before = shown;
  const body = JSON.stringify({ ...fields, run: before.run, sequence: before.sequence });
  let text = said.dataset.refused;
  try {
    const reply = await fetch(address, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    if (reply.ok && isSameCustomer(await reply.json())) text = said.dataset.noted;
  } catch {
    // The agent is not heard: the stream says so as well.
  }
  const isQuiet = address === "/display/dismissed" && text === said.dataset.noted;
  if (isSameCustomer(before) && !isQuiet) say(text);
}

document.addEventListener("submit", (event) => {
  event.preventDefault();
  const button = event.submitter;
  if (button?.getAttribute("aria-disabled") === "true" || !isMeant(event)) return;
  const fields = Object.fromEntries(new FormData(event.target, button));
  delete fields.token;
  delete fields.screen;
  send(button?.getAttribute("formaction") ?? event.target.getAttribute("action"), fields);
});

// Which keys are pressed

let wait = 0;
let last = -Infinity;

function remembered() {
  try {
    return localStorage.getItem(KEYS) !== "off";
  } catch {
    return true; // an iframe may have no memory
  }
}

function useKeys(on) {
  keys.setAttribute("aria-pressed", String(on));
  page.classList.toggle("keyless", !on);
  try {
    localStorage.setItem(KEYS, on ? "on" : "off");
  } catch {
    // Then it holds until the page is loaded again.
  }
}

function press(selector, number = 0) {
  document.querySelectorAll(selector)[number]?.click();
}

function isTyping(target) {
  return target instanceof HTMLInputElement;
}

document.addEventListener("keydown", (event) => {
  if (MODIFIERS.has(event.key)) return;
  const burst = event.timeStamp - last < BURST_MS;
  last = event.timeStamp;
  clearTimeout(wait);
  const isPress = event.key === "Enter" || event.key === " ";
  if ((burst || event.repeat) && isPress && !isTyping(event.target)) event.preventDefault();
  if (burst || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (keys.getAttribute("aria-pressed") !== "true" || page.classList.contains("customer")) return;
  if (event.key === "Escape") press("#prompt .away, #offers .away");
  const digit = /^(?:Digit|Numpad)([1-3])$/.exec(event.code);
  if (!digit || isTyping(event.target)) return;
  const selector = event.shiftKey ? "#offers .decline" : "#offers .accept";
  const [customer, number] = [shown, Number(digit[1]) - 1];
  wait = setTimeout(() => {
    if (isSameCustomer(customer)) press(selector, number);
  }, BURST_MS);
});

keys.addEventListener("click", () => useKeys(keys.getAttribute("aria-pressed") !== "true"));

useKeys(remembered());
listen();

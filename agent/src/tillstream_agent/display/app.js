"use strict";

// Keeps the strip as the agent's board is. When the agent is not heard, the strip is emptied: the customer it was
// about may have left.

const RETRY_MS = 2000;
const strip = document.getElementById("strip");
const offline = document.getElementById("offline");

function paragraph(text, className) {
  const element = document.createElement("p");
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function card(offer) {
  const element = document.createElement("article");
  element.dataset.offer = offer.offer;
  const title = document.createElement("h1");
  title.textContent = offer.title;
  element.append(title, ...offer.details.map((text) => paragraph(text)), paragraph(offer.reason, "reason"));
  return element;
}

function show(board) {
  const before = Array.from(strip.children, (element) => element.dataset.offer).join();
  const now = board.offers.map((offer) => offer.offer).join();
  if (before !== now) strip.replaceChildren(...board.offers.map(card));
  offline.hidden = board.online;
}

function listen() {
  const stream = new EventSource("/display/stream");
  stream.addEventListener("board", (event) => show(JSON.parse(event.data)));
  stream.addEventListener("error", () => {
    stream.close();
    show({ online: false, offers: [] });
    setTimeout(listen, RETRY_MS);
  });
}

listen();

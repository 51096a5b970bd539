// Pages that a link opened: go blank at once when the patient stops it.
// Everything here is an improvement only: without script the next request is refused.
"use strict";

const main = document.getElementById("main");

function blank() {
  document.body.replaceChildren();
  document.title = "Ended";
  window.location.replace(window.location.href);
}

if (main && main.dataset.events && "EventSource" in window) {
  const stream = new EventSource(main.dataset.events);
  stream.addEventListener("ended", () => {
    stream.close();
    blank();
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) blank(); // kept by the browser: it may be over by now
  });
}

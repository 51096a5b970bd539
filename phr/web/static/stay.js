// Before a page is left it is asked whether the server answers. If not, the page stays, with all
// that was typed: a browser's own error page would lose it.
"use strict";

const alive = document.currentScript.src.replace(/\/static\/.*$/, "/healthz");
const NOBODY = "The server does not answer just now. Nothing was sent; what you typed is still here.";
let sure = false; // that it answered: the step goes on by itself

async function onlyIfAlive(event, go) {
  if (sure || event.defaultPrevented) return;
  event.preventDefault();
  try {
    const answer = await fetch(alive, { method: "HEAD", cache: "no-store" });
    if ([502, 503, 504].includes(answer.status)) throw new Error("only the proxy answers");
    sure = true;
    go();
    sure = false;
  } catch {
    sayNobodyAnswers(go);
  }
}

function sayNobodyAnswers(go) {
  document.getElementById("silent")?.remove();
  const note = document.createElement("section");
  note.id = "silent";
  note.className = "note alert tools";
  note.setAttribute("role", "alert");
  note.tabIndex = -1;
  const words = document.createElement("p");
  words.textContent = NOBODY;
  const again = document.createElement("button");
  again.type = "button";
  again.textContent = "Try again";
  again.addEventListener("click", (event) => { note.remove(); onlyIfAlive(event, go); });
  note.append(words, again);
  document.getElementById("main").prepend(note);
  note.focus();
}

document.addEventListener("submit", (event) => {
  const form = event.target;
  onlyIfAlive(event, () => form.requestSubmit(event.submitter));
});
document.addEventListener("click", (event) => {
  const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
  const other = event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey;
  if (!link || other || link.target || link.hasAttribute("download")) return;
  const there = new URL(link.href);
  if (there.origin !== location.origin || there.hash) return;
  onlyIfAlive(event, () => { location.href = link.href; });
});

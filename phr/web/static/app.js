// Improves pages that already work without it: focus after htmx swaps, copy, print, live reload.
"use strict";

// After a swap that replaces a view, the heading is read out and keyboard focus starts there.
document.addEventListener("htmx:after:swap", (event) => {
  const place = event.target instanceof Element ? event.target : document;
  const head = place.querySelector("[data-focus], h1[tabindex]");
  if (head) head.focus();
});

// What was wrong with a form is where focus goes when the page opens.
const problem = document.getElementById("problem");
if (problem) problem.focus();

// <button type="button" data-copy="id of a field">: the style sheet shows it only where script runs.
for (const button of document.querySelectorAll("[data-copy]")) {
  const field = document.getElementById(button.dataset.copy);
  if (!field) continue;
  button.addEventListener("click", async () => {
    field.select();
    let done = true;
    try {
      await navigator.clipboard.writeText(field.value); // needs https; the selection stays anyway
    } catch {
      done = document.execCommand("copy");
    }
    const status = document.getElementById("status");
    if (status) status.textContent = done ? "Copied." : "Selected: copy it with your keyboard.";
  });
}

// <button type="button" data-print>: the style sheet shows it only where script runs.
for (const button of document.querySelectorAll("[data-print]")) {
  button.addEventListener("click", () => window.print());
}

// <p data-live="address of an event stream">: "progress" replaces its text, "done" and "gone"
// reload the page, which then shows or hides what the server says.
for (const place of document.querySelectorAll("[data-live]")) {
  const stream = new EventSource(place.dataset.live);
  stream.addEventListener("progress", (event) => { place.textContent = event.data; });
  for (const end of ["done", "gone"]) {
    stream.addEventListener(end, () => { stream.close(); location.reload(); });
  }
}

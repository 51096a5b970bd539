// Hits while one types. Without this file the form works as it is: one request, one page.
"use strict";
(() => {
  const form = document.querySelector("form[data-hits]");
  const field = form.querySelector("input");
  const place = document.getElementById("hits");
  let waiting = 0;
  let asked = null;

  const show = async () => {
    asked?.abort();
    asked = new AbortController();
    const { signal } = asked;
    try {
      // In the body: an address would be kept by the browser and by every proxy on the way.
      const body = new URLSearchParams({ q: field.value });
      const answer = await fetch(form.dataset.hits, { method: "POST", body, signal });
      if (!answer.ok) return;
      const text = await answer.text();
      if (signal.aborted) return;
      const parsed = new DOMParser().parseFromString(text, "text/html");
      place.replaceChildren(...parsed.body.childNodes);
    } catch (error) {
      if (error.name !== "AbortError") place.replaceChildren();
    }
  };

  field.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(show, 90);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    show();
  });
})();

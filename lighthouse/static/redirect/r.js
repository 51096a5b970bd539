// Leads a browser home. Where to is a seal inside `state`, made when the sign-in began; nothing else
// in the address can change it, and nothing is sent anywhere but there.
"use strict";

const PRIVATE = /(^|\.)(localhost|local|lan|home|internal|arpa)$|^[^.]+$|^127\.|^10\.|^192\.168\.|^172\.(1[6-9]|2\d|3[01])\.|^\[/;

const bytes = (text) =>
  Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (raw) =>
  btoa(String.fromCharCode(...new Uint8Array(raw))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");

async function home(given) {
  const [mark, seal] = (new URLSearchParams(given).get("state") || "").split("~");
  const [body, signature] = (seal || "").split(".");
  const { x, y } = document.body.dataset;
  const named = { name: "ECDSA", namedCurve: "P-256" };
  const key = await crypto.subtle.importKey("jwk", { kty: "EC", crv: "P-256", x, y }, named, false, ["verify"]);
  const how = { name: "ECDSA", hash: "SHA-256" };
  const right = await crypto.subtle.verify(how, key, bytes(signature), new TextEncoder().encode(body));
  if (!right) throw new Error("seal");
  const said = JSON.parse(new TextDecoder().decode(bytes(body)));
  const hash = text(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(mark)));
  if (hash !== said.h || said.exp * 1000 < Date.now()) throw new Error("seal");
  const to = new URL(said.to);
  if (to.protocol !== "https:" && to.protocol !== "http:") throw new Error("seal");
  return to;
}

async function lead() {
  const given = (location.search.length > 1 ? location.search : location.hash).slice(1);
  let to;
  try {
    to = await home(given);
  } catch {
    document.getElementById("told").textContent =
      "This address is not complete, too old, or was made by somebody else. Please begin again at your Homeport.";
    return;
  }
  const go = () => location.replace(`${to.href}?${given}`);
  if (PRIVATE.test(to.hostname)) return go();
  document.getElementById("host").textContent = to.host;
  document.getElementById("where").hidden = false;
  const button = document.getElementById("go");
  button.hidden = false;
  button.addEventListener("click", go);
  button.focus();
}

lead();

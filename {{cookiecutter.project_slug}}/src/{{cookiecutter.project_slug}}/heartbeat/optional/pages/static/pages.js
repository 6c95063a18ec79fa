// Updates pages, adds keys and copy buttons. Every page works without it.
"use strict";

const EVERY = 5000;
const KEYS = { t: "today", f: "flows", r: "runs", b: "beats" };
let last = "";

const isBusy = () =>
  document.hidden ||
  document.querySelector("details[open][data-menu], dialog[open]") ||
  document.querySelector("[data-live] :checked") ||
  (document.activeElement || document.body).closest("form, [data-menu]") ||
  String(getSelection());

async function update() {
  if (isBusy()) return;
  const headers = { Accept: "text/html", "X-Live": "1" };
  const reply = await fetch(location.href, { headers });
  if (reply.redirected) return location.reload(); // the session has ended
  if (!reply.ok || isBusy()) return;
  const fresh = new DOMParser().parseFromString(await reply.text(), "text/html");
  for (const region of document.querySelectorAll("[data-live]")) {
    const twin = fresh.querySelector(`[data-live="${region.dataset.live}"]`);
    if (!twin || twin.innerHTML === region.innerHTML) continue;
    const href = region.contains(document.activeElement) && document.activeElement.href;
    region.replaceChildren(...twin.childNodes);
    if (href) [...region.querySelectorAll("a")].find((a) => a.href === href)?.focus();
  }
}

if (document.querySelector("main [data-live]")) setInterval(() => update().catch(() => {}), EVERY);

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select")) return;
  const search = document.querySelector("[type=search]");
  if (event.key === "/" && search) {
    event.preventDefault();
    search.focus();
  } else if (event.key === "?") {
    document.querySelector("footer")?.scrollIntoView();
  } else if (last === "g" && KEYS[event.key]) {
    location.href = `${document.body.dataset.prefix}/${KEYS[event.key]}`;
  }
  last = event.key;
});

addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
  button.textContent = "Copied";
});

"use strict";
// The iteration that the user has chosen; null follows the newest.
let chosen = null;
let playing = null;

function slides() {
  const box = document.querySelector(".slides");
  const images = box ? [...box.querySelectorAll("img")] : [];
  if (images.length < 2) return;
  const [input, output, button] = ["input", "output", "button"].map((name) => box.querySelector(name));
  const last = images.length - 1;
  const iteration = (index) => Number(images[index].dataset.iteration);
  const show = (index) => {
    images.forEach((image, other) => { image.hidden = other !== index; });
    input.value = index;
    output.textContent = box.dataset.unit + " " + iteration(index);
  };
  const choose = (index) => {
    show(index);
    chosen = index === last ? null : iteration(index);
  };
  input.max = last;
  box.querySelector(".slider").hidden = false;
  // Some grids of a long run are omitted, and which ones changes as it continues: show the nearest one.
  const distance = (index) => Math.abs(iteration(index) - (chosen ?? Infinity));
  show(images.reduce((best, _, index) => (distance(index) < distance(best) ? index : best), last));
  const stop = () => {
    clearInterval(playing);
    playing = null;
    button.textContent = "▶";
  };
  const play = () => {
    button.textContent = "❚❚";
    playing = setInterval(() => choose((Number(input.value) + 1) % images.length), 600);
  };
  input.addEventListener("input", () => { stop(); choose(Number(input.value)); });
  button.addEventListener("click", () => { if (playing) { stop(); } else { play(); } });
  if (playing) { stop(); play(); }
}

// The elements that can have the focus, and an identity that survives when their part is replaced.
const reachable = (part) => [...part.querySelectorAll("a, button, input")];
const identity = (element) => element.localName + (element.getAttribute("href") ?? element.getAttribute("value"));

// The source of each part of the page, before the script changed it.
const sources = new Map([...document.querySelectorAll("[data-part]")].map((part) => [part.id, part.outerHTML]));
slides();

// Pages of the dashboard check for updates every two seconds, and replace the parts that differ.
if ("live" in document.body.dataset) {
  let tag = null;
  const follow = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
      if (answer.status !== 200) return;
      const text = await answer.text();
      // Do not replace anything while the mouse button is down; the next update will.
      if (document.querySelector(":active")) return;
      const page = new DOMParser().parseFromString(text, "text/html");
      for (const part of page.querySelectorAll("[data-part]")) {
        const old = document.getElementById(part.id);
        const source = part.outerHTML;
        if (!old || sources.get(part.id) === source) continue;
        sources.set(part.id, source);
        const ticked = new Map([...old.querySelectorAll("input[name]")].map((box) => [box.value, box.checked]));
        const focused = reachable(old).find((element) => element === document.activeElement);
        old.replaceWith(part);
        for (const box of part.querySelectorAll("input[name]")) {
          if (ticked.has(box.value)) box.checked = ticked.get(box.value);
        }
        if (part.querySelector(".slides")) slides();
        const again = focused && reachable(part).find((element) => identity(element) === identity(focused));
        again?.focus({ preventScroll: true });
      }
      document.title = page.title;
      tag = answer.headers.get("ETag");
    } catch { /* The dashboard has ended, or is busy: keep the page. */ }
  };
  follow();
  setInterval(follow, 2000);
  document.addEventListener("visibilitychange", follow);
}

"use strict";
// The grid that is shown, by its iteration; null follows the newest.
let shown = null;
let playing = null;

function slides() {
  const box = document.querySelector(".slides");
  const images = box ? [...box.querySelectorAll("img")] : [];
  if (images.length < 2) return;
  const [input, output, button] = ["input", "output", "button"].map((name) => box.querySelector(name));
  const last = images.length - 1;
  const show = (index) => {
    images.forEach((image, other) => { image.hidden = other !== index; });
    input.value = index;
    output.textContent = box.dataset.unit + " " + images[index].dataset.iteration;
    shown = index === last ? null : images[index].dataset.iteration;
  };
  input.max = last;
  box.querySelector(".slider").hidden = false;
  const at = images.findIndex((image) => image.dataset.iteration === shown);
  show(at < 0 ? last : at);
  const stop = () => {
    clearInterval(playing);
    playing = null;
    button.textContent = "▶";
  };
  const play = () => {
    button.textContent = "❚❚";
    playing = setInterval(() => show((Number(input.value) + 1) % images.length), 600);
  };
  input.addEventListener("input", () => { stop(); show(Number(input.value)); });
  button.addEventListener("click", () => { if (playing) { stop(); } else { play(); } });
  if (playing) { stop(); play(); }
}

// How each part of the page was written, before anything moved.
const sources = new Map([...document.querySelectorAll("[data-part]")].map((part) => [part.id, part.outerHTML]));
slides();

// The dashboard's pages ask every two seconds whether there is something new, and take over the parts that differ.
if ("live" in document.body.dataset) {
  let tag = null;
  const follow = async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(location.href, { cache: "no-store", headers: tag ? { "If-None-Match": tag } : {} });
      if (answer.status !== 200) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of page.querySelectorAll("[data-part]")) {
        const old = document.getElementById(part.id);
        const source = part.outerHTML;
        if (!old || sources.get(part.id) === source) continue;
        sources.set(part.id, source);
        const ticked = new Map([...old.querySelectorAll("input[name]")].map((box) => [box.value, box.checked]));
        old.replaceWith(part);
        for (const box of part.querySelectorAll("input[name]")) {
          if (ticked.has(box.value)) box.checked = ticked.get(box.value);
        }
        if (part.querySelector(".slides")) slides();
      }
      document.title = page.title;
      tag = answer.headers.get("ETag");
    } catch { /* The dashboard has ended, or is busy: the page stays as it is. */ }
  };
  follow();
  setInterval(follow, 2000);
  document.addEventListener("visibilitychange", follow);
}

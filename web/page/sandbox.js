// The visitor's reward, in the sandboxed frame of the page: see sandbox.html.

const LIMIT = 2000; // milliseconds for a batch of images
let number = 0;
const waiting = new Map();

addEventListener("message", ({ data, source }) => {
  if (source !== document.getElementById("sandbox").contentWindow) return;
  const answer = waiting.get(data.id);
  waiting.delete(data.id);
  answer?.(data);
});

// The score of each image, as a Float64Array.
export function scoreInSandbox(code, images, labels, shape, names) {
  const id = ++number;
  return new Promise((resolve, reject) => {
    // The frame itself may hang or be missing.
    const timer = setTimeout(() => {
      waiting.delete(id);
      reject(new Error("the sandbox does not answer"));
    }, 2 * LIMIT);
    waiting.set(id, ({ scores, error }) => {
      clearTimeout(timer);
      if (error === undefined) resolve(scores);
      else reject(new Error(error));
    });
    document.getElementById("sandbox").contentWindow.postMessage({ id, code, images, labels, shape, names, limit: LIMIT }, "*");
  });
}

// Drives the page in Debian's Chromium on its software GPU, SwiftShader, and compares it with the native program on the
// same driver. `.ci/web-test` installs what this needs and calls it:
//   node web/tests/page.mjs PROGRAM PLAYWRIGHT OUT
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import { createServer } from "node:net";
import { join, resolve } from "node:path";

const [program, playwright, out] = process.argv.slice(2).map((path) => resolve(path));
const { chromium } = createRequire(join(playwright, "package.json"))("playwright-core");

// How far a number of the browser may be from the native one, relative to it. On one driver they have been equal to the
// bit; but the browser translates shaders itself, and another version may contract products and sums differently.
const TOLERANCE = 1e-5;

const native = (config, iterations) => {
  const run = join(out, `native-${config}`);
  rmSync(run, { recursive: true, force: true });
  const settings = [`train.iterations=${iterations}`, "eval.every=0", "eval.count=2", "eval.steps=1", "preview.every=0", "preview.per_class=1"].flatMap((it) => ["--set", it]);
  execFileSync(program, ["train", "-q", "--config", `configs/${config}/train.toml`, ...settings, "--out", run], { stdio: ["ignore", "ignore", "inherit"] });
  const lines = readFileSync(join(run, "metrics.jsonl"), "utf8").trim().split("\n").map((line) => JSON.parse(line));
  return lines.filter((line) => line.reward_mean !== undefined && line.iteration > 0);
};

function close(found, expected, what) {
  for (const key of ["reward_mean", "reward_std"]) {
    const [a, b] = [found.line[key], expected[key]];
    console.log(`${what}: ${key} ${a} in the browser, ${b} native, ${Math.abs(a / b - 1).toExponential(1)} apart`);
    assert.ok(Math.abs(a - b) <= TOLERANCE * Math.abs(b), `${what}: ${key}`);
  }
  assert.deepEqual(found.on_policy, [0, 0], `${what}: the first update is on-policy to the bit`);
}

rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const server = spawn(program, ["web", "--listen", "127.0.0.1:0"], { stdio: ["ignore", "pipe", "inherit"] });
let browser;
try {
  const address = await new Promise((found) => server.stdout.on("data", (text) => found(String(text).trim().split("\n")[0])));
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
      "--disable-sync", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan"],
  });
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.setDefaultTimeout(60_000);
  const problems = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  const ready = () => page.waitForFunction(() => !document.getElementById("start").disabled);
  const message = () => page.textContent("#message");
  const history = () => page.evaluate(() => globalThis.flowdppo.history);
  const step = async () => {
    const before = (await history()).length;
    await page.click("#step");
    await page.waitForFunction((count) => globalThis.flowdppo.history.length > count, before);
    // The samples are drawn after that.
    await page.evaluate(() => globalThis.flowdppo.inTurn(() => {}));
  };
  await page.goto(address);
  await ready();

  // Three iterations of rings, one of digits: the same as native.
  const rings = native("rings", 3);
  for (let index = 0; index < 3; index++) await step();
  (await history()).forEach((found, index) => close(found, rings[index], `rings, iteration ${index + 1}`));
  assert.notEqual(await page.textContent("#before_reward"), await page.textContent("#now_reward"));
  await page.screenshot({ path: join(out, "rings.png"), fullPage: true });

  // The downloaded model is one of the program.
  const [download] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
  const file = join(out, "rings-tuned.safetensors");
  await download.saveAs(file);
  const text = execFileSync(program, ["inspect", file], { encoding: "utf8" });
  assert.match(text, /49,?570/, text);
  execFileSync(program, ["sample", "--model", file, "--count", "2", "--out", join(out, "rings-tuned.png")], { stdio: "ignore" });

  // It can be opened here, too, and what is no model is refused while the page goes on.
  await page.setInputFiles("#file", file);
  await page.waitForFunction(() => globalThis.flowdppo.history.length === 0);
  await ready();
  assert.equal(await message(), "");
  await page.setInputFiles("#file", { name: "notes.safetensors", mimeType: "text/plain", buffer: Buffer.from("no model") });
  await page.waitForFunction(() => !document.getElementById("message").hidden);
  await ready();
  console.log(`what is no model: ${await message()}`);

  // A reward of one's own; then ones that throw, that return nonsense, that hang and that want the network.
  let connections = 0;
  const listener = createServer((socket) => {
    connections++;
    socket.destroy();
  }).listen(0, "127.0.0.1");
  await once(listener, "listening");
  const elsewhere = `127.0.0.1:${listener.address().port}`;
  const own = async (code) => {
    await page.selectOption("#reward", "custom");
    await page.fill("#code", code);
    await page.click("#use");
    await page.evaluate(() => globalThis.flowdppo.inTurn(() => {}));
  };
  await own("return image[0];");
  await page.waitForFunction(() => globalThis.flowdppo.settings.reward === "custom");
  await step();
  assert.ok((await history()).at(-1).line.reward_mean < 0.5, "the mean of a coordinate");
  for (const [code, says] of [
    ["throw new Error('on purpose');", "on purpose"],
    ["return 'much';", "not a finite number"],
    ["for (;;) {}", "took more than 2 seconds"],
    ["return importScripts('https://example.org/reward.js');", "importScripts"],
    [`const it = new XMLHttpRequest(); it.open("GET", "http://${elsewhere}/", false); it.send(); return 1;`, "XMLHttpRequest"],
  ]) {
    await page.evaluate(() => (document.getElementById("message").textContent = ""));
    await own(code);
    await page.waitForFunction((says) => document.getElementById("message").textContent.includes(says), says);
    console.log(`a reward that fails: ${await message()}`);
    await step();
  }
  await own(`fetch("http://${elsewhere}/", { mode: "no-cors" }).catch(() => {});
    try { new WebSocket("ws://${elsewhere}"); } catch {}
    return 0.25;`);
  await page.waitForFunction(() => globalThis.flowdppo.settings.reward === "custom");
  await step();
  assert.equal((await history()).at(-1).line.reward_mean, 0.25);
  assert.equal(connections, 0, "a reward reached the network");
  // The browser does reach it otherwise.
  await (await browser.newPage()).goto(`http://${elsewhere}/`).catch(() => {});
  assert.ok(connections > 0, "the listener does not work");
  listener.close();

  console.log(`after ${process.uptime().toFixed(0)} s: a device that is lost is opened again`);
  const count = (await history()).length;
  await page.evaluate(() => globalThis.flowdppo.inTurn(() => globalThis.flowdppo.session.loseDevice()));
  await page.click("#step");
  await page.waitForFunction(() => document.getElementById("message").textContent.includes("was lost"));
  await page.evaluate(() => globalThis.flowdppo.inTurn(() => {}));
  await step();
  // It goes on from a copy, with the iteration that was asked for and one more.
  assert.ok((await history()).length <= count + 2);

  console.log(`after ${process.uptime().toFixed(0)} s: the other controls, by keyboard, and a run that is started and paused`);
  await page.selectOption("#method", "flow-grpo");
  await page.waitForFunction(() => globalThis.flowdppo.settings.method === "flow-grpo");
  assert.ok(await page.isVisible("#clip") && !(await page.isVisible("#kl_mask_threshold")));
  const rate = await page.evaluate(() => globalThis.flowdppo.settings.learning_rate);
  await page.focus("#learning_rate");
  await page.keyboard.press("ArrowRight");
  await page.waitForFunction((rate) => globalThis.flowdppo.settings.learning_rate > rate, rate);
  // Meanwhile a reward that fails and two other settings: the run goes on with both.
  const grows = async (more) =>
    page.waitForFunction((count) => globalThis.flowdppo.history.length >= count, (await history()).length + more);
  await page.click("#start");
  await own("throw new Error('while it runs');");
  await page.waitForFunction(() => document.getElementById("message").textContent.includes("while it runs"));
  for (const id of ["learning_rate", "inner_epochs"]) await page.press(`#${id}`, "ArrowLeft");
  await grows(2);
  const { learning_rate, inner_epochs, reward } = await page.evaluate(() => globalThis.flowdppo.settings);
  assert.deepEqual([inner_epochs, reward], [3, "custom"]);
  assert.ok(Math.abs(learning_rate / rate - 1) < 1e-6, "one step up, one down");
  await page.click("#start");
  await page.waitForFunction(() => document.getElementById("status").textContent === "Paused.");
  await page.click("#reset");
  await page.waitForFunction(() => globalThis.flowdppo.history.length === 0);
  await ready();

  console.log(`after ${process.uptime().toFixed(0)} s: digits`);
  await page.selectOption("#model", "digits");
  await page.waitForFunction(() => globalThis.flowdppo.settings.model === "digits");
  await ready();
  const digits = native("digits8", 1);
  await step();
  close((await history())[0], digits[0], "digits, iteration 1");
  await page.screenshot({ path: join(out, "digits.png"), fullPage: true });
  await page.setInputFiles("#file", file);
  await page.waitForFunction(() => document.getElementById("message").textContent.includes("a model of 4 classes"));
  await ready();
  assert.equal((await history()).length, 1, "the model before goes on");

  // Shapes: what they draw from prompts is scored; what the page downloads names its pipeline.
  console.log(`after ${process.uptime().toFixed(0)} s: shapes`);
  await page.selectOption("#model", "shapes");
  await page.waitForFunction(() => globalThis.flowdppo.settings.model === "shapes", null, { timeout: 240_000 });
  await page.waitForFunction(() => !document.getElementById("start").disabled, null, { timeout: 240_000 });
  assert.match(await page.textContent("#before_reward"), /mean reward 0\.[78]/);
  const [shapes] = await Promise.all([page.waitForEvent("download"), page.click("#download")]);
  const transformer = join(out, "shapes-tuned.safetensors");
  await shapes.saveAs(transformer);
  execFileSync(program, ["sample", "-q", "--model", transformer, "--prompt", "a red disc", "--count", "1", "--steps", "2",
    "--out", join(out, "shapes-tuned.png")], { stdio: ["ignore", "ignore", "inherit"] });
  await page.screenshot({ path: join(out, "shapes.png"), fullPage: true });

  // On a phone nothing is wider than the screen.
  await page.setViewportSize({ width: 390, height: 844 });
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert.ok(width <= 390, `the page is ${width} pixels wide`);
  await page.screenshot({ path: join(out, "phone.png"), fullPage: true });
  const unlabelled = await page.evaluate(() =>
    [...document.querySelectorAll("input, select, textarea, canvas, button")]
      .filter((it) => !(it.labels?.length || it.getAttribute("aria-label") || it.textContent.trim())).map((it) => it.id));
  assert.deepEqual(unlabelled, [], "every control has a label");

  // Without WebGPU the page says what would help.
  const poor = await browser.newPage();
  await poor.addInitScript(() => Object.defineProperty(navigator, "gpu", { value: undefined }));
  await poor.goto(address);
  await poor.waitForFunction(() => document.getElementById("message").textContent.includes("Tuning needs WebGPU"));
  assert.deepEqual(problems, []);
  console.log("the page works");
} finally {
  await browser?.close();
  server.kill();
}

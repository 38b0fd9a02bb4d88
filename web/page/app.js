// The page: controls, charts and samples around a Session, which is compiled from web/src.
import init, { Session, defaultSettings } from "./flowdppo.js";
import { drawBars, drawLines, drawSamples, reachOf } from "./charts.js";
import { scoreInSandbox } from "./sandbox.js";

const element = (id) => document.getElementById(id);
// Sliders whose values are powers of ten.
const LOGARITHMIC = ["learning_rate", "kl_mask_threshold", "clip"];
const REWARDS = {
  rings: { classifier: "The right ring (classifier)", custom: "Your own, in JavaScript" },
  digits: {
    classifier: "The right digit (classifier)",
    ink: "Brightness",
    symmetry: "Symmetry, left and right",
    "total-variation": "Contrast of neighbouring pixels",
    custom: "Your own, in JavaScript",
  },
  shapes: {
    shapes: "What the prompt says (checker)",
    colour: "Blue",
    brightness: "Brightness",
    symmetry: "Symmetry, left and right",
    custom: "Your own, in JavaScript",
  },
};
// The reward that a model begins with, which others give way to when they fail.
const firstReward = (model) => Object.keys(REWARDS[model])[0];
const EXAMPLES = {
  rings: "// Points on the right half of the plane are better.\nconst [x, y] = image;\nreturn x;\n",
  digits: "// Digits whose left column is dark and whose middle is bright.\nlet score = 0;\nfor (let row = 0; row < size.height; row++) {\n"
    + "  score -= image[row * size.width];\n  score += image[row * size.width + 3];\n}\nreturn score / size.height;\n",
  shapes: "// Pictures whose prompt has a disc should be bright, the others dark.\nlet sum = 0;\nfor (const value of image) sum += value;\n"
    + "const mean = sum / image.length;\nreturn prompt.includes(\"disc\") ? mean : -mean;\n",
};

const HELP = "Update the graphics driver, and check that hardware acceleration is on in the settings of the browser. "
  + "In Firefox on Linux, set dom.webgpu.enabled and gfx.webgpu.ignore-blocklist to true in about:config.";

let session = null;
let settings = null;
let code = null;
let history = [];
// The largest coordinate of points that is shown: that of the base model.
let reach = 1;
let running = false;
let isLooping = false;
// Models that are being opened, or wait for it.
let opening = 0;
// Of the classes or prompts of the model.
let names = [];
// What the page awaits before it calls the session again: it does one thing at a time.
let last = Promise.resolve();

const inTurn = (work) => {
  const result = last.then(work);
  last = result.catch(() => {});
  return result;
};

// The visitor's own reward for settings that use it.
const custom = (its, source) =>
  its.reward === "custom" ? (images, labels, shape) => scoreInSandbox(source, images, labels, shape, names) : undefined;

function say(message) {
  element("message").textContent = message ?? "";
  element("message").hidden = !message;
}

function status(text) {
  element("status").textContent = text;
}

function enable(isReady) {
  for (const id of ["start", "step", "reset", "download"]) element(id).disabled = !isReady;
  for (const id of ["method_box", "reward_box"]) element(id).disabled = !isReady;
}

function showValue(id, value) {
  const text = LOGARITHMIC.includes(id) ? value.toPrecision(2) : String(value);
  element(`${id}_value`).textContent = text;
  element(id).setAttribute("aria-valuetext", text);
}

function showSettings() {
  for (const id of ["learning_rate", "kl_mask_threshold", "clip", "inner_epochs"]) {
    const value = settings[id];
    element(id).value = LOGARITHMIC.includes(id) ? Math.log10(value) : value;
    showValue(id, value);
  }
  element("method").value = settings.method;
  element("threshold_row").hidden = settings.method !== "flow-dppo";
  element("clip_row").hidden = settings.method !== "flow-grpo";
  // Code that is being typed stays, unless the model or the reward is another one.
  const shown = `${settings.model} ${settings.reward}`;
  if (shown === element("reward").dataset.shown) return;
  element("reward").dataset.shown = shown;
  const choices = Object.entries(REWARDS[settings.model]).map(([value, text]) => new Option(text, value));
  element("reward").replaceChildren(...choices);
  element("reward").value = settings.reward;
  element("custom_row").hidden = settings.reward !== "custom";
}

function showNumbers() {
  const newest = history.at(-1);
  const text = (value, digits) => (newest ? value(newest).toPrecision(digits) : "-");
  element("iteration").textContent = newest ? newest.iteration : 0;
  element("reward_now").textContent = text((it) => it.line.reward_mean, 3);
  element("kl_now").textContent = text((it) => it.kl_sum, 2);
  element("masked_now").textContent = newest ? `${(100 * newest.masked_fraction).toFixed(1)} %` : "-";
  element("ms").textContent = newest ? Math.round(newest.ms) : "-";
  const lines = (of) => history.map((it) => [it.iteration, of(it)]);
  drawLines(element("reward_chart"), lines((it) => it.line.reward_mean));
  drawLines(element("kl_chart"), lines((it) => it.kl_sum), settings.method === "flow-dppo" ? settings.kl_mask_threshold : null);
  drawLines(element("masked_chart"), lines((it) => it.masked_fraction));
  const steps = new Map();
  for (const it of history.slice(-8)) for (const [step, kl] of it.kl_sum_by_step) steps.set(step, kl);
  drawBars(element("step_chart"), [...steps].sort(([a], [b]) => a - b));
}

async function showSamples(canvas, label, when) {
  const facts = JSON.parse(session.facts());
  const samples = await session.samples();
  const { images, labels, rewards } = samples;
  samples.free();
  if (canvas === "before") reach = reachOf(images);
  drawSamples(element(canvas), images, labels, rewards, facts.shape, reach, settings.model === "shapes" ? names : null);
  const mean = rewards.reduce((sum, reward) => sum + reward, 0) / rewards.length;
  element(label).textContent = `(mean reward ${mean.toFixed(3)})`;
  element(canvas).setAttribute("aria-label", `${rewards.length} samples ${when}, mean reward ${mean.toFixed(3)}`);
}

async function load(name) {
  const response = await fetch(name);
  if (!response.ok) throw new Error(`${name} cannot be loaded (${response.status}): it belongs beside this page`);
  return new Uint8Array(await response.arrayBuffer());
}

// As far as the browser tells: some names could identify a visitor.
async function adapterName() {
  const { vendor, architecture, device, description } = (await navigator.gpu.requestAdapter({ powerPreference: "high-performance" }))?.info ?? {};
  return description || [vendor, architecture || device].filter(Boolean).join(" ") || "this browser's graphics device";
}

async function open(model, file) {
  status("Compiling shaders...");
  const isOther = model !== settings?.model;
  const next = isOther ? JSON.parse(defaultSettings(model)) : settings;
  // The largest of the models is loaded when it is chosen.
  const weights = file ?? (model === "shapes" ? await load("shapes.safetensors") : undefined);
  const opened = await Session.open(JSON.stringify(next), custom(next, code), weights);
  session?.free();
  [session, settings, history] = [opened, next, []];
  if (isOther) {
    element("code").value = EXAMPLES[model];
    delete element("reward").dataset.shown;
  }
  const facts = JSON.parse(session.facts());
  names = facts.class_names;
  const adapter = await adapterName();
  const size = `${(facts.bytes_held / 2 ** 20).toFixed(0)} MiB of memory`;
  element("adapter").textContent = `${facts.parameters.toLocaleString("en")} parameters on ${adapter}`
    + ` (WebGPU${facts.subgroups ? ", subgroups" : ""}), ${size}.`;
  showSettings();
  showNumbers();
  const show = async () => {
    await showSamples("before", "before_reward", "before tuning");
    await showSamples("now", "now_reward", "now");
  };
  await surviving(() => scoring(show, show));
}

async function iterate() {
  const began = performance.now();
  const metrics = JSON.parse(await session.iterate());
  metrics.ms = performance.now() - began;
  history.push(metrics);
  showNumbers();
  await showSamples("now", "now_reward", "now");
}

// Does something with the session. If the device is lost meanwhile, it is opened again, and the work is done once more.
async function surviving(work) {
  try {
    return await work();
  } catch (error) {
    if (error.name !== "DeviceLost") throw error;
    status("The graphics device was lost: opening it again...");
    const iteration = await session.recover();
    history = history.filter((it) => it.iteration <= iteration);
    showNumbers();
    status(isLooping ? "Tuning..." : "Ready.");
    say(`The graphics device was lost, for example because the computer slept. Continuing from iteration ${iteration}.`);
    return work();
  }
}

// Does something that scores images. A reward of the visitor's that fails gives way to the model's own; then `instead`.
async function scoring(work, instead) {
  try {
    await work();
  } catch (error) {
    if (error.name !== "RewardFailed" || settings.reward !== "custom") throw error;
    const next = { ...settings, reward: firstReward(settings.model) };
    await session.configure(JSON.stringify(next), undefined);
    settings = next;
    showSettings();
    say(`Your reward failed: ${error.message}. Continuing with the model's own.`);
    await instead?.();
  }
}

const advance = () => surviving(() => scoring(iterate));

async function step() {
  element("step").disabled = true;
  await inTurn(advance).catch(stop);
  if (!isLooping && opening === 0) enable(true);
}

async function run() {
  [running, isLooping] = [true, true];
  element("start").textContent = "Pause";
  element("step").disabled = true;
  status("Tuning...");
  while (running) {
    await inTurn(advance).catch(stop);
    // Lets the browser paint and answer clicks. Timers would be slowed down in a tab that is not shown.
    await new Promise((resolve) => {
      const { port1, port2 } = new MessageChannel();
      port1.onmessage = () => resolve(port1.close());
      port2.postMessage(null);
    });
  }
  isLooping = false;
  element("start").textContent = "Start";
  if (opening === 0) enable(true);
  if (["Tuning...", "Pausing..."].includes(element("status").textContent)) status("Paused.");
}

function pause() {
  running = false;
  element("start").disabled = true;
  status("Pausing...");
}

function stop(error) {
  running = false;
  console.error(error);
  status("Stopped.");
  say(error?.message ?? String(error));
}

// Takes other settings, and another source of the visitor's reward, for this model. If they fail, the ones before go on.
// What changes while others wait for their turn joins them.
let pending = null;

function configure(changes, source) {
  const isFirst = pending === null;
  pending = { ...pending, model: settings.model, changes: { ...pending?.changes, ...changes }, source: source ?? pending?.source };
  if (!isFirst) return;
  inTurn(() => {
    const { model, changes, source = code } = pending;
    pending = null;
    if (settings.model !== model) return undefined;
    return surviving(() => change({ ...settings, ...changes }, source, "reward" in changes));
  }).catch(stop);
}

async function change(next, source, isOtherReward) {
  try {
    await session.configure(JSON.stringify(next), custom(next, source));
    if (isOtherReward) await showSamples("now", "now_reward", "now");
    [settings, code] = [next, source];
    say(null);
  } catch (error) {
    if (error.name === "DeviceLost") throw error;
    say(error.name === "RewardFailed" ? `Your reward failed: ${error.message}.` : error.message);
    await session.configure(JSON.stringify(settings), custom(settings, code));
  }
  if (pending === null) showSettings();
}

function listen() {
  element("start").addEventListener("click", () => (isLooping ? pause() : run()));
  element("step").addEventListener("click", step);
  element("reset").addEventListener("click", () => reopen(settings.model));
  element("model").addEventListener("change", ({ target }) => reopen(target.value));
  element("method").addEventListener("change", ({ target }) => configure({ method: target.value }));
  element("reward").addEventListener("change", ({ target }) => {
    element("custom_row").hidden = target.value !== "custom";
    if (target.value !== "custom") configure({ reward: target.value });
  });
  element("use").addEventListener("click", () => {
    configure({ reward: "custom" }, element("code").value);
  });
  for (const id of ["learning_rate", "kl_mask_threshold", "clip", "inner_epochs"]) {
    const value = (target) => (LOGARITHMIC.includes(id) ? 10 ** Number(target.value) : Number(target.value));
    element(id).addEventListener("input", ({ target }) => {
      showValue(id, value(target));
    });
    element(id).addEventListener("change", ({ target }) => configure({ [id]: value(target) }));
  }
  element("download").addEventListener("click", async () => {
    const bytes = await inTurn(() => surviving(() => session.download())).catch(stop);
    if (!bytes) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
    link.download = `${settings.model}-tuned.safetensors`;
    link.click();
    // Some browsers begin to read it only now.
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });
  element("file").addEventListener("change", ({ target }) => {
    openFile(target.files[0]);
    // The same file may be chosen again.
    target.value = "";
  });
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dropping");
    openFile(event.dataTransfer.files[0]);
  });
}

// Opens the built-in model of a name, or a file; if that fails, the one before goes on.
async function reopen(model, file) {
  running = false;
  opening++;
  enable(false);
  say(null);
  try {
    const bytes = file && new Uint8Array(await file.arrayBuffer());
    await inTurn(() => open(model, bytes));
  } catch (error) {
    say(error.name === "NoDevice" ? `The browser found no graphics device for WebGPU. ${HELP}` : error.message);
  }
  if (--opening > 0) return;
  if (settings) element("model").value = settings.model;
  status(session ? "Ready." : "No graphics device could be opened.");
  enable(session !== null);
}

function openFile(file) {
  if (file) reopen(element("model").value, file);
}

async function main() {
  if (!navigator.gpu) {
    status("This browser has no WebGPU.");
    say("Tuning needs WebGPU, which this browser does not offer on this page. It is in Chrome and Edge from version 113, in "
      + "Safari from version 26, and in Firefox from version 141 on Windows and 145 on macOS. "
      + `${HELP} Pages that do not come from https or from this computer have no WebGPU either.`);
    return;
  }
  await init({ module_or_path: "flowdppo_bg.wasm" });
  listen();
  await reopen(element("model").value);
}

// For the console, and for tests.
globalThis.flowdppo = {
  get session() { return session; },
  get history() { return history; },
  get settings() { return settings; },
  inTurn,
};

main().catch(stop);

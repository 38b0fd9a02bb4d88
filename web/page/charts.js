// Drawings on canvases, in the colours of the page.

const COLOURS = ["#2f6fdb", "#d9662b", "#2a9d5c", "#b04fc0"];
const MOST_POINTS = 1000;
const MARGIN = { left: 56, right: 12, top: 12, bottom: 26 };

function begin(canvas) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.font = "13px system-ui, sans-serif";
  context.fillStyle = context.strokeStyle = getComputedStyle(canvas).color;
  context.lineWidth = 1;
  return context;
}

const short = (value) => (value === 0 ? "0" : Math.abs(value) < 0.01 || Math.abs(value) >= 1e4 ? value.toExponential(1) : value.toPrecision(3));

// Adds the newest values to the label of a chart.
function describe(canvas, ...values) {
  canvas.dataset.label ??= canvas.getAttribute("aria-label");
  const known = values.filter((value) => value !== undefined);
  canvas.setAttribute("aria-label", known.length ? `${canvas.dataset.label}: ${known.map(short).join(", ")}` : canvas.dataset.label);
}

// Axes for values from `low` to `high`; returns how a value and a place become pixels.
function axes(context, { width, height }, [left, right], [low, high]) {
  const inner = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
  const y = (value) => MARGIN.top + inner.height * (1 - (value - low) / (high - low || 1));
  const x = (value) => MARGIN.left + inner.width * ((value - left) / (right - left || 1));
  context.globalAlpha = 0.25;
  context.strokeRect(MARGIN.left, MARGIN.top, inner.width, inner.height);
  context.globalAlpha = 0.9;
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const value of [low, (low + high) / 2, high]) context.fillText(short(value), MARGIN.left - 6, y(value));
  context.globalAlpha = 1;
  return { x, y };
}

// A line through `[x, y]` points, and a dashed one at `limit`.
export function drawLines(canvas, points, limit = null) {
  const context = begin(canvas);
  describe(canvas, points.at(-1)?.[1]);
  if (points.length === 0) return;
  // As many as can be seen.
  const every = Math.ceil(points.length / MOST_POINTS);
  points = points.filter((_, index) => index % every === 0 || index === points.length - 1);
  const values = points.map(([, value]) => value);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (limit !== null && limit < 4 * high) [low, high] = [Math.min(low, limit), Math.max(high, limit)];
  if (low === high) [low, high] = [low - Math.abs(low || 1) / 10, high + Math.abs(high || 1) / 10];
  const [first, last] = [points[0][0], Math.max(points.at(-1)[0], points[0][0] + 1)];
  const { x, y } = axes(context, canvas, [first, last], [low, high]);
  context.textBaseline = "top";
  context.textAlign = "left";
  context.fillText(String(first), MARGIN.left, canvas.height - MARGIN.bottom + 6);
  context.textAlign = "right";
  context.fillText(String(last), canvas.width - MARGIN.right, canvas.height - MARGIN.bottom + 6);
  if (limit !== null && limit <= high) {
    context.setLineDash([6, 4]);
    context.strokeStyle = COLOURS[1];
    context.beginPath();
    context.moveTo(x(first), y(limit));
    context.lineTo(x(last), y(limit));
    context.stroke();
    context.setLineDash([]);
  }
  context.strokeStyle = context.fillStyle = COLOURS[0];
  context.lineWidth = 2;
  context.beginPath();
  for (const [place, value] of points) context.lineTo(x(place), y(value));
  context.stroke();
  for (const [place, value] of points.slice(-1)) {
    context.beginPath();
    context.arc(x(place), y(value), 3, 0, 2 * Math.PI);
    context.fill();
  }
}

// A bar for each `[name, value]`.
export function drawBars(canvas, bars) {
  const context = begin(canvas);
  describe(canvas, ...bars.map(([, value]) => value));
  if (bars.length === 0) return;
  const { x, y } = axes(context, canvas, [0, bars.length], [0, Math.max(...bars.map(([, value]) => value)) || 1]);
  context.textAlign = "center";
  context.textBaseline = "top";
  bars.forEach(([name, value], index) => {
    context.fillStyle = getComputedStyle(canvas).color;
    context.fillText(String(name), x(index + 0.5), canvas.height - MARGIN.bottom + 6);
    context.fillStyle = COLOURS[0];
    const width = Math.min(0.7 * (x(1) - x(0)), 60);
    context.fillRect(x(index + 0.5) - width / 2, y(value), width, y(0) - y(value));
  });
}

// Images [N, C, H, W]: points of the plane as a scatter plot, pictures as a grid with one row per class.
// `reach` is the largest coordinate that is shown, `names` are written before the rows, if any.
export function drawSamples(canvas, images, labels, rewards, [channels, height, width], reach, names) {
  const context = begin(canvas);
  if (height * width === 1) drawPoints(context, canvas, images, labels, reach);
  else drawPictures(context, canvas, images, labels, rewards, [channels, height, width], names);
}

// A little more than nearly all coordinates.
export function reachOf(images) {
  const sizes = images.map(Math.abs).sort();
  return 1.1 * sizes[Math.floor(0.995 * (sizes.length - 1))];
}

function drawPoints(context, canvas, images, labels, reach) {
  const place = (value) => (canvas.width / 2) * (1 + value / reach);
  context.globalAlpha = 0.6;
  for (let index = 0; index < labels.length; index++) {
    context.fillStyle = COLOURS[labels[index] % COLOURS.length];
    context.beginPath();
    context.arc(place(images[2 * index]), place(-images[2 * index + 1]), 2.2, 0, 2 * Math.PI);
    context.fill();
  }
  context.globalAlpha = 1;
}

function drawPictures(context, canvas, images, labels, rewards, [channels, height, width], names) {
  const rows = new Set(labels).size;
  const columns = labels.length / rows;
  const room = canvas.width - (names ? 230 : 0);
  const cell = Math.floor(Math.min(room / columns, canvas.height / rows));
  const [left, top] = [canvas.width - (room + columns * cell) / 2, (canvas.height - rows * cell) / 2];
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (let row = 0; names && row < rows; row++) {
    context.fillText(names[labels[row * columns]], left - 8, top + (row + 0.5) * cell, left - 12);
  }
  const [low, high] = [Math.min(...rewards), Math.max(...rewards)];
  const tile = new OffscreenCanvas(width, height);
  const pixels = new ImageData(width, height);
  context.imageSmoothingEnabled = false;
  for (let index = 0; index < labels.length; index++) {
    const area = height * width;
    for (let pixel = 0; pixel < area; pixel++) {
      for (let channel = 0; channel < 3; channel++) {
        const value = images[(index * channels + (channel % channels)) * area + pixel];
        pixels.data[4 * pixel + channel] = 127.5 * (1 + value);
      }
      pixels.data[4 * pixel + 3] = 255;
    }
    tile.getContext("2d").putImageData(pixels, 0, 0);
    const [x, y] = [left + (index % columns) * cell, top + Math.floor(index / columns) * cell];
    context.drawImage(tile, x + 2, y + 2, cell - 6, cell - 6);
    // A line below each: the longer, the better it is among these.
    context.fillStyle = COLOURS[2];
    context.fillRect(x + 2, y + cell - 3, (cell - 6) * ((rewards[index] - low) / (high - low || 1)), 2);
  }
}

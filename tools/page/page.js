// What is on the page: the picture, the classes, the controls. worker.js has the engine.
"use strict";

const LARGEST = 1280; // pixels of the longer side that are kept of a picture
const SHOWN = 100; // classes in the list at a time
const scenes = ["house-sailboat-umbrella", "butterfly-cup", "butterfly-key", "mushroom-tree-fish", "mushroom-sailboat-rocket"];
const at = id => document.getElementById(id);
const figure = at("figure"), shown = figure.getContext("2d");

const worker = new Worker("worker.js");
const waiting = new Map();
let calls = 0;

worker.onmessage = ({ data: { id, result, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  error === undefined ? resolve(result) : reject(new Error(error));
};
worker.onerror = ({ message }) => say(`The engine does not start: ${message}`, true);

function call(name, more = {}) {
  return new Promise((resolve, reject) => {
    waiting.set(++calls, { resolve, reject });
    worker.postMessage({ id: calls, name, ...more });
  });
}

// What is known; tests read it too. result: the last map, caption: of what is drawn; none after a failure.
const state = window.agf = {
  model: null, picture: null, ranked: null, chosen: -1, method: 0, result: null, caption: "", live: false, idle: false,
};

function say(text, failed = false) {
  at("status").textContent = text;
  at("status").classList.toggle("failed", failed);
}

// A share of 1 with as many digits as tell it from 0 and from 100 %, as the program prints it; "" where there is none.
function percent(p) {
  const value = 100 * p, rest = 100 - value;
  if (p < 0) return "";
  if (value === 0 || rest === 0) return `${value} %`;
  if (rest < 1e-4) return "> 99.9999 %";
  if (rest < 1) return `${value.toFixed(1 - Math.floor(Math.log10(rest)))} %`;
  if (value < 1e-4) return "< 0.0001 %";
  return value < 1 ? `${Number(value.toPrecision(2))} %` : `${value.toFixed(1)} %`;
}
const number = v => v === 0 ? "0" : Number(v.toPrecision(3)).toString();

// Runs one thing after the other: what a user starts while another works, waits; a failure is said, and what was there before stays.
let queue = Promise.resolve();
function work(task) {
  state.idle = false;
  document.body.classList.add("busy");
  const mine = queue = queue.then(task).catch(error => say(error.message, true)).then(() => {
    if (queue !== mine) return;
    document.body.classList.remove("busy");
    state.idle = true;
  });
  return mine;
}

async function openModel(bytes) {
  try {
    state.model = await call("open", { bytes });
  } catch (error) {
    if (state.bytes) await call("open", { bytes: state.bytes }); // the one before is still there
    if (state.bytes && state.picture) {
      const { chosen } = state;
      await run();
      state.chosen = chosen;
      await explain();
    }
    throw error;
  }
  state.bytes = bytes;
  state.chosen = -1;
  state.ranked = null;
  state.method = Math.min(state.method, state.model.methods.length - 1);
  at("method").replaceChildren(...state.model.methods.map((name, i) => new Option(name, i, i === state.method, i === state.method)));
  say(`${state.model.name || "A network"}: ${state.model.classes} classes.`);
  if (state.picture) await explain(await run());
}

// A picture: anything that a canvas can draw.
async function setPicture(source, width, height) {
  const scale = Math.min(1, LARGEST / Math.max(width, height));
  const small = new OffscreenCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  const context = small.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // under what is transparent
  context.fillRect(0, 0, small.width, small.height);
  context.drawImage(source, 0, 0, small.width, small.height);
  state.picture = { width: small.width, height: small.height, rgba: context.getImageData(0, 0, small.width, small.height).data };
  await explain(await run());
}

// What there was belongs to another picture or network: the picture alone is shown.
function forget() {
  state.result = null;
  state.caption = "";
  for (const id of ["low", "high"]) at(id).textContent = "";
  at("bar").getContext("2d").clearRect(0, 0, 256, 1);
  figure.width = state.picture.width;
  figure.height = state.picture.height;
  shown.putImageData(new ImageData(state.picture.rgba.slice(), figure.width, figure.height), 0, 0);
}

async function run() {
  const { width, height, rgba } = state.picture;
  try {
    const { ranked, milliseconds } = await call("picture", { width, height, rgba });
    state.ranked = ranked;
    if (state.chosen < 0 || !state.pinned) state.chosen = ranked[0].k;
    return milliseconds;
  } catch (error) {
    forget();
    state.ranked = null;
    at("classes").replaceChildren();
    throw error;
  }
}

async function explain(forward = 0) {
  if (!state.ranked) return;
  listClasses();
  const { chosen, method } = state, label = state.model.labels[chosen];
  try {
    const result = await call("explain", { k: chosen, method });
    state.result = { ...result, method, caption: `${label}, ${state.model.methods[method]}` };
    await draw();
  } catch (error) {
    forget();
    throw error;
  }
  const entry = state.ranked.find(({ k }) => k === chosen), chance = percent(entry.probability);
  say(`${label}: ${chance ? `${chance}, ` : ""}logit ${number(entry.logit)}. ` +
    `${Math.round(forward + state.result.milliseconds)} ms${state.model.relaxed ? "" : ", without this browser's fused multiply-add"}.`);
}

async function draw() {
  if (!state.result) return; // it has failed since the slider was moved
  const { width, height } = state.picture, { method, caption, scale, positive, bar } = state.result;
  const alpha = Number(at("opacity").value), colour = at("colour").checked;
  const { rgba } = await call("draw", { method, alpha, colour, width, height });
  figure.width = width;
  figure.height = height;
  shown.putImageData(new ImageData(rgba, width, height), 0, 0);
  at("low").textContent = positive ? "0" : number(-scale);
  at("high").textContent = number(scale);
  at("bar").getContext("2d").putImageData(new ImageData(bar, 256, 1), 0, 0);
  state.caption = caption;
}

function listClasses() {
  const wanted = at("search").value.trim().toLowerCase(), labels = state.model.labels;
  const found = state.ranked.filter(({ k }) => labels[k].toLowerCase().includes(wanted)).slice(0, SHOWN);
  at("classes").replaceChildren(...found.map(({ k, probability, logit }) => {
    const entry = document.createElement("li"), button = document.createElement("button");
    const name = document.createElement("span"), value = document.createElement("span");
    name.textContent = labels[k];
    value.textContent = percent(probability) || number(logit);
    button.style.setProperty("--share", Math.max(0, probability));
    button.setAttribute("aria-pressed", k === state.chosen);
    button.append(name, value);
    button.onclick = () => {
      state.chosen = k;
      state.pinned = state.live; // before a camera, the class stays
      work(() => explain());
    };
    entry.append(button);
    return entry;
  }));
}

async function openFile(file) {
  stopCamera();
  if (file.name.toLowerCase().endsWith(".agf")) return work(async () => openModel(await file.arrayBuffer()));
  return work(async () => {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file);
    } catch (error) {
      throw new Error(`${file.name} is neither a picture that this browser reads nor a network (.agf)`);
    }
    await setPicture(bitmap, bitmap.width, bitmap.height);
    bitmap.close();
  });
}

// The camera's newest frame, again and again; each waits for the one before.
async function startCamera() {
  const video = at("video");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    say(navigator.mediaDevices ? `No camera: ${error.message}` : "Browsers give cameras to pages on https or localhost alone.", true);
    return;
  }
  await video.play();
  state.live = true;
  at("camera").textContent = "Stop";
  while (state.live) {
    await work(() => setPicture(video, video.videoWidth, video.videoHeight));
    if (at("status").classList.contains("failed")) break;
  }
  stopCamera();
}

function stopCamera() {
  const video = at("video");
  state.live = state.pinned = false;
  at("camera").textContent = "Camera";
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

for (const name of scenes) {
  const button = document.createElement("button"), image = new Image();
  image.src = `${name}.png`;
  image.alt = name.replaceAll("-", ", ");
  button.append(image);
  button.onclick = () => {
    stopCamera();
    work(async () => {
      await image.decode();
      await setPicture(image, image.naturalWidth, image.naturalHeight);
    });
  };
  at("scenes").append(button);
}

for (const id of ["picture", "model"])
  at(id).onchange = ({ target }) => {
    for (const file of target.files) openFile(file);
    target.value = "";
  };
at("camera").onclick = () => state.live ? stopCamera() : startCamera();
at("method").onchange = ({ target }) => {
  state.method = Number(target.value);
  if (state.ranked) work(() => explain());
};
let drawing = false;
for (const id of ["opacity", "colour"])
  at(id).oninput = () => {
    if (drawing || !state.result) return; // the one that waits reads the slider when its turn comes
    drawing = true;
    work(() => {
      drawing = false;
      return draw();
    });
  };
at("search").oninput = () => state.ranked && listClasses();
at("download").onclick = () => {
  const { caption } = state;
  if (!caption) return;
  const times = Math.max(1, Math.ceil(480 / figure.width)), width = figure.width * times, height = figure.height * times; // room for text
  const sheet = new OffscreenCanvas(width, height + 40), context = sheet.getContext("2d");
  context.fillStyle = "white";
  context.fillRect(0, 0, sheet.width, sheet.height);
  context.drawImage(figure, 0, 0, width, height);
  context.drawImage(at("bar"), width - 140, height + 8, 132, 8);
  context.fillStyle = "black";
  context.font = "16px system-ui, sans-serif";
  context.fillText(caption, 8, height + 26, width - 160);
  context.font = "12px system-ui, sans-serif";
  context.fillText(at("low").textContent, width - 140, height + 32);
  context.textAlign = "right";
  context.fillText(at("high").textContent, width - 8, height + 32);
  sheet.convertToBlob({ type: "image/png" }).then(blob => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${caption.replace(/[^\p{L}\p{N}]+/gu, "-")}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
};
document.ondragover = event => {
  event.preventDefault();
  document.body.classList.add("dropping");
};
document.ondragleave = ({ relatedTarget }) => relatedTarget || document.body.classList.remove("dropping");
document.ondrop = event => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  for (const file of event.dataTransfer.files) openFile(file);
};

work(async () => {
  const answer = await fetch("demo.agf");
  if (!answer.ok) throw new Error("demo.agf is missing beside the page");
  await openModel(await answer.arrayBuffer());
  const image = document.querySelector("#scenes img");
  await image.decode();
  await setPicture(image, image.naturalWidth, image.naturalHeight);
});

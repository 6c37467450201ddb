// The engine at work beside the page, so that the page stays alive. Each message is a call: {id, name, ...}, answered by {id, result}
// or {id, error}. The engine is agf-relaxed.wasm where the browser's relaxed multiply-add is fused, else agf.wasm; the maps are the
// same, bit for bit.
"use strict";

let engine, relaxed = false;

async function load(file) {
  const module = await WebAssembly.compile(await (await fetch(file)).arrayBuffer());
  // what the C library imports from a system: there is none here, and no environment
  const imports = {};
  for (const { module: from, name } of WebAssembly.Module.imports(module))
    (imports[from] ??= {})[name] = (...where) => {
      if (name !== "environ_sizes_get") return name === "environ_get" ? 0 : 52;
      for (const at of where) new DataView(engine.memory.buffer).setUint32(at, 0, true);
      return 0;
    };
  const { exports } = await WebAssembly.instantiate(module, imports);
  engine = exports;
  exports._initialize?.();
}

function text(address) {
  const bytes = new Uint8Array(engine.memory.buffer, address);
  return new TextDecoder().decode(bytes.slice(0, bytes.indexOf(0)));
}

function must(ok) {
  if (!ok) throw new Error(text(engine.page_message()));
}

const pixels = () => [engine.page_input(0), engine.page_input(1)];

function setModel(bytes) {
  const address = engine.page_file(bytes.byteLength);
  must(address);
  new Uint8Array(engine.memory.buffer, address, bytes.byteLength).set(new Uint8Array(bytes));
  must(!engine.page_open(bytes.byteLength));
  const classes = engine.page_classes(), labels = [], methods = [];
  for (let k = 0; k < classes; k++) labels.push(text(engine.page_label(k)) || `class ${k}`);
  for (let i = 0; text(engine.page_method(i)) !== "?"; i++) methods.push(text(engine.page_method(i)));
  return { name: text(engine.page_name()), classes, labels, methods, relaxed };
}

const calls = {
  // {bytes}: open a model file. The first one finds out which engine this browser can use.
  async open({ bytes }) {
    if (!engine) {
      try {
        await load("agf-relaxed.wasm");
        relaxed = true;
      } catch (error) { // a browser without relaxed SIMD does not compile it
        await load("agf.wasm");
      }
    }
    const found = setModel(bytes);
    if (!relaxed) return found;
    const address = engine.page_picture(2, 2); // making a session shows whether the multiply-add is fused
    new Uint8Array(engine.memory.buffer, address, 16).fill(128).fill(9, 0, 3);
    if (engine.page_run() && /relaxed/.test(text(engine.page_message()))) {
      await load("agf.wasm");
      relaxed = false;
      return setModel(bytes);
    }
    return found;
  },

  // {width, height, rgba}: run the network. All classes, the highest logit first.
  picture({ width, height, rgba }) {
    const began = performance.now(), address = engine.page_picture(width, height);
    must(address);
    new Uint8Array(engine.memory.buffer, address, rgba.length).set(rgba);
    must(!engine.page_run());
    const ranked = [];
    for (let r = 0; r < engine.page_classes(); r++) {
      const k = engine.page_ranked(r);
      ranked.push({ k, logit: engine.page_logit(k), probability: engine.page_probability(k) });
    }
    return { ranked, milliseconds: performance.now() - began };
  },

  // {k, method}: a map, float32 [height][width].
  explain({ k, method }) {
    const began = performance.now(), address = engine.page_explain(k, method);
    must(address);
    const milliseconds = performance.now() - began, [height, width] = pixels();
    const map = new Float32Array(engine.memory.buffer, address, height * width).slice();
    const bar = new Uint8ClampedArray(engine.memory.buffer, engine.page_bar(method), 1024).slice();
    const positive = !!engine.page_method_is_positive(method);
    return { map, height, width, bar, positive, scale: engine.page_scale(), milliseconds };
  },

  // {method, alpha, colour, width, height}: the last map over the last picture, RGBA.
  draw({ method, alpha, colour, width, height }) {
    must(!engine.page_draw(method, alpha, colour ? 1 : 0));
    const address = engine.page_address();
    return { rgba: new Uint8ClampedArray(engine.memory.buffer, address, 4 * width * height).slice() };
  },
};

let last = Promise.resolve(); // one call at a time, in order
onmessage = ({ data }) => {
  last = last.then(async () => {
    try {
      postMessage({ id: data.id, result: await calls[data.name](data) });
    } catch (error) {
      postMessage({ id: data.id, error: error.message });
    }
  });
};

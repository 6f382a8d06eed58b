// A text (or two) to several adapters, side by side: labels as bars, entities as marks, vectors as what they are like.

const $ = id => document.getElementById(id);

/** An element with a class, text and children; text never becomes markup. */
export const make = (name, { cls, text, ...rest } = {}, ...children) => {
  const element = document.createElement(name);
  if (cls) element.className = cls;
  if (text !== undefined) element.textContent = text;
  for (const [key, value] of Object.entries(rest)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

export const svg = (name, attributes, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
};

/** Asks the server; an error carries the server's own sentence. */
export const ask = async (path, body, token) => {
  const headers = {};
  const bearer = token || $("key").value.trim();
  if (bearer) headers.Authorization = "Bearer " + bearer;
  if (body) headers["Content-Type"] = "application/json";
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  const text = await response.text();
  let said = null;
  try { said = JSON.parse(text); } catch { said = text; }
  if (!response.ok) {
    const why = said?.error?.message ?? said?.error ?? (text || response.statusText);
    throw new Error(`${response.status}: ${why}`);
  }
  return { said, headers: response.headers };
};

const BASE = "__base__";
const chosen = new Set();
let known = [];

/** Shows who can be chosen; what was chosen stays so. */
export const offer = (adapters, baseTask) => {
  const next = [{ id: BASE, task: baseTask, shown: "base" }, ...adapters.map(a => ({ id: a.id, task: a.task, shown: a.id }))];
  if (JSON.stringify(next) === JSON.stringify(known)) return;
  if (known.length === 0) for (const who of next.slice(1, 4)) chosen.add(who.id);
  known = next;
  for (const id of [...chosen]) if (!known.some(who => who.id === id)) chosen.delete(id);
  $("choices").replaceChildren(...known.map(who => {
    const box = make("input", { type: "checkbox", value: who.id });
    box.checked = chosen.has(who.id);
    box.addEventListener("change", () => box.checked ? chosen.add(who.id) : chosen.delete(who.id));
    return make("label", { cls: "choice" }, box, make("span", { text: who.shown }, make("small", { text: who.task })));
  }));
};

const bar = (label, score, first) => make("div", { cls: first ? "score first" : "score" },
  make("span", { text: label, title: label }),
  svg("svg", { viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { width: Math.max(0, Math.min(1, score)) * 100, height: 4 })),
  make("output", { text: score.toFixed(3) }));

const labels = scores => scores.map((s, i) => bar(s.label, s.score, i === 0));

/** A label's colour: the same in every answer of the page. */
const colours = new Map();
const colour = label => {
  if (!colours.has(label)) colours.set(label, colours.size % 6);
  return "t" + colours.get(label);
};

/** The text with its entities marked. Offsets count characters (code points), not JavaScript's units. */
const marked = (text, entities) => {
  const characters = [...text];
  const line = make("p", { cls: "tagged" });
  let at = 0;
  for (const e of [...entities].sort((a, b) => a.start - b.start)) {
    if (e.start < at) continue;
    line.append(characters.slice(at, e.start).join(""));
    const label = e.entity_group ?? e.entity;
    line.append(make("mark", { cls: colour(label), text: characters.slice(e.start, e.end).join(""), title: `${label} ${e.score.toFixed(3)}` },
      make("small", { text: label })));
    at = e.end;
  }
  line.append(characters.slice(at).join(""));
  return entities.length ? [line] : [line, make("p", { cls: "hint", text: "No entity." })];
};

const cosine = (a, b) => {
  let ab = 0, aa = 0, bb = 0;
  for (let i = 0; i < a.length; i++) { ab += a[i] * b[i]; aa += a[i] * a[i]; bb += b[i] * b[i]; }
  return ab / Math.sqrt(aa * bb || 1);
};

/** A vector's numbers as a strip: up positive, down negative. */
const strip = vector => {
  const n = Math.min(vector.length, 192), most = Math.max(...vector.slice(0, n).map(Math.abs)) || 1;
  const bars = [...vector.slice(0, n)].map((x, i) => {
    const height = Math.abs(x) / most * 15;
    return svg("rect", { x: i, width: .75, y: x < 0 ? 16 : 16 - height, height, ...(x < 0 ? { class: "neg" } : {}) });
  });
  return svg("svg", { viewBox: `0 0 ${n} 32`, preserveAspectRatio: "none", class: "spark", role: "img", "aria-label": `the first ${n} of ${vector.length} numbers` }, ...bars);
};

const embedded = vectors => {
  const parts = [strip(vectors[0])];
  if (vectors.length > 1) parts.unshift(bar("cosine", cosine(vectors[0], vectors[1]), true));
  parts.push(make("p", { cls: "hint", text: `${vectors[0].length} numbers, norm ${Math.hypot(...vectors[0]).toFixed(3)}` }));
  return parts;
};

/** The answer of one adapter as elements, and its generation. */
const answer = async (who, text, pair) => {
  const select = who.id === BASE ? {} : { adapter: who.id };
  const task = who.task ?? "";
  if (/token/.test(task)) {
    const { said, headers } = await ask("/token_classify", { inputs: text, aggregation_strategy: "simple", ...select });
    return { parts: marked(text, said), headers, wide: true };
  }
  if (/embed|feature|similar/.test(task)) {
    const { said, headers } = await ask("/embed", { inputs: pair ? [text, pair] : [text], ...select });
    return { parts: embedded(said), headers };
  }
  const { said, headers } = await ask("/predict", { inputs: pair ? [text, pair] : text, ...select });
  return { parts: labels(said), headers };
};

const card = (who, { parts, headers, wide }) => make("article", { cls: wide ? "answer wide" : "answer" },
  make("header", {}, make("h3", { text: who.shown }),
    make("small", { text: (headers?.get("x-adapter-generation") ?? "").slice(0, 8) })),
  ...parts);

const run = async () => {
  const text = $("text").value, pair = $("pair").value.trim();
  const who = known.filter(w => chosen.has(w.id));
  if (!text.trim() || who.length === 0) {
    $("took").textContent = who.length ? "Type a text." : "Choose who answers.";
    return;
  }
  const start = performance.now();
  $("took").textContent = "running";
  const cards = await Promise.all(who.map(async w => {
    try { return card(w, await answer(w, text, pair)); } catch (error) {
      return card(w, { parts: [make("p", { cls: "bad", text: error.message })] });
    }
  }));
  $("answers").replaceChildren(...cards);
  $("took").textContent = `${who.length} answered in ${(performance.now() - start).toFixed(0)} ms`;
};

$("try").addEventListener("submit", event => { event.preventDefault(); run(); });
$("try").addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
});

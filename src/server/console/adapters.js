// The adapters: rank maps, memory, traffic, and what an administrator may do with them. Reads every two seconds.

import { ask, make, offer, svg } from "./try.js";

const $ = id => document.getElementById(id);
const bytes = n => n < 1024 ? `${n} B` : n < 2 ** 20 ? `${(n / 1024).toFixed(1)} KiB` : `${(n / 2 ** 20).toFixed(1)} MiB`;
const ago = ms => {
  if (!ms) return "never";
  const s = Math.max(0, (Date.now() - ms) / 1000);
  return s < 60 ? `${s.toFixed(0)} s ago` : s < 3600 ? `${(s / 60).toFixed(0)} min ago` : `${(s / 3600).toFixed(1)} h ago`;
};
const facts = (list, pairs) => list.replaceChildren(...pairs.map(([name, value]) =>
  make("div", {}, make("dt", { text: name }), make("dd", { text: value }))));

/** The order that a layer uses its sites in, as far as their names tell it. */
const ORDER = [/qkv|query|q_|\.q$/i, /key|k_|\.k$/i, /value|v_|\.v$/i, /att.*(out|o$)|out_lin|Wo$|o_proj|\.o$/i, /inter|lin1|Wi|ffn$/i, /./];
const place = site => ORDER.findIndex(like => like.test(site));

/** The short name of a site: what tells it from its neighbours. */
const short = site => {
  const parts = site.split(".").filter(part => !/^(self|dense|layer|attention_layer|dense_layer|\d+)$/.test(part));
  const last = parts.at(-1) ?? site, inside = /^att/.test(parts[0] ?? "") && parts.length > 1;
  const name = last.replace(/_?(proj|lin)$/, "").replace("intermediate", "inter").replace("output", "out");
  return inside && name === "out" ? "att o" : name.slice(0, 7);
};

/** Columns that a map has room for at least, so that cells of small maps are not larger than others'. */
const FEWEST = 7;

/** Layers down, sites across; the darker the higher the rank. */
const map = ranks => {
  const inside = ranks.filter(r => r.layer !== null);
  const layers = [...new Set(inside.map(r => r.layer))].sort((a, b) => a - b);
  const sites = [...new Set(inside.map(r => r.site))].sort((a, b) => place(a) - place(b));
  if (!layers.length) return make("p", { cls: "hint", text: "No site inside the layers." });
  const most = Math.max(1, ...inside.map(r => r.rank));
  const [left, w, h, gap, head] = [16, 28, 13, 1.5, 12];
  const at = new Map(inside.map(r => [r.layer + " " + r.site, r.rank]));
  const width = left + Math.max(FEWEST, sites.length) * w;
  const drawn = svg("svg", { viewBox: `0 0 ${width} ${head + layers.length * h}`, "aria-hidden": "true" });
  sites.forEach((site, x) => {
    const label = svg("text", { x: left + x * w, y: 8 }, short(site));
    label.append(svg("title", {}, site));
    drawn.append(label);
  });
  layers.forEach((layer, y) => {
    drawn.append(svg("text", { x: 0, y: head + y * h + 9 }, String(layer)));
    sites.forEach((site, x) => {
      const rank = at.get(layer + " " + site) ?? 0;
      const shade = rank === 0 ? 0 : Math.max(1, Math.ceil(rank / most * 5));
      const cell = svg("g", {}, svg("rect", { x: left + x * w, y: head + y * h, width: w - gap, height: h - gap, rx: 2.5, class: "k" + shade }),
        svg("title", {}, `layer ${layer}, ${site}: rank ${rank}`));
      if (rank) cell.append(svg("text", { x: left + x * w + (w - gap) / 2, y: head + y * h + 8.2,
        class: `n ${shade > 2 ? "on" : ""} k${shade}n` }, String(rank)));
      drawn.append(cell);
    });
  });
  return drawn;
};

const told = adapter => {
  const r = adapter.ranks;
  return `Ranks of ${adapter.id} by layer and site: ${r.min} to ${r.max}, mean ${r.mean.toFixed(1)}`;
};

const cards = new Map(), before = new Map();

const show = adapter => {
  let card = cards.get(adapter.id);
  if (!card) {
    card = $("card").content.firstElementChild.cloneNode(true);
    card.dataset.name = adapter.id;
    card.querySelector("h3").textContent = adapter.id;
    cards.set(adapter.id, card);
  }
  const find = selector => card.querySelector(selector);
  find(".task").textContent = adapter.task;
  find(".pin").hidden = !adapter.pinned;
  const generation = find(".generation");
  generation.replaceChildren(adapter.generation.slice(0, 16));
  generation.title = adapter.generation;
  if (adapter.canary) generation.append(" ", make("b", { text: `${adapter.canary.percent} % to ${adapter.canary.generation.slice(0, 8)}` }));
  if (card.dataset.generation !== adapter.generation) {
    card.dataset.generation = adapter.generation;
    find(".map").replaceChildren(map(adapter.rank_map ?? []));
    find(".map").setAttribute("aria-label", told(adapter));
  }
  const last = before.get(adapter.id), now = performance.now();
  const rate = last ? Math.max(0, (adapter.hits - last.hits) / (now - last.at) * 1000) : 0;
  before.set(adapter.id, { hits: adapter.hits, at: now });
  facts(find(".facts"), [["memory", bytes(adapter.bytes)], ["rank", `${adapter.ranks.max} (${adapter.ranks.mean.toFixed(1)})`],
    ["labels", String(adapter.labels.length || "none")], ["requests", adapter.hits.toLocaleString("en")],
    ["a second", rate.toFixed(rate < 10 ? 1 : 0)], ["last used", ago(adapter.last_used)]]);
  find("[data-do=rollback]").disabled = !adapter.previous_generation;
  find("[data-do=pin]").textContent = adapter.pinned ? "Unpin" : "Pin";
  card.dataset.pinned = adapter.pinned;
  return card;
};

let baseTask = null;

const state = (text, kind) => { $("state").textContent = text; $("state").className = "state " + kind; };

const read = async () => {
  try {
    if (baseTask === null) {
      const { said } = await ask("/info");
      $("base").textContent = [said.model_id, said.model_dtype].filter(Boolean).join(" · ");
      baseTask = said.model_type?.classifier ? "classification" : "embedding";
    }
    const { said } = await ask("/v1/lora_adapters?ranks=true");
    const shown = said.data.map(show);
    for (const [name, card] of cards) if (!said.data.some(a => a.id === name)) { card.remove(); cards.delete(name); }
    shown.forEach((card, i) => { if ($("adapters").children[i] !== card) $("adapters").insertBefore(card, $("adapters").children[i] ?? null); });
    $("none").hidden = shown.length > 0;
    facts($("totals"), [["in memory", `${said.data.length}${said.max_adapters ? " of " + said.max_adapters : ""}`],
      ["bytes", `${bytes(said.resident_bytes)}${said.max_bytes ? " of " + bytes(said.max_bytes) : ""}`],
      ["draining", String(said.retired_generations)], ["evicted", String(said.evictions)]]);
    offer(said.data, baseTask);
    state("ready", "good");
  } catch (error) { state(error.message, "bad"); }
};

const say = (text, bad) => { $("said").textContent = text; $("said").className = bad ? "said bad" : "said"; };

const change = async (route, body, done) => {
  try {
    const { said } = await ask(route, body, $("token").value.trim());
    say(done(said ?? {}));
    await read();
    return true;
  } catch (error) { say(error.message, true); return false; }
};

/** Asks for what an action needs; the answers, or null. */
const dialog = (title, text, { path, percent } = {}) => new Promise(resolve => {
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-path-label").hidden = !path;
  $("ask-percent-label").hidden = !percent;
  $("ask-path").required = path === "must";
  $("ask-path").value = "";
  $("ask").returnValue = "no";
  $("ask").addEventListener("close", () => resolve($("ask").returnValue === "go"
    ? { path: $("ask-path").value.trim(), percent: Number($("ask-percent").value) } : null), { once: true });
  $("ask").showModal();
});

const actions = {
  async replace(name, expected_generation) {
    const got = await dialog(`Replace ${name}`, "Requests under way keep the generation they began with.", { path: "must" });
    if (got) change("/v1/load_lora_adapter", { lora_name: name, lora_path: got.path, load_inplace: true, expected_generation },
      said => `${name} is at ${said.generation?.slice(0, 8)}`);
  },
  async canary(name) {
    const got = await dialog(`Canary of ${name}`, "Send a share of its requests to another generation. 0 ends the trial, 100 makes it current. Leave the place empty to change the share only.", { path: "may", percent: true });
    if (got) change("/v1/canary_lora_adapter", { lora_name: name, percent: got.percent, ...(got.path ? { lora_path: got.path } : {}) },
      () => `${got.percent} % of ${name} go to the canary`);
  },
  rollback: (name, expected_generation) => change("/v1/rollback_lora_adapter", { lora_name: name, expected_generation },
    said => `${name} is back at ${said.generation?.slice(0, 8)}`),
  pin: (name, _, card) => change("/v1/pin_lora_adapter", { lora_name: name, pinned: card.dataset.pinned !== "true" },
    () => `${name} is ${card.dataset.pinned === "true" ? "no longer pinned" : "pinned"}`),
  async unload(name, expected_generation) {
    if (await dialog(`Unload ${name}?`, "New requests for this name get 404. Requests under way finish."))
      change("/v1/unload_lora_adapter", { lora_name: name, expected_generation }, () => `${name} is unloaded`);
  },
};

$("adapters").addEventListener("click", event => {
  const button = event.target.closest("button[data-do]"), card = event.target.closest(".card");
  if (button && card) actions[button.dataset.do](card.dataset.name, card.dataset.generation, card);
});
$("load").addEventListener("submit", async event => {
  event.preventDefault();
  const name = $("load-name").value.trim();
  const done = await change("/v1/load_lora_adapter", { lora_name: name, lora_path: $("load-path").value.trim(), pinned: $("load-pinned").checked },
    said => `${name} is loaded (${bytes(said.bytes ?? 0)}, rank ${said.rank})`);
  if (done) $("load").reset();
});
$("key").addEventListener("change", read);

await read();
setInterval(() => { if (!document.hidden) read(); }, 2000);

// The page at / of a Packrat server. It knows three things of it: OpenAI's endpoints under v1/, the
// messages of proto/packrat/v1 as JSON under packrat/v1/, and /metrics. What a model writes becomes
// text nodes, never HTML. views.js has what the page shows; here is what that asks and says.
"use strict";

const at = (id) => document.getElementById(id);
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};
// A field of a message: proto's JSON writes sampling_defaults or samplingDefaults, and leaves out
// what is 0 or empty.
const field = (message, name) =>
  message?.[name] ?? message?.[name.replace(/_(.)/g, (_, letter) => letter.toUpperCase())];

// ---- Calls

class Refusal extends Error {
  constructor(status, message, param) {
    super(message);
    this.status = status;
    this.param = param;
  }
}

function headers() {
  const key = at("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function fetchOk(path, options) {
  let response;
  try {
    response = await fetch(path, { ...options, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server does not answer.");
  }
  if (response.ok) return response;
  const text = await response.text();
  let told;
  try {
    told = JSON.parse(text);
  } catch {
    told = {};
  }
  const error = told.error ?? told;
  throw new Refusal(response.status, error.message || text.trim() || response.statusText, error.param);
}

const post = (path, body, signal) => fetchOk(path, {
  method: "POST",
  headers: { "Content-Type": "application/json", ...headers() },
  body: JSON.stringify(body),
  signal,
});
const method = async (name, message = {}) => (await post(`packrat/v1/${name}`, message)).json();

// The events of an answer, as they come.
async function* events(path, body, signal) {
  const response = await post(path, body, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Refusal(0, "The answer broke off.");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.split("\n").filter((line) => line.startsWith("data:"))
        .map((line) => line.slice(5).trimStart()).join("\n");
      if (data === "[DONE]") return;
      if (!data) continue;
      const event = JSON.parse(data);
      if (event.error) throw new Refusal(0, event.error.message, event.error.param);
      yield event;
    }
  }
}

// ---- What is shown of troubles

// A refusal that names a field is told there as well.
function tell(error) {
  at("trouble").hidden = !error;
  at("trouble").textContent = error ? error.message : "";
  at("told")?.remove();
  for (const input of document.querySelectorAll("[aria-invalid]")) {
    input.removeAttribute("aria-invalid");
    input.removeAttribute("aria-errormessage");
  }
  // "stop[0]" is of "stop".
  const name = error?.status === 401 ? "key" : error?.param?.replace(/[.[].*/, "");
  if (!name) return;
  const others = at("others").value.includes(JSON.stringify(name)) ? at("others") : null;
  const input = others ?? at(name);
  if (!input?.matches("input, textarea")) return;
  for (let box = input.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
  input.setAttribute("aria-invalid", "true");
  input.setAttribute("aria-errormessage", "told");
  input.after(make("p", { id: "told", className: "trouble", textContent: error.message }));
  if (name === "key") input.focus();
}

let working = false;

// A button that is off stays in its place among the keys: `disabled` would take the focus away.
const setOff = (button, off) => button.setAttribute("aria-disabled", String(Boolean(off)));
document.addEventListener("click", (event) => {
  if (event.target.closest("[aria-disabled=true]")) event.stopPropagation();
}, { capture: true });

// Runs what a button asks for, one at a time, and tells if it fails.
async function attempt(work) {
  if (working || !model) return;
  working = true;
  tell(null);
  showButtons();
  try {
    await work();
  } catch (error) {
    if (error.name !== "AbortError") tell(error);
  } finally {
    working = false;
    showButtons();
  }
}

// ---- The model and its options

let model = null;   // What GetModelInfo says.
let known = false;  // Whether it says so of the server that answers now, which may have been started anew.

// The longest answer, to a prompt of one token.
const longest = (m) => field(m.limits, "max_context") - 1;

// `most` and `usual` look into GetModelInfo's answer. Ends in brackets belong to the range.
const NUMBERS = [
  { name: "max_tokens", label: "Most tokens", least: 1, most: longest,
    usual: (m) => {
      const text = field(field(m, "stop_defaults"), "max_tokens"), chat = field(m, "chat_max_tokens");
      return text === chat ? text : `${text}, in a chat ${chat}`;
    }, whole: true },
  { name: "temperature", label: "Temperature", least: 0, most: () => 100, sampling: 1 },
  { name: "top_p", label: "Top p", least: 0, most: () => 1, sampling: 1 },
  { name: "top_k", label: "Top k", least: 0, most: (m) => field(m, "vocab_size"), sampling: 0, whole: true },
  { name: "min_p", label: "Min p", least: 0, most: () => 1, sampling: 0, open: "high" },
  { name: "repetition_penalty", label: "Repetition penalty", least: 0, most: () => 10, sampling: 1, open: "low" },
  { name: "presence_penalty", label: "Presence penalty", least: -10, most: () => 10, sampling: 0 },
  { name: "frequency_penalty", label: "Frequency penalty", least: -10, most: () => 10, sampling: 0 },
  { name: "min_tokens", label: "Least tokens", least: 0, most: longest,
    usual: (m) => field(field(m, "stop_defaults"), "min_tokens") ?? 0, whole: true },
  { name: "seed", label: "Seed", least: 0, most: () => Number.MAX_SAFE_INTEGER, usual: () => "random", whole: true },
  { name: "priority", label: "Priority", least: -100, most: () => 100, usual: () => 0, whole: true },
];
const TEXTS = ["regex", "grammar", "json_schema"];
const IDS = ["stop_token_ids", "allowed_token_ids", "banned_token_ids"];
// What the page reads the answer by, or has no way to show.
const OWN = ["model", "prompt", "messages", "session", "stream", "stream_options", "n", "echo", "tools"];

// float32, as JSON writes it: 0.9 comes as 0.8999999762.
const shortened = (number) => typeof number === "number" ? Number(number.toPrecision(6)) : number;

// What was typed stays.
function showOptions() {
  const typed = new Map(NUMBERS.map(({ name }) => [name, at(name)?.value ?? ""]));
  at("numbers").replaceChildren(...NUMBERS.map((option) => {
    const most = option.most(model);
    const usual = option.usual ? option.usual(model)
      : field(field(model, "sampling_defaults"), option.name) ?? option.sampling;
    const range = option.name === "seed" ? "a whole number"
      : `${option.open === "low" ? "above " : ""}${option.least} to ${option.open === "high" ? "below " : ""}${most}`;
    const input = make("input", {
      id: option.name, type: "number", min: option.least, max: most, inputMode: "decimal",
      step: option.whole ? 1 : "any", value: typed.get(option.name), placeholder: shortened(usual), title: range,
    });
    input.setAttribute("aria-describedby", `${option.name}-range`);
    return make("div", {}, make("label", { htmlFor: option.name, textContent: option.label }), input,
      make("span", { className: "hint", id: `${option.name}-range`, textContent: range }));
  }));
}

// What a request says beside its prompt.
function options() {
  const request = { model: model.name, stream: true, stream_options: { include_usage: true } };
  for (const { name, label } of NUMBERS) {
    const input = at(name);
    if (input.validity.badInput) throw new Refusal(0, `${label} is not a number.`, name);
    if (input.value !== "") request[name] = Number(input.value);
  }
  const stop = at("stop").value.split("\n").filter((line) => line !== "");
  if (stop.length) request.stop = stop;
  if (at("ignore_eos").checked) request.ignore_eos = true;
  for (const name of TEXTS) {
    if (at(name).value !== "") request[name] = at(name).value;
  }
  for (const name of IDS) {
    const ids = at(name).value.split(/[\s,]+/).filter(Boolean);
    for (const id of ids) {
      if (!/^\d+$/.test(id)) throw new Refusal(0, `${id} is not a token id.`, name);
    }
    if (ids.length) request[name] = ids.map(Number);
  }
  return Object.assign(request, others());
}

// The fields that have no input of their own.
function others() {
  const text = at("others").value.trim();
  if (!text) return {};
  let fields;
  try {
    fields = JSON.parse(text);
  } catch (error) {
    throw new Refusal(0, `Other fields: ${error.message}`, "others");
  }
  if (fields === null || typeof fields !== "object" || Array.isArray(fields)) {
    throw new Refusal(0, 'Other fields are an object, such as {"cache_salt": "mine"}.', "others");
  }
  const own = OWN.find((name) => name in fields);
  if (own) throw new Refusal(0, `Other fields: ${own} is for the page to say.`, "others");
  return fields;
}

function showHealth(trouble) {
  at("health").textContent = trouble || "ready";
  at("health").className = trouble ? "bad" : "good";
}

async function meet() {
  let found;
  try {
    found = await method("GetModelInfo");
  } catch (error) {
    // Once, since it takes the focus.
    if (error.status === 401 && at("health").textContent !== error.message) tell(error);
    showHealth(error.message);
    return;
  }
  known = true;
  showHealth("");
  if (JSON.stringify(found) === JSON.stringify(model)) return;
  model = found;
  const chats = Boolean(field(field(model, "tokenizer"), "has_chat_template"));
  document.title = `${model.name} · Packrat`;
  at("model").textContent = [model.name, model.family, model.device].filter(Boolean).join(", ");
  at("no-chat").hidden = chats;
  document.querySelector("input[value=chat]").disabled = !chats;
  if (!chats) document.querySelector("input[value=text]").checked = true;
  showMode();
  showOptions();
  if (!field(model, "tokenizer")) {
    tell(new Refusal(0, "This model has no tokenizer: it takes token ids, which this page does not send."));
  }
  await attempt(listSessions);
}

// ---- One answer at a time

let running = null;  // The AbortController of the answer that comes.

function setRunning(controller) {
  running = controller;
  for (const stop of document.querySelectorAll(".stop")) {
    setOff(stop, !running);
    // The same key that begins an answer stops it, and begins the next.
    const starter = stop.parentElement.querySelector(".first");
    const [from, to] = running ? [starter, stop] : [stop, starter];
    if (document.activeElement === from) to.focus();
  }
}

// Adds what comes to `element`, once for each frame; `finish` waits for the last.
function writerTo(element) {
  let waiting = [];
  const scroller = element.closest(".paper") ?? document.scrollingElement;
  const flush = () => {
    const near = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 80;
    element.append(...waiting);
    if (near) scroller.scrollTop = scroller.scrollHeight;
    waiting = [];
  };
  return {
    add(...nodes) {
      if (!waiting.length) requestAnimationFrame(flush);
      waiting.push(...nodes);
    },
    finish() {
      flush();
      // The first of them to be tabbed to; the arrows go on from there.
      if (!element.querySelector(".token[tabindex='0']")) element.querySelector(".token")?.setAttribute("tabindex", 0);
    },
  };
}

const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const percent = (logprob) => `${(100 * Math.exp(logprob)).toPrecision(3)} %`;

// A token that tells how likely it was, and what else was.
function tokenNode(text, logprob, top) {
  const others = top.map(([name, value]) => `${JSON.stringify(name)} ${percent(value)}`).join(", ");
  const node = make("span", { className: "token", textContent: text, tabIndex: -1 });
  node.setAttribute("aria-describedby", "token");
  node.dataset.tells = `${JSON.stringify(text)} ${percent(logprob)}${others ? `; of all: ${others}` : ""}`;
  node.style.setProperty("--p", Math.exp(logprob).toFixed(3));
  return node;
}

// The nodes of one event: `tokens` is [[text, logprob, [[text, logprob]...]]...], or empty.
function nodesOf(text, tokens) {
  const whole = tokens.map(([piece]) => piece).join("");
  // Where a character has several tokens, they cannot be shown one by one.
  if (tokens.length && whole === text) return tokens.map((token) => tokenNode(...token));
  return text ? [document.createTextNode(text)] : [];
}

function tokensOfText(logprobs) {
  if (!logprobs) return [];
  return logprobs.tokens.map((text, i) =>
    [text, logprobs.token_logprobs[i], Object.entries(logprobs.top_logprobs?.[i] ?? {})]);
}

function tokensOfChat(logprobs) {
  return (logprobs?.content ?? []).map(({ token, logprob, top_logprobs: top }) =>
    [token, logprob, (top ?? []).map((other) => [other.token, other.logprob])]);
}

// Streams an answer into `element`; returns its text, and whether it was stopped, which is no trouble.
async function stream(path, request, element, read) {
  const controller = new AbortController();
  const writer = writerTo(element);
  const begin = performance.now();
  let text = "", first = 0, usage = null, reason = null, stopped = false;
  setRunning(controller);
  element.classList.add("writing");
  element.closest("[aria-live]")?.setAttribute("aria-busy", "true");
  at("usage").textContent = "";
  try {
    for await (const event of events(path, request, controller.signal)) {
      usage = event.usage ?? usage;
      for (const choice of event.choices) {
        const [piece, tokens] = read(choice);
        reason = choice.finish_reason ?? reason;
        if (!piece && !tokens.length) continue;
        first ||= performance.now();
        text += piece;
        writer.add(...nodesOf(piece, tokens));
      }
    }
  } catch (error) {
    if (error.name !== "AbortError") throw error;
    stopped = true;
  } finally {
    writer.finish();
    element.classList.remove("writing");
    element.closest("[aria-live]")?.setAttribute("aria-busy", "false");
    setRunning(null);
    showUsage(stopped ? "stopped" : reason, usage, begin, first);
  }
  return { text, stopped };
}

function showUsage(reason, usage, begin, first) {
  const said = [];
  if (reason) said.push({ stop: "came to its end", length: "came to its limit of tokens" }[reason] ?? reason);
  if (usage) {
    const cached = usage.prompt_tokens_details?.cached_tokens;
    said.push(`${count(usage.prompt_tokens, "token")} of prompt${cached ? `, ${cached} of them not computed again` : ""}`);
    said.push(`${usage.completion_tokens} generated`);
  }
  if (first) said.push(`the first after ${Math.round(first - begin)} ms`);
  at("usage").textContent = said.join("; ");
}

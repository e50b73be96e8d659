// The page at / of a Packrat server. It knows three things of it: OpenAI's endpoints under v1/, the
// messages of proto/packrat/v1 as JSON under packrat/v1/, and /metrics. What a model writes becomes
// text nodes, never HTML.
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

function tell(error) {
  at("trouble").hidden = !error;
  at("trouble").textContent = error ? error.message : "";
  for (const input of document.querySelectorAll("[aria-invalid]")) input.removeAttribute("aria-invalid");
  if (error?.status === 401) {
    at("options").open = true;
    at("key").setAttribute("aria-invalid", "true");
    at("key").focus();
  }
  // "stop[0]" is of "stop".
  const input = error?.param && at(error.param.replace(/[.[].*/, ""));
  if (input?.matches("input, textarea")) {
    at("options").open = true;
    input.setAttribute("aria-invalid", "true");
  }
}

let working = false;

// Runs what a button asks for, one at a time, and tells if it fails.
async function attempt(work) {
  if (working) return;
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

let model = null;  // What GetModelInfo says.

// `most` and `usual` look into GetModelInfo's answer. Ends in brackets belong to the range.
const NUMBERS = [
  { name: "max_tokens", label: "Most tokens", least: 1, most: (m) => field(m.limits, "max_context"),
    usual: (m) => field(field(m, "stop_defaults"), "max_tokens") ?? 256, whole: true },
  { name: "temperature", label: "Temperature", least: 0, most: () => 100, sampling: 1 },
  { name: "top_p", label: "Top p", least: 0, most: () => 1, sampling: 1, open: "low" },
  { name: "top_k", label: "Top k", least: 0, most: (m) => field(m, "vocab_size"), sampling: 0, whole: true },
  { name: "min_p", label: "Min p", least: 0, most: () => 1, sampling: 0, open: "high" },
  { name: "repetition_penalty", label: "Repetition penalty", least: 0, most: () => 10, sampling: 1, open: "low" },
  { name: "presence_penalty", label: "Presence penalty", least: -10, most: () => 10, sampling: 0 },
  { name: "frequency_penalty", label: "Frequency penalty", least: -10, most: () => 10, sampling: 0 },
  { name: "min_tokens", label: "Least tokens", least: 0, most: (m) => field(m.limits, "max_context"),
    usual: (m) => field(field(m, "stop_defaults"), "min_tokens") ?? 0, whole: true },
  { name: "seed", label: "Seed", least: 0, most: () => Number.MAX_SAFE_INTEGER, usual: () => "random", whole: true },
];

// float32, as JSON writes it: 0.9 comes as 0.8999999762.
const shortened = (number) => typeof number === "number" ? Number(number.toPrecision(6)) : number;

function showOptions() {
  at("numbers").replaceChildren(...NUMBERS.map((option) => {
    const most = option.most(model);
    const usual = option.usual ? option.usual(model)
      : field(field(model, "sampling_defaults"), option.name) ?? option.sampling;
    const range = option.name === "seed" ? "a whole number"
      : `${option.open === "low" ? "above " : ""}${option.least} to ${option.open === "high" ? "below " : ""}${most}`;
    const input = make("input", {
      id: option.name, type: "number", min: option.least, max: most, inputMode: "decimal",
      step: option.whole ? 1 : "any", placeholder: shortened(usual), title: range,
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
  return request;
}

function showHealth(trouble) {
  at("health").textContent = trouble || "ready";
  at("health").className = trouble ? "bad" : "good";
}

async function meet() {
  try {
    model = await method("GetModelInfo");
  } catch (error) {
    // Once, since it takes the focus.
    if (error.status === 401 && at("health").textContent !== error.message) tell(error);
    showHealth(error.message);
    return;
  }
  const chats = Boolean(field(field(model, "tokenizer"), "has_chat_template"));
  document.title = `${model.name} · Packrat`;
  at("model").textContent = [model.name, model.family, model.device].filter(Boolean).join(", ");
  showHealth("");
  at("no-chat").hidden = chats;
  document.querySelector("input[value=chat]").disabled = !chats;
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
  for (const button of document.querySelectorAll(".stop")) button.disabled = !running;
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
    finish: flush,
  };
}

const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const percent = (logprob) => `${(100 * Math.exp(logprob)).toPrecision(3)} %`;

// A token that tells how likely it was, and what else was.
function tokenNode(text, logprob, top) {
  const others = top.map(([name, value]) => `${JSON.stringify(name)} ${percent(value)}`).join(", ");
  const node = make("span", { className: "token", textContent: text });
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

// Streams an answer into `element`; returns its text. A stop ends it, and is no trouble; null if
// nothing had come.
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
  return stopped && !text ? null : text;
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

// ---- Texts

let given = "";   // What stands before the answer that is shown.
let answer = "";

function showText(before) {
  given = before;
  answer = "";
  const element = make("span");
  at("answer").hidden = false;
  at("answer").replaceChildren(make("span", { className: "given", textContent: given }), element);
  return element;
}

const generate = () => attempt(async () => {
  const session = at("session").value;
  const request = { ...options(), prompt: at("prompt").value };
  if (at("likely").checked) request.logprobs = 5;
  if (session) request.session = session;
  const read = (choice) => [choice.text, tokensOfText(choice.logprobs)];
  const element = showText((session ? given + answer : "") + request.prompt);
  if (session) {
    at("prompt").value = "";
    if (!request.prompt) delete request.prompt;
  }
  try {
    answer = await stream("v1/completions", request, element, read) ?? "";
  } catch (error) {
    // A turn that fails leaves the session as it was.
    if (session && !at("prompt").value) at("prompt").value = request.prompt ?? "";
    if (session) await showSession().catch(() => {});
    throw error;
  }
  if (session) await settle();
});

// ---- Chats

const turns = [];  // [{user, answer}]

function addMessage(role, text) {
  const element = make("div", { className: `message ${role}` },
    make("span", { className: "unseen", textContent: `${role}: ` }), text);
  at("messages").append(element);
  return element;
}

function showTurns() {
  at("messages").replaceChildren();
  for (const turn of turns) {
    addMessage("user", turn.user);
    addMessage("assistant", turn.answer);
  }
  showButtons();
}

const send = () => attempt(async () => {
  const user = at("say").value;
  if (!user.trim()) return;
  const system = at("system").value;
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const turn of turns) {
    messages.push({ role: "user", content: turn.user }, { role: "assistant", content: turn.answer });
  }
  messages.push({ role: "user", content: user });
  const request = { ...options(), messages };
  if (at("likely").checked) Object.assign(request, { logprobs: true, top_logprobs: 5 });
  const read = (choice) => [choice.delta.content ?? "", tokensOfChat(choice.logprobs)];
  addMessage("user", user);
  const element = addMessage("assistant", "");
  at("say").value = "";
  let said = null;
  try {
    said = await stream("v1/chat/completions", request, element, read);
  } finally {
    if (said === null) {
      at("say").value ||= user;
      showTurns();
    } else {
      turns.push({ user, answer: said });
    }
  }
});

// ---- Sessions

let sessionTurns = 0;  // Of the session that is chosen.

const shortName = (handle) => `${handle.slice(0, 8)}…`;

function showButtons() {
  const session = Boolean(at("session").value), busy = working || !model;
  for (const id of ["generate", "send", "create"]) at(id).disabled = busy;
  for (const id of ["fork", "delete"]) at(id).disabled = busy || !session;
  at("rewind").disabled = busy || !session || !sessionTurns;
  at("session").disabled = busy;
  at("take").disabled = busy || session || !answer;
  for (const id of ["take-back", "anew"]) at(id).disabled = busy || !turns.length;
  at("prompt-label").textContent = session ? "What comes next" : "Prompt";
}

async function listSessions(chosen = at("session").value) {
  const sessions = field(await method("ListSessions", { limit: 100 }), "sessions") ?? [];
  at("session").replaceChildren(new Option("no session", ""), ...sessions.map((session) => new Option(
    `${shortName(session.session)} ${count(field(session, "num_turns") ?? 0, "turn")}`, session.session)));
  at("session").value = chosen;
  if (at("session").selectedIndex < 0) at("session").value = "";
  await showSession();
}

// Shows the session as the server has it.
async function showSession() {
  const handle = at("session").value;
  at("session-state").textContent = "";
  if (!handle) return;
  const session = await method("GetSession", { session: handle, include_token_ids: true });
  const ids = field(session, "token_ids") ?? [];
  showText(ids.length ? (await method("Detokenize", { token_ids: ids })).text ?? "" : "");
  sessionTurns = field(session, "num_turns") ?? 0;
  at("session-state").textContent = `${count(sessionTurns, "turn")}, ${count(session.tokens ?? 0, "token")}`;
  at("session").selectedOptions[0].textContent = `${shortName(handle)} ${count(sessionTurns, "turn")}`;
}

// After an answer: one that was stopped is noticed a moment later.
async function settle() {
  for (let tries = 0; tries < 50; ++tries) {
    const session = await method("GetSession", { session: at("session").value });
    if (!session.busy) break;
    await new Promise((done) => setTimeout(done, 100));
  }
  const shown = [...at("answer").childNodes], before = given, said = answer;
  await showSession();
  // The same text, with what is known of its tokens.
  if (given === before + said) {
    at("answer").replaceChildren(...shown);
    [given, answer] = [before, said];
  }
}

const onSessions = (id, work) =>
  at(id).addEventListener("click", () => attempt(() => work(at("session").value)));

onSessions("create", async () => listSessions((await method("CreateSession")).session));
onSessions("fork", async (session) => listSessions((await method("ForkSession", { session })).session));
onSessions("rewind", async (session) => {
  await method("RewindSession", { session, turns: sessionTurns - 1 });
  await showSession();
});
onSessions("delete", async (session) => {
  await method("DeleteSession", { session });
  at("answer").hidden = true;
  [given, answer] = ["", ""];
  await listSessions("");
});
at("session").addEventListener("change", () => attempt(async () => {
  if (!at("session").value) at("answer").hidden = true;
  [given, answer] = ["", ""];
  await showSession();
}));

// ---- Gauges

// The samples of Prometheus's text format: [name, {label: value}, number].
function* samples(text) {
  for (const line of text.split("\n")) {
    const found = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) labels[name] = value;
    yield [found[1], labels, Number(found[3])];
  }
}

function bytes(number) {
  for (const unit of ["B", "KB", "MB", "GB"]) {
    if (number < 1000) return `${Number(number.toPrecision(3))} ${unit}`;
    number /= 1000;
  }
  return `${Number(number.toPrecision(3))} TB`;
}

function showGauges(text) {
  const value = {}, used = new Map(), capacity = new Map();
  for (const [name, labels, number] of samples(text)) {
    const kind = labels.kind + (labels.tier && labels.tier !== "device" ? `, ${labels.tier}` : "");
    if (name === "packrat_state_used_bytes") used.set(kind, number);
    else if (name === "packrat_state_capacity_bytes") capacity.set(kind, number);
    else value[name] = number;
  }
  at("running").textContent = `${value.packrat_requests_running} of ${value.packrat_max_running}`;
  at("waiting").textContent = `${value.packrat_requests_waiting} of ${value.packrat_max_queue}`;
  at("speed").textContent = Math.round(value.packrat_generated_tokens_per_second);
  const kinds = [...capacity].filter(([, most]) => most > 0);
  if (at("memory").childElementCount !== kinds.length) {
    at("memory").replaceChildren(...kinds.map(([kind], i) => make("label", {},
      make("span", { className: "kind" }, make("span", { textContent: kind }), make("span")),
      make("meter", { min: 0, max: 1, id: `state-${i}` }))));
  }
  kinds.forEach(([kind, most], i) => {
    const label = at("memory").children[i];
    label.querySelector(".kind :last-child").textContent = `${bytes(used.get(kind) ?? 0)} of ${bytes(most)}`;
    label.querySelector("meter").value = (used.get(kind) ?? 0) / most;
  });
}

// Every two seconds, while somebody looks. Also meets the model as soon as it is there.
async function watch() {
  if (!document.hidden) {
    try {
      showGauges(await (await fetchOk("metrics", { headers: headers() })).text());
      at("metrics-trouble").textContent = "";
      if (model && at("health").className === "bad") showHealth("");
    } catch (error) {
      at("metrics-trouble").textContent = error.message;
      if (error.status === 0) showHealth(error.message);
    }
    if (!model) await meet();
  }
  setTimeout(watch, 2000);
}

// ---- Keys and buttons

function showMode() {
  const chat = document.querySelector("input[name=mode]:checked").value === "chat";
  at("text-view").hidden = chat;
  at("chat-view").hidden = !chat;
  at("session-hint").textContent = chat ? "Sessions are for texts: a chat sends all of its messages."
    : "A text that the server keeps: each turn sends what is new.";
  at("token").textContent = "";
}

at("generate").addEventListener("click", generate);
at("send").addEventListener("click", send);
for (const button of document.querySelectorAll(".stop")) {
  button.addEventListener("click", () => running?.abort());
}
at("take").addEventListener("click", () => {
  at("prompt").value = given + answer;
  at("answer").hidden = true;
  [given, answer] = ["", ""];
  showButtons();
  at("prompt").focus();
});
at("take-back").addEventListener("click", () => {
  const { user } = turns.pop();
  at("say").value ||= user;
  showTurns();
});
at("anew").addEventListener("click", () => {
  turns.length = 0;
  showTurns();
  at("say").focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.key !== "Enter" || event.isComposing) return;
  const work = event.target === at("prompt") && (event.ctrlKey || event.metaKey) ? generate
    : event.target === at("say") && !event.shiftKey ? send : null;
  if (!work) return;
  event.preventDefault();
  work();
});
for (const input of document.querySelectorAll("input[name=mode]")) input.addEventListener("change", showMode);
document.addEventListener("pointerover", (event) => {
  const token = event.target.closest?.(".token");
  if (token) at("token").textContent = token.dataset.tells;
});
at("key").value = sessionStorage.getItem("packrat-key") ?? "";
at("key").addEventListener("change", () => {
  sessionStorage.setItem("packrat-key", at("key").value);
  tell(null);
  if (model) attempt(listSessions);
});
// On a wide screen there is room for them.
for (const id of ["sessions", "options"]) at(id).open = matchMedia("(min-width: 56rem)").matches;
showMode();
showButtons();
watch();

// What the page shows: texts, chats, sessions and gauges, by the means of page.js, which comes before.
"use strict";

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
    answer = (await stream("v1/completions", request, element, read)).text;
  } catch (error) {
    // A turn that fails leaves the session as it was.
    if (session && !at("prompt").value) at("prompt").value = request.prompt ?? "";
    if (session) await showSession().catch(() => {});
    throw error;
  }
  if (session) await settle();
});

// ---- Chats

// What was said in each session, and under "" in none: {user, answer, before, after} of each turn, the last
// two being how many turns the session had.
const chats = new Map();

function turns() {
  const session = at("session").value;
  if (!chats.has(session)) chats.set(session, []);
  return chats.get(session);
}

// Whether a session holds what was said here, and nothing else.
const saidHere = () => (turns().at(-1)?.after ?? 0) === sessionTurns;

function addMessage(role, text) {
  const element = make("div", { className: `message ${role}` },
    make("span", { className: "unseen", textContent: `${role}: ` }), text);
  at("messages").append(element);
  return element;
}

function showTurns() {
  const messages = turns().flatMap((turn) => [["user", turn.user], ["assistant", turn.answer]]);
  const shown = [...at("messages").children];
  // The same ones stay, with what is known of their tokens.
  if (shown.length !== messages.length
      || messages.some(([role, text], i) => shown[i].textContent !== `${role}: ${text}`)) {
    at("messages").replaceChildren();
    for (const message of messages) addMessage(...message);
  }
  showButtons();
}

// Leaves so many turns of the chat.
async function keepTurns(kept) {
  const chat = turns(), session = at("session").value, { before } = chat[kept];
  if (sessionTurns > before) await method("RewindSession", { session, turns: before });
  chat.length = kept;
  await showSession();
}

// What the server says of a template that has changed what was said before.
const OTHER_TEXT = "does not go on from what the session holds";

const send = () => attempt(async () => {
  const user = at("say").value, session = at("session").value;
  let before = sessionTurns, after = before, said = false;
  if (!user.trim()) return;
  const system = at("system").value;
  const messages = system ? [{ role: "system", content: system }] : [];
  for (const turn of turns()) {
    messages.push({ role: "user", content: turn.user }, { role: "assistant", content: turn.answer });
  }
  messages.push({ role: "user", content: user });
  const request = { ...options(), messages };
  if (session) request.session = session;
  if (at("likely").checked) Object.assign(request, { logprobs: true, top_logprobs: 5 });
  const read = (choice) => [choice.delta.content ?? "", tokensOfChat(choice.logprobs)];
  addMessage("user", user);
  const element = addMessage("assistant", "");
  at("say").value = "";
  const ask = () => stream("v1/chat/completions", request, element, read);
  try {
    const { text, stopped } = await ask().catch(async (error) => {
      if (!session || !error.message.includes(OTHER_TEXT)) throw error;
      // One that drops an earlier answer's thinking, for instance: the session gets all of what it makes now.
      await method("RewindSession", { session, turns: 0 });
      before = after = 0;
      chats.set(session, turns().map((turn) => ({ ...turn, before, after })));
      return ask();
    });
    if (session && !stopped) ++after;
    said = Boolean(text) || !stopped;
    if (said) turns().push({ user, answer: text, before, after });
  } finally {
    if (!said) at("say").value ||= user;
    if (session) await settleChat(after).catch(tell);
    showTurns();
  }
});

// ---- Sessions

let sessionTurns = 0;  // Of the session that is chosen.

const shortName = (handle) => `${handle.slice(0, 8)}…`;

function showButtons() {
  const session = Boolean(at("session").value), busy = working || !model;
  for (const id of ["generate", "create"]) setOff(at(id), busy);
  setOff(at("send"), busy || !saidHere());
  for (const id of ["fork", "delete"]) setOff(at(id), busy || !session);
  setOff(at("session"), busy);
  setOff(at("rewind"), busy || !session || !sessionTurns);
  setOff(at("take"), busy || session || !answer);
  for (const id of ["take-back", "anew"]) setOff(at(id), busy || !turns().length || !saidHere());
  at("prompt-label").textContent = session ? "What comes next" : "Prompt";
  at("session-hint").textContent = at("chat-view").hidden
    ? "A text that the server keeps: each turn sends what is new."
    : saidHere() ? "A chat that the server keeps: a fork goes on in another way."
      : "This session holds what was not said in this chat; go on with it under Text.";
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
  at("session").dataset.shown = handle;
  at("session-state").textContent = "";
  sessionTurns = 0;
  if (!handle) return showTurns();
  const session = await method("GetSession", { session: handle, include_token_ids: true });
  const ids = field(session, "token_ids") ?? [];
  showText(ids.length ? (await method("Detokenize", { token_ids: ids })).text ?? "" : "");
  sessionTurns = field(session, "num_turns") ?? 0;
  at("session-state").textContent = `${count(sessionTurns, "turn")}, ${count(session.tokens ?? 0, "token")}`;
  at("session").selectedOptions[0].textContent = `${shortName(handle)} ${count(sessionTurns, "turn")}`;
  // What was taken back under Text.
  while (turns().at(-1)?.after > sessionTurns) turns().pop();
  showTurns();
}

// After an answer: one that was stopped is noticed a moment later.
async function untilIdle() {
  for (let tries = 0; tries < 50; ++tries) {
    const session = await method("GetSession", { session: at("session").value });
    if (!session.busy) break;
    await new Promise((done) => setTimeout(done, 100));
  }
}

// After a turn of a chat. Of one that did not end by itself the server may hold more than has come: the
// session goes back, and gets what has come with the next one.
async function settleChat(kept) {
  await untilIdle();
  await showSession();
  if (sessionTurns <= kept) return;
  await method("RewindSession", { session: at("session").value, turns: kept });
  await showSession();
}

async function settle() {
  await untilIdle();
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
onSessions("fork", async (session) => {
  const fork = (await method("ForkSession", { session })).session;
  chats.set(fork, [...turns()]);
  await listSessions(fork);
});
onSessions("rewind", async (session) => {
  await method("RewindSession", { session, turns: sessionTurns - 1 });
  await showSession();
});
onSessions("delete", async (session) => {
  await method("DeleteSession", { session });
  chats.delete(session);
  at("answer").hidden = true;
  [given, answer] = ["", ""];
  await listSessions("");
});
at("session").addEventListener("change", () => {
  // Under an answer it stays.
  if (working) at("session").value = at("session").dataset.shown;
  attempt(async () => {
    if (!at("session").value) at("answer").hidden = true;
    [given, answer] = ["", ""];
    await showSession();
  });
});

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

let started;  // When the server's process did: another one may have another model.

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
  if (started !== value.process_start_time_seconds) known = false;
  started = value.process_start_time_seconds;
  kinds.forEach(([kind, most], i) => {
    const label = at("memory").children[i];
    label.querySelector(".kind :last-child").textContent = `${bytes(used.get(kind) ?? 0)} of ${bytes(most)}`;
    label.querySelector("meter").value = (used.get(kind) ?? 0) / most;
  });
}

// Every two seconds, while somebody looks. Also meets the model as soon as it is there, and again
// after a restart.
async function watch() {
  if (!document.hidden) {
    try {
      showGauges(await (await fetchOk("metrics", { headers: headers() })).text());
      at("metrics-trouble").textContent = "";
    } catch (error) {
      at("metrics-trouble").textContent = error.message;
      if (error.status === 0) {
        showHealth(error.message);
        known = false;
      }
    }
    if (!known) await meet();
  }
  setTimeout(watch, 2000);
}

// ---- What is there again when the page is loaded anew, in this tab alone

const KEPT = "packrat-page";

function keep() {
  const page = {
    mode: document.querySelector("input[name=mode]:checked").value,
    session: at("session").value,
    system: at("system").value,
    say: at("say").value,
    chats: [...chats],
  };
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(page));
  } catch {
    sessionStorage.removeItem(KEPT);  // It is more than a tab may keep.
  }
}

function takeUp() {
  const kept = sessionStorage.getItem(KEPT);
  if (!kept) return;
  const page = JSON.parse(kept);
  document.querySelector(`input[value=${page.mode}]`).checked = true;
  if (page.session) at("session").append(new Option(shortName(page.session), page.session, true, true));
  at("system").value = page.system;
  at("say").value = page.say;
  for (const [session, said] of page.chats) chats.set(session, said);
}

addEventListener("pagehide", keep);
// A phone may end a page that nobody looks at without a word.
document.addEventListener("visibilitychange", () => document.hidden && keep());

// ---- Keys and buttons

function showMode() {
  const chat = document.querySelector("input[name=mode]:checked").value === "chat";
  at("text-view").hidden = chat;
  at("chat-view").hidden = !chat;
  at("token").textContent = "";
  showButtons();
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
at("take-back").addEventListener("click", () => attempt(async () => {
  const { user } = turns().at(-1);
  await keepTurns(turns().length - 1);
  at("say").value ||= user;
}));
at("anew").addEventListener("click", () => attempt(async () => {
  await keepTurns(0);
  at("say").focus();
}));
// Of the tokens of an answer one can be tabbed to; from there the arrows go on.
function goOn(event, token) {
  const all = [...token.parentElement.querySelectorAll(".token")], i = all.indexOf(token);
  const next = { ArrowLeft: all[i - 1], ArrowRight: all[i + 1], Home: all[0], End: all.at(-1) }[event.key];
  if (!next) return;
  event.preventDefault();
  next.focus();
}
// Where keys are drawn on the screen, there is none for a line but Enter.
const touched = matchMedia("(pointer: coarse)");
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
  if (event.target.matches(".token")) goOn(event, event.target);
  // One that is held begins an answer, and does not stop it.
  if (event.repeat && event.key === "Enter" && event.target.matches("button")) event.preventDefault();
  if (event.key !== "Enter" || event.isComposing) return;
  const work = event.target === at("prompt") && (event.ctrlKey || event.metaKey) ? generate
    : event.target === at("say") && !event.shiftKey && !touched.matches ? send : null;
  if (!work) return;
  event.preventDefault();
  work();
});
for (const input of document.querySelectorAll("input[name=mode]")) input.addEventListener("change", showMode);
for (const type of ["pointerover", "focusin"]) {
  document.addEventListener(type, (event) => {
    const token = event.target.closest?.(".token");
    if (!token) return;
    at("token").textContent = token.dataset.tells;
    if (type !== "focusin") return;
    token.parentElement.querySelector(".token[tabindex='0']")?.setAttribute("tabindex", -1);
    token.tabIndex = 0;
  });
}
at("key").value = sessionStorage.getItem("packrat-key") ?? "";
at("key").addEventListener("change", () => {
  sessionStorage.setItem("packrat-key", at("key").value);
  tell(null);
  if (model) attempt(listSessions);
});
// On a wide screen there is room for them.
for (const id of ["sessions", "options"]) at(id).open = matchMedia("(min-width: 56rem)").matches;
takeUp();
showMode();
showButtons();
watch();

// The page: what is open, what is being answered, and what each control does.

import { absorbEvent, connectMemory } from "./agent.js";
import * as api from "./api.js";
import { commandOf, showHelp } from "./commands.js";
import { Compare } from "./compare.js";
import { $, announce, askPerson, download, icon } from "./dom.js";
import { connectInput, setInput } from "./input.js";
import { connectSettings } from "./settings.js";
import { Side } from "./side.js";
import * as store from "./store.js";
import { Thread } from "./thread.js";
import * as tree from "./tree.js";

const conversations = new Map();
const running = new Map(); // conversation's id -> {controller, node}
const saving = new Map(); // conversation's id -> timer
let models = [];
let agent = false; // whether the server has one
let current = tree.newConversation();

const thread = new Thread($("thread"), $("talk"), {
  again: (node) => answer(current, current.nodes[node.parent]),
  edit: (node, text) => answer(current, tree.add(current, node.parent, { role: "user", text })),
  choose(node, label) {
    tree.choose(current, node);
    changed(current);
    const buttons = [...(thread.items.get(node.id)?.querySelectorAll(".branches button") ?? [])];
    (buttons.find((button) => button.title === label && !button.disabled) ?? buttons.find((button) => !button.disabled))?.focus();
  },
});
Object.assign(thread.does, { reply, asked: (card) => $("input").value || card.focus() }); // not while somebody types
const side = new Side({ open, rename, remove });
const compare = new Compare({ keep });

// -- what is shown

function draw() {
  const answering = running.get(current.id);
  thread.draw(current, answering?.node);
  $("empty").hidden = tree.path(current).length > 0;
  const title = comparing() ? "Side by side" : tree.titleOf(current);
  $("title").textContent = title;
  document.title = `${title} · LanBot`;
  drawModels();
  drawGauge();
  drawButton();
  side.draw(conversations.values(), current);
}

function drawModels() {
  if (models.length && !models.some((model) => model.id === current.model)) current.model = models[0].id;
  $("model").replaceChildren(...models.map((model) => new Option(model.id, model.id, false, model.id === current.model)));
  const acting = Boolean(current.agent);
  $("model").hidden = comparing() || acting || !models.length;
  $("compare").hidden = models.length < 2;
  $("settings").hidden = acting && !comparing();
  $("agent").hidden = comparing() || !agent || tree.path(current).length > 0; // chosen before the first message
  $("agent").setAttribute("aria-pressed", String(acting));
  $("memory").hidden = !agent || !acting;
}

function drawGauge() {
  const room = models.find((model) => model.id === current.model)?.max_model_len;
  const used = tree.path(current).findLast((node) => node.usage)?.usage.total;
  $("gauge").hidden = comparing() || !(room && used);
  if ($("gauge").hidden) return;
  $("gauge").style.setProperty("--used", `${Math.min(100, (100 * used) / room)}%`);
  $("gauge").classList.toggle("full", used > 0.85 * room);
  $("gauge").lastChild.textContent = `${used.toLocaleString("en")} of ${room.toLocaleString("en")} tokens`;
  for (const [name, value] of Object.entries({ valuemin: 0, valuemax: room, valuenow: used, valuetext: $("gauge").textContent })) {
    $("gauge").setAttribute(`aria-${name}`, value);
  }
}

function drawButton() {
  const busy = comparing() ? compare.running : running.has(current.id);
  $("send").replaceChildren(icon(busy ? "stop" : "up"));
  $("send").setAttribute("aria-label", busy ? "Stop" : "Send");
  $("send").title = busy ? "Stop (Esc)" : "Send (Enter)";
}

// -- conversations

function changed(conversation) {
  save(conversation);
  if (conversation === current) draw();
  else side.draw(conversations.values(), current);
}

// A conversation is kept once it has a message; the text of a first one in work is kept too.
function save(conversation) {
  if (!Object.keys(conversation.nodes).length) {
    localStorage.setItem("draft", conversation.draft);
    return;
  }
  conversations.set(conversation.id, conversation);
  if (saving.has(conversation.id)) return;
  saving.set(conversation.id, setTimeout(() => saveNow(conversation), 300));
}

async function saveNow(conversation) {
  clearTimeout(saving.get(conversation.id));
  saving.delete(conversation.id);
  if (!conversations.has(conversation.id)) return;
  try {
    await store.put(conversation);
  } catch (error) {
    announce(`Not saved: ${error?.message ?? error}`);
  }
}

function open(id) {
  current = conversations.get(id) ?? fresh();
  show();
  thread.toEnd();
  if (!side.isPhone) $("input").focus(); // there it would open the keyboard
}

function fresh() {
  const made = tree.newConversation(models[0]?.id ?? "", JSON.parse(localStorage.getItem("settings") ?? "{}"));
  made.draft = localStorage.getItem("draft") ?? "";
  return made;
}

function startNew() {
  open("");
}

function show() {
  compareView(false);
  history.replaceState(null, "", conversations.has(current.id) ? `#${current.id}` : location.pathname);
  setInput(current.draft);
  side.close(false);
  draw();
}

async function rename(conversation) {
  const title = await askPerson({ title: "Rename the conversation", label: "Name", input: tree.titleOf(conversation), yes: "Rename" });
  if (title === null) return;
  conversation.title = title.trim();
  changed(conversation);
}

async function remove(conversation) {
  const yes = await askPerson({ title: "Delete the conversation?", text: tree.titleOf(conversation), yes: "Delete" });
  if (yes === null) return;
  running.get(conversation.id)?.controller.abort();
  conversations.delete(conversation.id);
  await store.remove(conversation.id);
  if (conversation === current) startNew();
  else draw();
  $("new").focus();
}

async function importFile(file) {
  try {
    const found = store.fromJson(await file.text());
    for (const conversation of found) {
      conversations.set(conversation.id, conversation);
      await store.put(conversation);
    }
    if (found.length) open(found[0].id);
    announce(`${found.length} imported`);
  } catch (error) {
    await askPerson({ title: "Nothing was imported", text: error.message });
  }
}

// -- asking

async function answer(conversation, after) {
  running.get(conversation.id)?.controller.abort();
  const body = tree.requestAfter(conversation, after);
  const node = tree.add(conversation, after.id, { role: "assistant", model: conversation.agent ? "Agent" : conversation.model, parts: [] });
  const controller = new AbortController();
  const mine = { controller, node };
  running.set(conversation.id, mine);
  changed(conversation);
  history.replaceState(null, "", `#${current.id}`);
  thread.toEnd();
  announce("The model answers");
  try {
    for await (const piece of conversation.agent ? act(conversation, node, after.text, controller.signal) : api.ask(body, controller.signal)) {
      tree.absorb(node, piece);
      save(conversation);
      if (conversation === current) thread.update(node);
    }
  } catch (error) {
    if (controller.signal.aborted) node.finish = "stopped";
    else node.error = error.message;
  }
  delete node.question;
  if (running.get(conversation.id) === mine) running.delete(conversation.id);
  const near = thread.nearEnd();
  changed(conversation);
  saveNow(conversation);
  if (conversation === current && near) thread.toEnd();
  announce(node.error ?? (node.finish === "stopped" ? "Stopped" : tree.textOf(node).slice(0, 1000)));
}

// A turn of the agent; what happens in it goes into the answer by its events.
async function* act(conversation, node, request, signal) {
  for await (const row of api.turn(request, conversation.agent.session, signal)) {
    conversation.agent.session = absorbEvent(node, row) ?? conversation.agent.session;
    if (row.event === "question") announce(`The agent asks: may it call ${row.tool}?`);
    yield {};
  }
}

async function reply(node, answer) {
  const { id } = node.question;
  delete node.question;
  thread.update(node);
  $("input").focus();
  try {
    await api.answerQuestion(id, answer);
  } catch (error) {
    announce(error.message);
  }
}

async function send() {
  const text = $("input").value.trim();
  const command = commandOf(text);
  if (command) return run(command);
  if (!text || !models.length) return models.length ? undefined : connect();
  if (comparing()) return besides(text);
  if (running.has(current.id)) return;
  setInput("");
  const wasNew = !Object.keys(current.nodes).length;
  current.draft = "";
  if (wasNew) localStorage.removeItem("draft");
  await answer(current, tree.add(current, tree.path(current).at(-1)?.id ?? tree.ROOT, { role: "user", text }));
}

function stop() {
  if (comparing()) compare.stop();
  else running.get(current.id)?.controller.abort();
}

async function run({ name, rest }) {
  setInput("");
  current.draft = "";
  save(current);
  if (name === "new") startNew();
  else if (name === "help") showHelp();
  else if (name === "export") exported([current], `${tree.titleOf(current).slice(0, 40)}.json`);
  else if (name === "system") {
    current.system = rest;
    changed(current);
    announce(rest ? "The system prompt is set" : "There is no system prompt now");
  } else if (name === "clear" && (await askPerson({ title: "Delete all messages of this conversation?", yes: "Delete" })) !== null) {
    running.get(current.id)?.controller.abort();
    conversations.delete(current.id);
    await store.remove(current.id);
    Object.assign(current, { nodes: {}, chosen: {}, agent: current.agent && { session: 0 } });
    show();
    $("input").focus();
  }
}

function exported(which, name) {
  download(name.replace(/[^\w. -]+/g, "_"), store.toJson(which));
}

// -- models side by side

const comparing = () => !$("beside").hidden;

function compareView(on) {
  if (on === comparing()) return;
  compare.stop();
  $("beside").hidden = !on;
  $("talk").hidden = on;
  $("compare").setAttribute("aria-pressed", String(on));
  if (on) compare.draw(models);
  draw();
  $("input").focus();
}

async function besides(text) {
  const done = compare.ask(text, current);
  setInput("");
  drawButton();
  await done;
  drawButton();
}

function keep(model, text, node) {
  current = { ...fresh(), model, draft: "", settings: { ...current.settings }, system: current.system };
  const asked = tree.add(current, tree.ROOT, { role: "user", text });
  tree.add(current, asked.id, node);
  save(current);
  show();
  history.replaceState(null, "", `#${current.id}`);
}

// -- keys

connectInput({
  typed(text) {
    current.draft = text;
    save(current);
  },
  send,
  stop,
});
document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]")) return;
  const command = event.ctrlKey || event.metaKey;
  if (event.key === "Escape") stop();
  else if (command && !event.shiftKey && event.key.toLowerCase() === "k") side.search();
  else if (command && event.shiftKey && event.key.toLowerCase() === "o") startNew();
  else return;
  event.preventDefault();
});

// -- the rest of the controls

for (const [id, name] of Object.entries({ "open-side": "menu", "close-side": "close", theme: "theme", compare: "columns", settings: "gear", send: "up" })) {
  $(id).replaceChildren(icon(name));
}
$("new").addEventListener("click", startNew);
$("agent").addEventListener("click", () => {
  current.agent = current.agent ? null : { session: 0 };
  draw();
  $("input").focus();
});
connectMemory();
$("compare").addEventListener("click", () => compareView(!comparing()));
$("export").addEventListener("click", () => exported([...conversations.values()], "conversations.json"));
$("import").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  if ($("file").files[0]) await importFile($("file").files[0]);
  $("file").value = "";
});
$("ask-no").addEventListener("click", () => $("ask-dialog").close());
$("model").addEventListener("change", () => {
  current.model = $("model").value;
  changed(current);
});
$("theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme.trim() === "dark" ||
    (!document.documentElement.dataset.theme && matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", document.documentElement.dataset.theme);
});
connectSettings(() => current, () => {
  localStorage.setItem("settings", JSON.stringify(current.settings));
  save(current);
});
api.asking.key = (again) => askPerson({
  title: again ? "That key was not right" : "This server asks for a key",
  text: "It is kept until this tab is closed.", label: "Key", input: "", secret: true, yes: "Go on",
});
addEventListener("pagehide", () => { for (const id of saving.keys()) saveNow(conversations.get(id)); });
store.listen(async (id) => {
  if (running.has(id)) return;
  const found = await store.read(id);
  if (found) conversations.set(id, found);
  else conversations.delete(id);
  if (id === current.id && found) current = found;
  draw();
});

async function connect() {
  try {
    models = await api.listModels();
    agent = await api.hasAgent();
    draw();
  } catch (error) {
    models = [];
    draw();
    announce(error.message);
    $("empty").querySelector(".note").textContent = error.message;
  }
}

async function begin() {
  const [kept] = await Promise.all([store.open(), connect()]);
  if (!kept) announce("This window keeps no conversations");
  for (const conversation of await store.all()) conversations.set(conversation.id, conversation);
  const typed = $("input").value; // by somebody who was faster than the page
  open(location.hash.slice(1));
  if (typed) setInput((current.draft = typed));
  document.querySelector("header").inert = false;
  document.documentElement.dataset.ready = "";
}

begin();

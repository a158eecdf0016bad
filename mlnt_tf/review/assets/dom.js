// The data of the page, and small helpers to build elements. Texts of the data become text nodes,
// never markup.

const PAGE = JSON.parse(document.getElementById("content").textContent);
const IMAGES = JSON.parse(document.getElementById("images").textContent);
const IS_AUDIT = PAGE.sample === "audit";
const ITEM_OF_ID = new Map(PAGE.items.map((item, index) => [item.id, index]));

const byId = (id) => document.getElementById(id);
const className = (index) => PAGE.classes[index] ?? "unknown";
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") node.className = value;
    else if (typeof value === "function") node.addEventListener(name, value);
    else if (typeof value === "boolean") node[name] = value;
    else if (value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

// The class that is advised, or null. An audit shows it after the verdict: it biases the judgment.
function suggestionOf(item, entry) {
  return IS_AUDIT && !entry ? null : item.suggested;
}

function missingSuggestion(entry) {
  return IS_AUDIT && !entry ? "no suggestion yet" : "no suggestion";
}

function imageText(item, entry) {
  const suggestion = suggestionOf(item, entry);
  return `Image ${item.record}: given label ${className(item.given)}`
    + (suggestion === null ? "" : `, suggested ${className(suggestion)}`);
}

function picture(index, alt, properties = {}) {
  return el("img", { src: IMAGES[index], alt, draggable: false, ...properties });
}

// A name in any direction of writing, which does not affect the text around it.
function name(text, properties = {}) {
  return el("bdi", { title: text, ...properties }, text);
}

// A command line, which breaks between its words only.
function commandLine(text) {
  const words = text.split(" ").flatMap((word) => [el("span", {}, word), " "]);
  return el("pre", {}, ...words.slice(0, -1));
}

function badge(entry) {
  const kind = VERDICTS.find((one) => one.verdict === entry.verdict);
  const text = entry.verdict === "correct" ? `→ ${entry.label}` : kind.badge;
  return el("span", { class: `badge ${entry.verdict}`, title: text }, text);
}

function table(headings, rows, properties = {}) {
  return el("table", properties,
    el("thead", {}, el("tr", {}, ...headings.map((text) => el("th", { scope: "col" }, text)))),
    el("tbody", {}, ...rows.map((cells) =>
      el("tr", {}, ...cells.map((cell) => el("td", {}, cell))))));
}

function say(text) {
  byId("status").textContent = text;
}

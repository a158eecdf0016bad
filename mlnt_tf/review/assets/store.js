// The verdicts: kept in the browser's storage under the digest of the run's given labels, so that
// they survive a reload and a page with other images of the same run.

const VERDICTS = [
  { key: "k", verdict: "keep", text: "Keep given label", short: "Keep", badge: "keep" },
  { key: "s", verdict: "correct", text: "Take suggestion", short: "Suggestion" },
  { key: "c", verdict: "choose", text: "Another label…", short: "Choose…" },
  { key: "d", verdict: "drop", text: "Drop image", short: "Drop", badge: "drop" },
  { key: "n", verdict: "none", text: "None of these", short: "None", badge: "none" },
  { key: "m", verdict: "several", text: "Several classes", short: "Several", badge: "several" },
  { key: "u", verdict: "unsure", text: "Cannot tell", short: "Cannot tell", badge: "cannot tell" },
];

class Store {
  constructor(digest, sample) {
    this.key = `mlnt_tf ${sample} ${digest}`;
    this.verdicts = new Map();  // id: {verdict, label, record, given}
    this.undoStack = [];
    this.redoStack = [];
    this.listeners = [];
    this.works = true;
    this.read();
    window.addEventListener("storage", (event) => {  // Another tab has changed the verdicts.
      if (event.key !== this.key) return;
      this.read();
      this.notify();
    });
  }

  read() {
    try {
      const entries = JSON.parse(localStorage.getItem(this.key) ?? "[]");
      this.verdicts = new Map(entries);
    } catch {
      this.works = false;
    }
  }

  write() {
    try {
      localStorage.setItem(this.key, JSON.stringify([...this.verdicts]));
      this.works = true;
    } catch {
      this.works = false;
    }
  }

  get(id) {
    return this.verdicts.get(id);
  }

  // Sets entries, a list of [id, entry or undefined], as one step of undo.
  set(entries) {
    this.undoStack.push(this.replace(entries));
    this.redoStack = [];
  }

  replace(entries) {
    const before = entries.map(([id]) => [id, this.verdicts.get(id)]);
    for (const [id, entry] of entries) {
      if (entry) this.verdicts.set(id, entry);
      else this.verdicts.delete(id);
    }
    this.write();
    this.notify();
    return before;
  }

  // Returns the ids of the undone step, or null if there is none.
  step(from, to) {
    const entries = from.pop();
    if (!entries) return null;
    to.push(this.replace(entries));
    return entries.map(([id]) => id);
  }

  undo() {
    return this.step(this.undoStack, this.redoStack);
  }

  redo() {
    return this.step(this.redoStack, this.undoStack);
  }

  notify() {
    for (const listener of this.listeners) listener();
  }

  rows() {
    return [...this.verdicts].sort(([a], [b]) => a - b).map(([id, entry]) =>
      [id, entry.record, entry.given, entry.label, entry.verdict, PAGE.sample]);
  }
}

// The entry for a verdict on an item. A correction to the given label keeps it.
function entryFor(item, verdict, label = "") {
  const given = className(item.given);
  let kind = verdict;
  if (kind === "correct" && label === given) kind = "keep";
  const corrected = { keep: given, correct: label }[kind] ?? "";
  return { verdict: kind, label: corrected, record: item.record, given };
}

// Adds the verdicts of a corrections.csv. Returns [number added, number of rows of other data].
function loadCorrections(store, text) {
  const [header, ...rows] = parseCsv(text);
  const places = HEADER.map((column) => (header ?? []).indexOf(column));
  if (places.slice(0, 5).includes(-1)) {
    throw new Error(`The file needs the columns ${HEADER.join(", ")}.`);
  }
  const known = new Set(VERDICTS.map((one) => one.verdict));
  const entries = [];
  let others = 0;
  for (const row of rows) {
    const [id, record, given, label, verdict] = places.map((place) => row[place] ?? "");
    const item = PAGE.items[ITEM_OF_ID.get(Number(id))];
    const fits = !item || (item.record === record && className(item.given) === given);
    if (/^\d+$/.test(id) && fits && known.has(verdict) && verdict !== "choose") {
      entries.push([Number(id), { verdict, label, record, given }]);
    } else {
      others++;
    }
  }
  if (entries.length) store.set(entries);
  return [entries.length, others];
}

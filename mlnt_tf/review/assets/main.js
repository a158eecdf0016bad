// The application: tabs, views, keys, progress and saving.

const KEYS = [
  ...VERDICTS.map(({ key, text }) => [[key], text]),
  [["→", "←"], "Next, previous image"], [["z"], "Undo (Shift+z: redo)"],
  [["x"], "Take back the verdict on this image"],
  [["g"], "Grid or one image"], [["Space"], "Grid: select the image"],
  [["Shift", "arrows"], "Grid: extend the selection"],
  [["a", "Esc"], "Grid: select all, none"], [["Enter"], "Grid: open the image"],
  [["Ctrl", "S"], `Save ${PAGE.file}`], [["?"], "This help"],
];

class App {
  constructor() {
    this.store = new Store(PAGE.digest, PAGE.sample);
    this.filters = new Filters(this.store, () => this.refilter());
    this.chooser = new Chooser();
    this.view = "single";
    this.list = [];
    this.position = 0;
    this.unsaved = false;
    this.single = new SingleView(this);
    this.grid = new GridView(this);
    this.store.listeners.push(() => this.update());
    this.connect();
    this.refilter();
    this.goToFirstOpen();
    showOverview((given, suggested) => this.showPair(given, suggested));
    showBad();
    say(PAGE.reviewed
      ? `${plural(PAGE.reviewed, "image")} judged in an earlier run are not shown.`
      : "Press ? for all keys. Your verdicts are kept in this browser.");
  }

  connect() {
    const title = byId("title");
    title.append(IS_AUDIT ? "Audit of " : "Review of ", name(PAGE.run));
    document.body.classList.toggle("pixelated", PAGE.pixelated);
    byId("save").textContent = `Save ${PAGE.file}`;
    this.tabs = Object.keys(TABS).filter((key) => key === "overview" || key === "suspects"
      || (key === "bad" ? PAGE.bad.length : PAGE.lists.some((list) => list.key === key
        && list.items.length)));
    for (const key of this.tabs) {
      const list = PAGE.lists.find((one) => one.key === key)?.items;
      const count = { bad: PAGE.bad, suspects: this.filters.worthALook }[key] ?? list;
      byId("tabs").append(el("button", { type: "button", id: `tab-${key}`,
        click: () => this.showTab(key) }, TABS[key],
      count === undefined ? null : el("span", { class: "count" }, String(count.length))));
    }
    byId("view-single").addEventListener("click", () => this.setView("single"));
    byId("view-grid").addEventListener("click", () => this.setView("grid"));
    byId("undo").addEventListener("click", () => this.undo());
    byId("save").addEventListener("click", () => this.save());
    byId("help").addEventListener("click", () => this.help());
    byId("load").addEventListener("click", () => byId("load-file").click());
    byId("load-file").addEventListener("change", (event) => this.load(event.target));
    document.addEventListener("keydown", (event) => this.press(event));
    // A list that was opened with the mouse gives the keys back to the page.
    let usesPointer = false;
    document.addEventListener("pointerdown", () => { usesPointer = true; }, true);
    document.addEventListener("keydown", () => { usesPointer = false; }, true);
    byId("filters").addEventListener("change", (event) => {
      if (usesPointer) event.target.blur();
    });
    window.addEventListener("beforeunload", (event) => {
      if (this.unsaved && !this.store.works) event.preventDefault();
    });
  }

  get showsImages() {
    return this.filters.tab !== "overview" && this.filters.tab !== "bad";
  }

  showTab(key) {
    this.filters.openTab(key);
    this.grid.selected.clear();
    say("");
    this.refilter();
  }

  showPair(given, suggested) {
    this.filters.clear();
    this.filters.set("given", given);
    this.filters.set("suggested", suggested);
    this.showTab("suspects");
  }

  setView(view) {
    this.view = view;
    if (!this.showsImages) this.filters.openTab("suspects");
    this.refilter();
    if (view === "grid") this.grid.focus();
  }

  // Computes the list again and stays at the current image if it is still there.
  refilter() {
    const current = this.list[this.position];
    this.list = this.filters.matching();
    this.position = Math.max(this.list.indexOf(current), 0);
    this.draw();
  }

  goToFirstOpen() {
    const open = this.list.findIndex((index) => !this.store.get(PAGE.items[index].id));
    this.position = Math.max(open, 0);
    this.draw();
  }

  draw() {
    const { tab } = this.filters;
    for (const key of this.tabs) {
      byId(`tab-${key}`).setAttribute("aria-current", key === tab ? "page" : "false");
    }
    byId("single").hidden = !this.showsImages || this.view !== "single";
    byId("grid").hidden = !this.showsImages || this.view !== "grid";
    byId("overview").hidden = tab !== "overview";
    byId("bad").hidden = tab !== "bad";
    byId("filters").hidden = !this.showsImages;
    byId("view-single").setAttribute("aria-pressed", this.view === "single");
    byId("view-grid").setAttribute("aria-pressed", this.view === "grid");
    this.filters.note.textContent = NOTES[tab] ?? "";
    if (this.showsImages && this.view === "grid") this.grid.show();
    this.update();
  }

  // Updates what depends on the verdicts.
  update() {
    const items = this.filters.worthALook.map((index) => PAGE.items[index]);
    const done = items.filter((item) => this.store.get(item.id)).length;
    byId("progress").value = items.length ? done / items.length : 0;
    const others = this.store.verdicts.size - done;
    byId("progress-text").textContent = `${done} of ${items.length}`
      + (others ? ` + ${others} other` : "");
    byId("undo").disabled = !this.store.undoStack.length;
    byId("save").disabled = !this.store.verdicts.size;
    const warning = byId("warning");
    warning.hidden = this.store.works;
    warning.textContent = "This browser does not keep your progress for this file. Save "
      + `${PAGE.file} before you close the page; “Load…” reads it again.`;
    if (!this.showsImages) return;
    if (this.view === "single") this.single.show();
    else this.grid.update();
  }

  move(offset) {
    const place = this.position + offset;
    if (!(place in this.list)) {
      say(offset > 0 ? "This is the last image of the list." : "This is the first image.");
      return;
    }
    this.position = place;
    this.draw();
  }

  open(place) {
    this.position = place;
    this.setView("single");
  }

  // The items that a verdict applies to.
  targets() {
    const selected = this.view === "grid" ? [...this.grid.selected] : [];
    const indices = selected.length ? selected : this.list.slice(this.position, this.position + 1);
    return indices.map((index) => PAGE.items[index]);
  }

  judge(verdict) {
    const items = this.targets();
    if (!items.length) return;
    if (verdict === "choose") {
      this.chooser.open(items, (label) => this.apply(items.map((item) =>
        [item, entryFor(item, "correct", label)]), `→ ${label}`));
    } else if (verdict === "correct") {
      this.takeSuggestions(items);
    } else {
      this.apply(items.map((item) => [item, entryFor(item, verdict)]),
        VERDICTS.find((one) => one.verdict === verdict).badge);
    }
  }

  // Images without a suggestion are left as they are.
  takeSuggestions(items) {
    const suggestions = items.map((item) => [item, suggestionOf(item, this.store.get(item.id))])
      .filter(([, label]) => label !== null);
    if (!suggestions.length) {
      const isBlind = IS_AUDIT && items.some((item) => !this.store.get(item.id));
      const none = `${items.length > 1 ? "These images have" : "This image has"} no suggestion.`;
      say(isBlind ? "An audit gives no suggestion before your verdict." : none);
      return;
    }
    const labels = new Set(suggestions.map(([, label]) => label));
    const skipped = items.length - suggestions.length;
    this.apply(suggestions.map(([item, label]) =>
      [item, entryFor(item, "correct", className(label))]),
    (labels.size > 1 ? "each its suggestion" : `→ ${className([...labels][0])}`)
      + (skipped ? `; ${plural(skipped, "image")} without a suggestion skipped` : ""));
  }

  // Sets the verdicts, a list of [item, entry], and says in `text` what they are.
  apply(verdicts, text) {
    this.unsaved = true;
    this.store.set(verdicts.map(([item, entry]) => [item.id, entry]));
    say(`${verdicts.length === 1 ? verdicts[0][0].record : `${verdicts.length} images`}: ${text}`);
    if (this.view === "grid") {
      const hadSelection = this.grid.selected.size > 0;
      this.grid.selected.clear();
      if (!hadSelection && this.position + 1 in this.list) this.position++;
      this.grid.update();
      this.grid.focus();
    } else if (this.position + 1 in this.list) {
      this.position++;
      this.draw();
    } else {
      say(`${byId("status").textContent} — the end of this list.`);
    }
  }

  takeBack() {
    const entries = this.targets().filter((item) => this.store.get(item.id))
      .map((item) => [item.id, undefined]);
    if (entries.length) this.store.set(entries);
    this.grid.selected.clear();
    this.update();
    say(entries.length ? "The verdict was taken back." : "There is no verdict to take back.");
  }

  undo(again = false) {
    const ids = again ? this.store.redo() : this.store.undo();
    if (!ids) {
      say(`There is nothing to ${again ? "redo" : "undo"}.`);
      return;
    }
    const place = this.list.indexOf(ITEM_OF_ID.get(ids[0]));
    if (place >= 0) this.position = place;
    this.draw();
    if (this.view === "grid" && this.showsImages) this.grid.focus();
    say(`${plural(ids.length, "verdict")} ${again ? "applied again" : "undone"}.`);
  }

  save() {
    const rows = this.store.rows();
    if (!rows.length) {
      say("There is no verdict to save yet.");
      return;
    }
    const url = URL.createObjectURL(new Blob([toCsv(rows)], { type: "text/csv;charset=utf-8" }));
    const link = el("a", { href: url, download: PAGE.file });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
    this.unsaved = false;
    this.dialog("saved-dialog", `Saved ${plural(rows.length, "verdict")}`,
      el("p", {}, `Your browser has stored ${PAGE.file} with its downloads. To write the corrected `
        + "table, type this with the path of that file:"),
      commandLine(PAGE.command),
      el("p", {}, "A later file from this page contains these verdicts too."));
  }

  async load(input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    try {
      const [added, others] = loadCorrections(this.store, await file.text());
      this.refilter();
      say(`${plural(added, "verdict")} loaded`
        + (others ? `; ${plural(others, "row")} of other data left out.` : "."));
    } catch (error) {
      say(`${file.name} cannot be loaded. ${error.message}`);
    }
  }

  help() {
    this.dialog("help-dialog", "Keys",
      el("table", { class: "keys" }, ...KEYS.map(([keys, text]) => el("tr", {},
        el("td", {}, ...keys.flatMap((key, place) => [place ? " " : "", el("kbd", {}, key)])),
        el("td", {}, text)))),
      el("p", {}, "Verdicts stay in this browser, also when you close the page. Nothing is sent "
        + `anywhere. ${PAGE.file} is the file that mlnt_tf.relabel reads.`));
  }

  dialog(id, heading, ...children) {
    const dialog = byId(id);
    dialog.replaceChildren(el("h2", {}, heading), ...children,
      el("button", { type: "button", class: "close", autofocus: true,
        click: () => dialog.close() }, "Close"));
    dialog.showModal();
  }

  press(event) {
    if (document.querySelector("dialog[open]")) return;
    if (event.ctrlKey || event.metaKey) {
      this.pressWithControl(event);
      return;
    }
    if (event.altKey || event.target.matches("input, select, textarea")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const onButton = event.target.matches("button") && (key === " " || key === "Enter");
    if (!onButton && this.handle(key, event)) event.preventDefault();
  }

  pressWithControl(event) {
    const key = event.key.toLowerCase();
    if (key === "s") this.save();
    else if (key === "z") this.undo(event.shiftKey);
    else if (key === "a" && this.view === "grid" && this.showsImages) {
      this.grid.press({ key: "a" });
    } else return;
    event.preventDefault();
  }

  // Returns whether the key was used.
  handle(key, event) {
    const general = { "?": () => this.help(), z: () => this.undo(event.shiftKey),
      g: () => this.setView(this.view === "grid" ? "single" : "grid") };
    if (general[key]) {
      general[key]();
      return true;
    }
    if (!this.showsImages) return false;
    const verdict = VERDICTS.find((one) => one.key === key);
    if (verdict) this.judge(verdict.verdict);
    else if (key === "x") this.takeBack();
    else if (this.view === "grid") return this.grid.press(event);
    else if (key === "ArrowRight" || key === "ArrowDown") this.move(1);
    else if (key === "ArrowLeft" || key === "ArrowUp") this.move(-1);
    else return false;
    return true;
  }
}

const app = new App();

// The dialog that chooses any label: type to filter, arrows to move, Enter to take.

const MAX_OPTIONS = 60;

class Chooser {
  constructor() {
    this.dialog = byId("choose-dialog");
    this.recent = [];
    this.heading = el("h2");
    this.input = el("input", { type: "text", role: "combobox", "aria-expanded": "true",
      "aria-controls": "options", "aria-label": "Label", autocomplete: "off",
      placeholder: "Type a part of the label", spellcheck: "false", dir: "auto" });
    this.options = el("ul", { class: "options", id: "options", role: "listbox",
      "aria-label": "Labels" });
    this.note = el("p");
    this.dialog.append(this.heading, this.input, this.options, this.note);
    this.input.addEventListener("input", () => this.show(0));
    this.input.addEventListener("keydown", (event) => this.press(event));
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) this.dialog.close();
    });
  }

  // Opens the dialog for some items. `take` is called with the name of the chosen class.
  open(items, take) {
    this.take = take;
    const [item] = items;
    this.heading.textContent = items.length === 1
      ? "Which label is right?" : `Which label is right for ${items.length} images?`;
    this.hints = new Map();
    for (const label of this.recent) this.hints.set(label, "used before");
    for (const neighbor of item.neighbors ?? []) this.hints.set(neighbor[1], "of a neighbor");
    if (items.length === 1) {
      if (!IS_AUDIT) this.hints.set(item.predicted, "predicted");
      this.hints.set(item.given, "given");
      if (!IS_AUDIT) this.hints.set(item.suggested, "suggested");
    }
    this.hints.delete(null);
    this.hints.delete(undefined);
    const rank = ["suggested", "predicted", "of a neighbor", "used before", "given"];
    const first = [...this.hints].sort((a, b) => rank.indexOf(a[1]) - rank.indexOf(b[1]))
      .map(([label]) => label);
    const others = PAGE.classes.map((_, label) => label).filter((label) => !this.hints.has(label));
    others.sort((a, b) => className(a).localeCompare(className(b)));
    this.order = [...first, ...others];
    this.input.value = "";
    this.show(0);
    this.dialog.showModal();
    this.input.focus();
  }

  show(place) {
    const typed = this.input.value.trim().toLocaleLowerCase();
    const matches = this.order.filter((label) =>
      className(label).toLocaleLowerCase().includes(typed));
    if (typed) {
      const begins = (label) => className(label).toLocaleLowerCase().startsWith(typed);
      matches.sort((a, b) => begins(b) - begins(a));
    }
    this.shown = matches.slice(0, MAX_OPTIONS);
    this.active = Math.max(0, Math.min(place, this.shown.length - 1));
    this.options.replaceChildren(...this.shown.map((label, row) => el("li", {
      role: "option", id: `option-${row}`, "aria-selected": String(row === this.active),
      click: () => this.finish(row),
    }, el("span", { dir: "auto" }, className(label)),
    el("span", {}, this.hints.get(label) ?? ""))));
    const active = this.shown.length ? `option-${this.active}` : "";
    this.input.setAttribute("aria-activedescendant", active);
    const rest = matches.length - this.shown.length;
    this.note.textContent = matches.length
      ? `${rest ? `${plural(rest, "more label")}: type on. ` : ""}Enter takes the marked label, `
        + "Esc closes."
      : "No label contains this text.";
    this.options.children[this.active]?.scrollIntoView({ block: "nearest" });
  }

  press(event) {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 };
    if (moves[event.key]) this.show(this.active + moves[event.key]);
    else if (event.key === "Enter") this.finish(this.active);
    else return;
    event.preventDefault();
  }

  finish(place) {
    const label = this.shown[place];
    if (label === undefined) return;
    this.recent = [label, ...this.recent.filter((one) => one !== label)].slice(0, 8);
    this.dialog.close();
    this.take(className(label));
  }
}

// Which images are shown, and in which order.

const TABS = {
  suspects: IS_AUDIT ? "Random images" : "Suspects", duplicates: "Duplicates",
  near: "Near duplicates", outliers: "Outliers", bad: "Not decodable", overview: "Overview",
};
const NOTES = {
  suspects: IS_AUDIT
    ? "Drawn at random. Judge all of them: their errors estimate the rate in all labels."
    : "The labels that are most worth a look come first.",
  duplicates: "Equal images with different labels. Each group has a number.",
  near: "Similar images, those with different labels first. "
    + `Cosine distance of their features below ${PAGE.nearDistance}.`,
  outliers: "The images that are least similar to all others.",
};
const ORDERS = [
  ["listed", "As listed", null],
  ["label_score", "Most suspicious", (item) => item.label_score],
  ["suggestion_score", "Clearest suggestion", (item) => -item.suggestion_score],
  ["neighbor_agreement", "Fewest agreeing neighbors", (item) => item.neighbor_agreement],
  ["outlier_score", "Most unusual image", (item) => item.outlier_score],
  ["probability_of_given", "Least probable given label", (item) => item.probability_of_given],
];

class Filters {
  constructor(store, changed) {
    this.store = store;
    this.changed = changed;
    this.tab = "suspects";
    // The images to judge: the flagged ones, or all if none is flagged or the sample is random.
    const suspects = PAGE.lists[0].items;
    const flagged = IS_AUDIT ? [] : suspects.filter((index) => PAGE.items[index].issue);
    this.hasFlagged = flagged.length > 0;
    this.worthALook = this.hasFlagged ? flagged : suspects;
    this.values = { given: "", suggested: "", split: "", kept: "", order: "listed" };
    this.controls = {};
    this.shown = new Map();  // The value of "Show" in the other tabs.
    this.build();
    this.set("show", this.defaultShow(this.tab));
  }

  // Lists of duplicates and outliers are complete by default.
  defaultShow(tab) {
    return this.hasFlagged && tab === "suspects" ? "flagged" : "";
  }

  openTab(tab) {
    this.shown.set(this.tab, this.values.show);
    this.tab = tab;
    this.set("show", this.shown.get(tab) ?? this.defaultShow(tab));
  }

  get list() {
    return PAGE.lists.find((list) => list.key === this.tab);
  }

  build() {
    const items = PAGE.items;
    const counted = (values) => {
      const counts = new Map();
      for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
      return [...counts].sort((a, b) => b[1] - a[1]);
    };
    const classes = (key) => counted(items.map((item) => item[key])
      .filter((index) => index !== null))
      .map(([index, count]) => [String(index), `${className(index)} (${count})`]);
    const splits = counted(items.map((item) => item.split)).map(([split]) => [split, split]);
    this.add("given", "Given", [["", "any label"], ...classes("given")]);
    if (!IS_AUDIT && items.some((item) => item.suggested !== null)) {
      this.add("suggested", "Suggested", [["", "any label"], ...classes("suggested")]);
    }
    if (splits.length > 1) this.add("split", "Split", [["", "all"], ...splits]);
    const flagged = [["flagged", "worth a look"],
      ["flagged-todo", "worth a look, not reviewed"]];
    this.add("show", "Show", [...(this.hasFlagged ? flagged : []), ["", "all"],
      ["todo", "all, not reviewed"], ["done", "all, reviewed"]]);
    if (items.some((item) => item.filter_kept !== undefined)) {
      this.add("kept", "Filter of the run", [["", "all"], ["true", "kept"], ["false", "removed"]]);
    }
    const orders = ORDERS.filter(([key]) => key === "listed"
      || items.some((item) => typeof item[key] === "number"));
    this.add("order", "Order", orders.map(([key, text]) => [key, text]));
    this.note = el("span", { class: "note" });
    byId("filters").append(this.note);
  }

  add(key, text, options) {
    const select = el("select", { id: `filter-${key}`, change: () => {
      this.values[key] = select.value;
      this.changed();
    } }, ...options.map(([value, label]) => el("option", { value }, label)));
    this.controls[key] = select;
    byId("filters").append(el("label", {}, text, select));
  }

  set(key, value) {
    this.values[key] = value;
    if (this.controls[key]) this.controls[key].value = value;
  }

  clear() {
    for (const key of ["given", "suggested", "split", "kept"]) this.set(key, "");
    this.shown.clear();
    this.set("show", this.defaultShow(this.tab));
  }

  // The images of the list that match, as indices of items. The result is not updated when a
  // verdict changes, so that an image does not vanish under the hand of the person who judges it.
  matching() {
    const { given, suggested, split, show, kept, order } = this.values;
    const places = (this.list?.items ?? []).filter((index) => {
      const item = PAGE.items[index];
      return (!given || String(item.given) === given)
        && (!suggested || String(item.suggested) === suggested)
        && (!split || item.split === split)
        && (!show.startsWith("flagged") || item.issue)
        && (!show.endsWith("todo") || !this.store.get(item.id))
        && (show !== "done" || this.store.get(item.id))
        && (!kept || String(item.filter_kept) === kept);
    });
    const value = ORDERS.find(([key]) => key === order)[2];
    if (value) {
      const rank = (index) => {
        const number = value(PAGE.items[index]);
        return Number.isFinite(number) ? number : Infinity;
      };
      places.sort((a, b) => (rank(a) < rank(b) ? -1 : Number(rank(a) > rank(b))));
    }
    return places;
  }

  groupOf(index) {
    const list = this.list;
    return list?.groups ? list.groups[list.items.indexOf(index)] : null;
  }
}

// One image with its labels, verdict buttons, neighbors and scores.

const SCORES = [
  ["label_score", "Label score", "Low is suspicious. This is not a probability."],
  ["suggestion_score", "Suggestion score", "High: the suggested label fits better."],
  ["neighbor_agreement", "Agreeing neighbors", "Share of the nearest images with the given label."],
  ["outlier_score", "Typical image", "Low: no other image is similar."],
  ["probability_of_given", "p(given label)", "Output of the run's network."],
];

// `entry` is the verdict on the one image, {} without one, or null for buttons that apply to many
// images.
function verdictButtons(app, view, entry, suggestion = null) {
  const isChosen = entry?.verdict === "correct"
    && (suggestion === null || entry.label !== className(suggestion));
  const pressed = isChosen ? "choose" : entry?.verdict;
  return el("div", { class: "verdicts", role: "group", "aria-label": "Verdict" },
    ...VERDICTS.map(({ key, verdict, text, short }) => el("button", {
      type: "button", class: verdict === "choose" ? "correct" : verdict, id: `${view}-${verdict}`,
      "aria-pressed": entry ? String(verdict === pressed) : undefined,
      disabled: Boolean(entry) && verdict === "correct" && suggestion === null,
      "aria-keyshortcuts": key, title: text, click: () => app.judge(verdict),
    }, el("span", {}, entry ? text : short), el("kbd", {}, key))),
    el("button", { type: "button", id: `${view}-back`, disabled: Boolean(entry) && !entry.verdict,
      title: "Take back the verdict", "aria-keyshortcuts": "x", click: () => app.takeBack() },
    el("span", {}, "Take back"), el("kbd", {}, "x")));
}

function neighborList(item, suggestion) {
  return el("ol", { class: "neighbors" }, ...item.neighbors.map(([image, label, distance]) => {
    const kind = { [suggestion]: "is-suggested", [item.given]: "is-given" }[label] ?? "";
    const text = className(label);
    return el("li", { title: `${text}, cosine distance ${distance}` },
      picture(image, `Neighbor with the label ${text}`), el("span", { class: kind }, name(text)));
  }));
}

function scoreList(item) {
  const rows = SCORES.filter(([key]) => typeof item[key] === "number");
  return el("dl", { class: "scores" }, ...rows.flatMap(([key, text, meaning]) => {
    const bar = el("i");
    bar.style.width = `${100 * Math.min(Math.max(item[key], 0), 1)}%`;
    return [el("dt", { title: meaning }, text),
      el("div", { class: "meter", "aria-hidden": "true" }, bar),
      el("dd", { title: meaning }, item[key].toFixed(3))];
  }));
}

// Before a verdict in an audit, the details do not include what the networks say, or the truth.
function detailList(item, isBlind) {
  const rows = [["Record", name(item.record)], ["Split", `${item.split}, id ${item.id}`]];
  if (!isBlind) rows.push(...judgments(item));
  return el("dl", { class: "details" },
    ...rows.flatMap(([term, value]) => [el("dt", {}, term), el("dd", {}, value)]));
}

function judgments(item) {
  const rows = [];
  if (item.predicted !== null && item.predicted !== item.suggested) {
    rows.push(["Predicted", name(className(item.predicted))]);
  }
  if (item.true !== undefined) rows.push(["True label", name(className(item.true))]);
  if (item.filter_kept !== undefined) {
    rows.push(["Filter of the run", item.filter_kept ? "kept" : "removed"]);
  }
  rows.push(["Flagged", item.issue ? "worth a look" : "no"]);
  return rows;
}

function suggestedLabel(suggestion, entry) {
  return suggestion === null
    ? el("div", { class: "label missing" }, el("small", {}, "Suggested"), missingSuggestion(entry))
    : el("div", { class: "label suggested" }, el("small", {}, "Suggested"),
      el("b", { dir: "auto" }, className(suggestion)));
}

class SingleView {
  constructor(app) {
    this.app = app;
    this.root = byId("single");
  }

  show() {
    // The view is built again, so a focused button is focused again.
    const focused = this.root.contains(document.activeElement) ? document.activeElement.id : "";
    this.build();
    if (focused) byId(focused)?.focus();
  }

  build() {
    const { list, position, store } = this.app;
    if (!list.length) {
      this.root.replaceChildren(el("p", { class: "empty" }, "No image matches these filters."));
      return;
    }
    const index = list[position];
    const item = PAGE.items[index];
    const entry = store.get(item.id);
    const suggestion = suggestionOf(item, entry);
    const isBlind = IS_AUDIT && !entry;
    const group = this.app.filters.groupOf(index);
    const step = (kind, text, sign, offset) => el("button", { type: "button", class: `step ${kind}`,
      id: `step-${kind}`,
      "aria-label": text, title: text, disabled: !(position + offset in list),
      click: () => this.app.move(offset) }, sign);
    this.root.replaceChildren(
      el("figure", { class: "stage" },
        el("span", { class: "place" }, `${position + 1} of ${list.length}`
          + (group ? ` · group ${group}` : "")),
        entry ? el("span", { class: "mark" }, badge(entry)) : null,
        picture(item.image, imageText(item, entry)),
        step("previous", "Previous image", "←", -1), step("next", "Next image", "→", 1)),
      el("div", { class: "panel" },
        el("div", { class: "labels" },
          el("div", { class: "label given" }, el("small", {}, "Given"),
            el("b", { dir: "auto" }, className(item.given))),
          el("span", { class: "arrow", "aria-hidden": "true" }, "→"),
          suggestedLabel(suggestion, entry)),
        verdictButtons(this.app, "single", entry ?? {}, suggestion),
        item.neighbors
          ? el("div", {}, el("h2", {}, "Nearest images and their labels"),
            neighborList(item, suggestion))
          : null,
        isBlind ? null : el("div", {}, el("h2", {}, "Scores from 0 to 1"), scoreList(item)),
        el("div", {}, el("h2", {}, "Details"), detailList(item, isBlind))));
  }
}

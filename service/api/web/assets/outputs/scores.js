// Scores of classes as bars: percent where they are probabilities, plain numbers where they are logits.
import { bar, make, number, percent } from "/web/page.js";

const TOP = 5;
const NAME = /score|prob|softmax|predict|logit|class|output|dense/i;
const POSITIONS = 8; // that are shown of scores at several places of the picture

export const looksLikeScores = (name, values) => values.length > 1 && (isSoftmax(values) || NAME.test(name));

function isSoftmax(values) {
  const sum = values.reduce((total, value) => total + (value ?? NaN), 0);
  return Math.abs(sum - 1) < 0.02 && values.every((value) => value >= -1e-6 && value <= 1.0001);
}

// `row`: numbers by class, one number, lists of numbers, or `top_k`'s [{index, value, label}].
export function drawScores(row, labels, values = "unknown") {
  if (Array.isArray(row) && Array.isArray(row[0])) return drawPositions(row, labels, values);
  const [ranked, every] = rank(row, labels);
  if (!ranked.length) return [make("p", { className: "soft" }, "no scores")];
  const isWhole = Array.isArray(row) && typeof row[0] !== "object";
  if (values === "unknown" && isWhole && isSoftmax(every)) values = "softmax";
  const isShare = values === "softmax" || values === "sigmoid" || (!isWhole && every.every((value) => value >= 0 && value <= 1));
  const numbers = every.filter((value) => value !== null);
  const [low, high] = isShare ? [0, 1] : [Math.min(...numbers, 0), Math.max(...numbers)];
  const chances = values === "logits" && isWhole ? softmax(every) : null;
  const items = ranked.slice(0, TOP).map(({ index, value, label }) => {
    const text = isShare ? percent(value) : number(value) + (chances ? ` (softmax ${percent(chances[index])})` : "");
    const line = make("div", {}, make("span", { className: "label", title: label ?? "" }, label ?? `class ${index}`), make("span", {}, text));
    return make("li", {}, line, bar(value === null ? 0 : (value - low) / (high - low || 1)));
  });
  const parts = [make("ol", { className: "scores" }, ...items)];
  const missing = every.length - numbers.length;
  if (missing) parts.push(make("p", { className: "note" }, `${missing} of ${every.length} scores are NaN or infinite.`));
  if (!isShare) parts.push(make("p", { className: "soft small" }, values === "logits" ? "These are logits, no probabilities." : "These are no probabilities: logits, or some other scale."));
  if (labels.length && isWhole && labels.length !== row.length) parts.push(make("p", { className: "soft small" }, `The model has ${labels.length} labels for ${row.length} scores, so none is shown.`));
  return parts;
}

// [{index, value, label}], largest first and NaN last, and all values. Labels count only if there is one for each score.
function rank(row, labels) {
  if (!Array.isArray(row)) return [[{ index: 0, value: row, label: "score" }], [row]];
  if (row[0] !== null && typeof row[0] === "object") return [row, row.map(({ value }) => value)];
  const order = row.map((_, index) => index).sort((a, b) => (row[b] ?? -Infinity) - (row[a] ?? -Infinity) || a - b);
  const named = labels.length === row.length ? labels : [];
  return [order.slice(0, TOP).map((index) => ({ index, value: row[index], label: named[index] })), row];
}

function softmax(logits) {
  const most = Math.max(...logits.map((value) => value ?? -Infinity));
  const powers = logits.map((value) => (value === null ? 0 : Math.exp(value - most)));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

function drawPositions(rows, labels, values) {
  let lists = rows;
  while (Array.isArray(lists[0]?.[0])) lists = lists.flat(); // places of two dimensions become one list
  const items = lists.slice(0, POSITIONS).map((row, at) => make("li", {}, make("p", { className: "soft small" }, `position ${at}`), ...drawScores(row, labels, values).slice(0, 1)));
  const more = lists.length > POSITIONS ? [make("p", { className: "soft small" }, `and ${lists.length - POSITIONS} positions more`)] : [];
  return [make("ol", { className: "positions" }, ...items), ...more];
}

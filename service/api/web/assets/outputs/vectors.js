// An embedding: its size and length, and how similar it is to those of the pictures before it.
import { bar, make, number, plural } from "/web/page.js";

const SHOWN = 5; // similarities, to the last pictures

// `context.memory` keeps the vectors of the page by output, until another target is chosen.
export function drawVector(row, name, { memory, name: picture }) {
  const vector = Array.isArray(row) ? row.flat(Infinity) : [row];
  const length = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
  const missing = vector.filter((value) => value === null).length;
  const parts = [make("p", { className: "numbers" }, `${plural(vector.length, "number")}, length ${number(length)}: ${vector.slice(0, 4).map(number).join(", ")}${vector.length > 4 ? ", …" : ""}`)];
  if (missing) parts.push(make("p", { className: "note" }, `${missing} of them are NaN or infinite.`));
  const before = memory.get(name) ?? [];
  if (before.length) {
    const items = before.slice(-SHOWN).reverse().map((other) => {
      const likeness = similarity(vector, other.vector);
      return make("li", {}, make("div", {}, make("span", { className: "label" }, other.picture), make("span", {}, number(likeness))), bar(likeness ?? 0));
    });
    parts.push(make("p", { className: "soft small" }, "Similarity (cosine) to the pictures before it:"), make("ol", { className: "scores" }, ...items));
  } else {
    parts.push(make("p", { className: "soft small" }, "Add another picture to see how similar the two are."));
  }
  memory.set(name, [...before, { picture, vector }]);
  return parts;
}

function similarity(one, other) {
  const [dot, first, second] = one.reduce(([a, b, c], value, at) => [a + value * other[at], b + value * value, c + other[at] * other[at]], [0, 0, 0]);
  const likeness = dot / Math.sqrt(first * second);
  return Number.isFinite(likeness) ? likeness : null;
}

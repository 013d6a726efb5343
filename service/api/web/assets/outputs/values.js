// Any value in bounded space: its shape, its range, the first of its numbers; a text, cut where it is long.
import { make, number, plural } from "/web/page.js";
import { drawBlob, fromBase64 } from "/web/pictures.js";

const FEW = 16; // numbers that are simply written
const FIRST = 200; // of more, in a fold
const MOST_CHARS = 2000;

export function shapeOf(value) {
  const shape = [];
  for (let inner = value; Array.isArray(inner); inner = inner[0]) shape.push(inner.length);
  return shape;
}

// Numbers (or whatever else came) of any shape.
export function drawValues(row, type) {
  if (typeof row === "object" && row !== null && "b64" in row) return drawBlob(fromBase64(row.b64), "output");
  const flat = Array.isArray(row) ? row.flat(Infinity) : [row];
  const words = flat.slice(0, FIRST).map((value) => (typeof value === "object" && value !== null ? JSON.stringify(value) : number(value)));
  if (flat.length <= FEW) return [make("p", { className: "numbers" }, words.join(", ") || "empty")];
  const shape = `${type} [${shapeOf(row).join(", ")}]`.trim();
  const fold = make("details", {}, make("summary", {}, `The first ${words.length} values`), make("pre", { tabIndex: 0 }, words.join(", ")));
  return [make("p", { className: "numbers" }, `${shape}: ${plural(flat.length, "value")}${rangeText(flat)}`), fold];
}

function rangeText(flat) {
  const numbers = flat.filter((value) => typeof value === "number");
  if (!numbers.length) return "";
  let [low, high, sum] = [Infinity, -Infinity, 0];
  for (const value of numbers) { low = Math.min(low, value); high = Math.max(high, value); sum += value; }
  const missing = flat.length - numbers.length;
  return `, ${number(low)} to ${number(high)}, mean ${number(sum / numbers.length)}${missing ? `, ${number(missing)} NaN or infinite` : ""}`;
}

// Text, or bytes that are no text; several of them as a list.
export function drawText(row) {
  if (Array.isArray(row)) {
    const flat = row.flat(Infinity);
    const more = flat.length > FEW ? [make("p", { className: "soft small" }, `and ${flat.length - FEW} more`)] : [];
    return [make("ul", { className: "texts" }, ...flat.slice(0, FEW).map((text) => make("li", {}, ...drawText(text)))), ...more];
  }
  if (row !== null && typeof row === "object" && "b64" in row) return drawBlob(fromBase64(row.b64), "output");
  const text = String(row);
  const more = text.length > MOST_CHARS ? [make("p", { className: "soft small" }, `and ${plural(text.length - MOST_CHARS, "character")} more`)] : [];
  if (!text) return [make("p", { className: "soft" }, "an empty text")];
  return [make("p", { className: "text" }, text.slice(0, MOST_CHARS)), ...more];
}

// Every output of an answer, drawn by what it is: by the server's `kinds` where it tells them, else by shape and name.
import { make } from "/web/page.js";
import { typeOf } from "/web/models.js";
import { drawDetection, drawObjects } from "/web/boxes.js";
import { drawMask } from "/web/masks.js";
import { drawPicture } from "/web/pictures.js";
import { drawScores, looksLikeScores } from "/web/scores.js";
import { drawText, drawValues, shapeOf } from "/web/values.js";
import { drawVector } from "/web/vectors.js";

const ORDER = ["boxes", "mask", "image", "scores", "text", "embedding", "numbers"];
const NAMES = { boxes: /box/i, scores: /score|conf|prob/i, classes: /class|label|categor/i, count: /num|count/i };
const MASK_NAME = /mask|seg|class_map|logit/i;
const VECTOR_NAME = /embed|feature|vector|pool|latent/i;
const CLASS_NAME = /predict|class|label|argmax/i;
const MIN_SIDE = 4; // of what is drawn as a picture or a mask

// The elements of the first row of `body`. `context`: {target, labels, view (of the picture, or null), name, memory}.
export async function drawOutputs(body, context) {
  const { signature } = context.target;
  const rows = Object.fromEntries(Object.entries(body).map(([name, column]) => [name, Array.isArray(column) ? column[0] : column]));
  const kinds = Object.fromEntries(Object.keys(rows).map((name) => [name, kindOf(name, rows[name], signature, context)]));
  const hidden = groupDetection(kinds, rows);
  const names = Object.keys(rows).filter((name) => !hidden.has(name));
  names.sort((a, b) => ORDER.indexOf(kinds[a].kind) - ORDER.indexOf(kinds[b].kind));
  const drawn = [];
  for (const name of names) {
    const told = names.length > 1 || kinds[name].kind !== "scores" ? [make("h4", {}, name)] : [];
    drawn.push(make("section", { className: "output", ariaLabel: name }, ...told, ...(await drawOne(name, rows, kinds[name], context))));
  }
  return drawn;
}

async function drawOne(name, rows, told, context) {
  const row = rows[name];
  const labels = told.labels === false ? [] : context.labels;
  switch (told.kind) {
    case "boxes": return told.isObjects ? drawObjects(row, context.view) : drawDetection(rows, told, labels, context.view);
    case "mask": return drawMask(row, { labels, view: context.view, front: context.target.signature.front });
    case "image": return drawPicture(row, `${name} of ${context.name}`, told.range);
    case "scores": return drawScores(row, labels, told.values);
    case "text": return drawText(row);
    case "embedding": return drawVector(row, name, context);
    default: return drawNumbers(name, row, context);
  }
}

// Numbers; a whole number whose name says that it is a class is told with its label.
function drawNumbers(name, row, context) {
  const label = CLASS_NAME.test(name) && Number.isInteger(row) ? context.labels[row] : undefined;
  return label === undefined || label === String(row) ? drawValues(row, typeOfOutput(name, context)) : [make("p", { className: "numbers" }, `${row}, ${label}`)];
}

function typeOfOutput(name, { target }) {
  const found = target.signature.outputs.find((tensor) => tensor.name === name);
  return found ? typeOf(found) : "";
}

// What the server says of an output, if the value that came has that form; else what its shape and name look like.
function kindOf(name, row, signature, context) {
  const told = signature.kinds?.[name];
  const isObjects = Array.isArray(row) && row.length > 0 && typeof row[0] === "object" && row[0] !== null && "left" in row[0];
  if (isObjects || (told?.kind === "boxes" && Array.isArray(row) && !row.length)) return { kind: "boxes", isObjects: true };
  if (told && told.kind !== "numbers") return told;
  return guess(name, row, typeOfOutput(name, context), context.labels.length);
}

function guess(name, row, type, labelCount) {
  if (Array.isArray(row) && row[0] !== null && typeof row[0] === "object" && "value" in row[0]) return { kind: "scores" };
  if (type === "string" || typeof row === "string") return { kind: "text" };
  const shape = shapeOf(row);
  const [height, width, depth] = shape;
  const isFloat = /float/.test(type);
  if (shape.length === 2 && width === 4 && NAMES.boxes.test(name)) return { kind: "boxes" };
  if (Math.min(height, width) >= MIN_SIDE) {
    if (shape.length === 3 && (depth > 4 || MASK_NAME.test(name))) return { kind: "mask" };
    if (shape.length === 3 && [1, 3, 4].includes(depth)) return { kind: "image" };
    if (shape.length === 2 && (!isFloat || MASK_NAME.test(name))) return { kind: "mask" };
  }
  if (shape.length === 1 && isFloat) {
    const values = /logit/i.test(name) ? "logits" : "unknown";
    if (height === labelCount || looksLikeScores(name, row)) return { kind: "scores", values };
    if (height >= 8 || VECTOR_NAME.test(name)) return { kind: "embedding" };
  }
  return { kind: "numbers" };
}

// The scores, classes and counts of a detection are drawn with its boxes. Returns their names.
function groupDetection(kinds, rows) {
  const hidden = new Set();
  for (const [name, told] of Object.entries(kinds)) {
    if (told.kind !== "boxes" || told.isObjects) continue;
    const count = rows[name]?.length;
    for (const part of ["scores", "classes", "count"]) {
      const fits = (other) => other !== name && (part === "count" ? typeof rows[other] === "number" : Array.isArray(rows[other]) && rows[other].length === count && !Array.isArray(rows[other][0]));
      told[part] ??= Object.keys(rows).find((other) => NAMES[part].test(other) && !hidden.has(other) && fits(other)) ?? null;
      if (told[part] in rows) hidden.add(told[part]);
    }
  }
  return hidden;
}

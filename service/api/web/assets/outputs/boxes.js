// Boxes over the picture, and the list of what they hold; a slider hides the unlikely ones.
import { make, number, percent } from "/web/page.js";
import { drawValues } from "/web/values.js";
import { colourOf } from "/web/masks.js";

const LEAST = 0.3; // shown at first
const MOST = 100; // boxes that are drawn

// `objects`: the server's own, in pixels of the picture: {left, top, right, bottom} and perhaps score, class and label.
export function drawObjects(objects, view) {
  if (!objects.length) return [make("p", {}, "Nothing found.")];
  const sorted = [...objects].sort((a, b) => (b.score ?? 1) - (a.score ?? 1)).slice(0, MOST);
  const hasScores = sorted.some(({ score }) => score !== undefined);
  const best = Math.max(...sorted.map(({ score }) => score ?? 1));
  const list = make("ol", { className: "objects" });
  const told = make("output");
  let layer = null;
  const show = (least) => {
    const kept = sorted.filter(({ score }) => (score ?? 1) >= least);
    told.textContent = ` ${percent(least)}: ${kept.length} of ${objects.length}`;
    layer?.canvas.remove(); // this one alone: a mask may lie over the picture too
    layer = view?.width ? view.layer() : null;
    if (layer) drawBoxes(layer, kept);
    list.replaceChildren(...kept.map(drawItem));
  };
  const slider = make("input", { type: "range", min: 0, max: 1, step: 0.01, value: Math.min(LEAST, Math.max(0, best)) });
  slider.addEventListener("input", () => show(Number(slider.value)));
  show(hasScores ? Number(slider.value) : 0);
  return [...(hasScores ? [make("label", { className: "slider" }, "Score of at least", slider, told)] : []), list];
}

// The boxes of plain numbers. Those of 0 to 1 are TensorFlow's y, x, y, x; of others nobody knows whose pixels they are.
export function drawDetection(rows, told, labels, view) {
  const boxes = rows[told.boxes ?? Object.keys(rows).find((name) => Array.isArray(rows[name]?.[0]) && rows[name][0].length === 4)];
  const scores = rows[told.scores] ?? null;
  const classes = rows[told.classes] ?? null;
  const isShare = boxes.every((box) => box.every((side) => side !== null && side >= -0.5 && side <= 1.5));
  if (!isShare || !view?.width) {
    const why = isShare ? "" : "These boxes are not from 0 to 1, so the page can't tell where in the picture they are.";
    return [make("p", { className: "note" }, why), ...drawValues(boxes, "")];
  }
  const count = Math.min(boxes.length, rows[told.count] ?? boxes.length);
  const objects = boxes.slice(0, count).map(([top, left, bottom, right], at) => ({
    left: left * view.width, top: top * view.height, right: right * view.width, bottom: bottom * view.height,
    ...(scores && { score: scores[at] ?? 0 }),
    ...(classes && { class: classes[at], label: labels[classes[at] - (told.first_class ?? 0)] }),
  }));
  return drawObjects(objects, view);
}

function drawBoxes({ context, pixel }, objects) {
  context.font = `${13 * pixel}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const object of [...objects].reverse()) { // the best one on top
    const { left, top, right, bottom } = object;
    context.lineWidth = 2.5 * pixel;
    context.strokeStyle = context.fillStyle = colourOf(object.class ?? 1);
    context.strokeRect(left, top, right - left, bottom - top);
    const text = nameOf(object);
    const width = context.measureText(text).width + 8 * pixel;
    context.fillRect(left - 1.25 * pixel, Math.max(0, top - 17 * pixel), width, 17 * pixel);
    context.fillStyle = "#000";
    context.fillText(text, left + 3 * pixel, Math.max(0, top - 17 * pixel) + 2 * pixel);
  }
}

const nameOf = (object) => object.label ?? (object.class === undefined ? "object" : `class ${object.class}`);

function drawItem(object) {
  const swatch = make("i", { className: "swatch", ariaHidden: "true" });
  swatch.style.background = colourOf(object.class ?? 1);
  const [x, y] = [object.right - object.left, object.bottom - object.top].map((side) => number(Math.round(side)));
  const where = `${x} × ${y} at ${Math.round(object.left)}, ${Math.round(object.top)}`;
  const score = object.score === undefined ? "" : percent(object.score);
  return make("li", {}, make("span", { className: "label" }, swatch, nameOf(object)), make("span", { className: "soft" }, where), make("span", {}, score));
}

// A mask of classes as a transparent layer over the picture, with a legend of its largest classes.
import { make, percent } from "/web/page.js";
import { fromBase64 } from "/web/pictures.js";
import { drawValues } from "/web/values.js";

const OPACITY = 0.55;
const LEGEND = 8;

// The colour of a class: hues far apart, bright enough for black text. The background, class 0, is not drawn in masks.
export const colourOf = (index) => `hsl(${(Number(index) * 137.5 + 20) % 360} 85% ${60 + (Number(index) % 3) * 8}%)`;

// `row`: {b64: PNG} whose grey values are classes, classes as [h][w] or [h][w][1], or floats as [h][w][classes].
export async function drawMask(row, { labels, view, front }) {
  const mask = "b64" in row ? await readPng(row) : readNumbers(row);
  if (!mask) return drawValues(row, "");
  const picture = paint(mask);
  if (view?.width) {
    const { context } = view.layer();
    context.imageSmoothingEnabled = false;
    context.globalAlpha = OPACITY;
    context.drawImage(picture, ...placeOf(view, front));
  }
  const counts = new Map();
  for (const index of mask.classes) counts.set(index, (counts.get(index) ?? 0) + 1);
  const largest = [...counts].sort(([, a], [, b]) => b - a);
  const items = largest.slice(0, LEGEND).map(([index, count]) => {
    const swatch = make("i", { className: "swatch", ariaHidden: "true" });
    swatch.style.background = index ? colourOf(index) : "transparent";
    return make("li", {}, make("span", { className: "label" }, swatch, labels[index] ?? `class ${index}`), make("span", {}, percent(count / mask.classes.length)));
  });
  const more = largest.length > LEGEND ? [make("p", { className: "soft small" }, `and ${largest.length - LEGEND} classes more`)] : [];
  const alone = view?.width ? [] : [picture];
  return [...alone, make("ol", { className: "objects" }, ...items), ...more];
}

async function readPng(row) {
  const picture = await createImageBitmap(fromBase64(row.b64), { colorSpaceConversion: "none" });
  const { width, height } = picture;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const pixels = context.getImageData(0, 0, width, height).data;
  return { width, height, classes: Array.from({ length: width * height }, (_, at) => pixels[4 * at]) };
}

function readNumbers(rows) {
  const [height, width] = [rows.length, rows[0]?.length];
  if (!width) return null;
  const best = (value) => (Array.isArray(value) ? (value.length === 1 ? value[0] : value.reduce((most, each, at) => (each > value[most] ? at : most), 0)) : value);
  return { width, height, classes: rows.flat().map((value) => Math.round(best(value) ?? 0)) };
}

function paint({ width, height, classes }) {
  const canvas = make("canvas", { width, height, className: "mask", role: "img", ariaLabel: "mask" });
  const context = canvas.getContext("2d");
  classes.forEach((index, at) => {
    if (!index) return;
    context.fillStyle = colourOf(index);
    context.fillRect(at % width, Math.floor(at / width), 1, 1);
  });
  return canvas;
}

// Where the mask lies over the picture, in its pixels: the whole of it, or larger (padded) or smaller (cropped).
function placeOf({ width, height }, front) {
  if (!front?.size || (front.fit !== "pad" && front.fit !== "crop")) return [0, 0, width, height];
  const [tall, wide] = front.size;
  const scale = (front.fit === "pad" ? Math.min : Math.max)(wide / width, tall / height);
  return [(width - wide / scale) / 2, (height - tall / scale) / 2, wide / scale, tall / scale];
}

// What a picture's file says of itself, and the picture on the page: as the model sees it, with layers over it.
import { make } from "/web/page.js";

const HEAD_BYTES = 1 << 17; // EXIF stands in the first 64 KB
const MAX_SIDE = 720; // of the picture on the page
const ORIENTATION = 0x0112;
const TURNS = { 2: "mirrored", 3: "upside down", 4: "upside down and mirrored", 5: "turned to the left and mirrored", 6: "a quarter turn to the left", 7: "turned to the right and mirrored", 8: "a quarter turn to the right" };
const HEIC_BRANDS = new Set(["heic", "heix", "hevc", "heim", "heis", "mif1", "msf1"]);

export const HEIC_ADVICE = "This is HEIC, which TensorFlow does not decode. Convert it first: on a Mac “sips -s format jpeg IMG.heic --out IMG.jpg”, elsewhere “magick IMG.heic IMG.jpg”; an iPhone takes JPEGs with Settings, Camera, Formats, Most Compatible.";

// {isHeic, turn (EXIF's orientation, 1 to 8), at (of its value in the file)}
export async function inspect(file) {
  const view = new DataView(await file.slice(0, HEAD_BYTES).arrayBuffer());
  const text = (at, length) => String.fromCharCode(...new Uint8Array(view.buffer, at, length));
  const isHeic = view.byteLength > 12 && text(4, 4) === "ftyp" && HEIC_BRANDS.has(text(8, 4));
  try {
    return { isHeic, ...findTurn(view, text) };
  } catch { // the file ends within its EXIF
    return { isHeic, turn: 1, at: 0 };
  }
}

function findTurn(view, text) {
  const none = { turn: 1, at: 0 };
  if (view.getUint16(0) !== 0xffd8) return none;
  for (let at = 2; view.getUint8(at) === 0xff && view.getUint8(at + 1) !== 0xda; at += 2 + view.getUint16(at + 2)) {
    if (view.getUint8(at + 1) !== 0xe1 || text(at + 4, 4) !== "Exif") continue;
    const tiff = at + 10;
    const isLittle = text(tiff, 2) === "II";
    const table = tiff + view.getUint32(tiff + 4, isLittle);
    for (let entry = table + 2; entry < table + 2 + 12 * view.getUint16(table, isLittle); entry += 12) {
      if (view.getUint16(entry, isLittle) !== ORIENTATION) continue;
      const turn = view.getUint16(entry + 8, isLittle);
      return turn >= 1 && turn <= 8 ? { turn, at: entry + 8, isLittle } : none;
    }
  }
  return none;
}

// What the page says of a turned photograph; `isTurnedBack`: the server applies EXIF's orientation itself.
export function turnText({ turn }, isTurnedBack) {
  if (turn === 1) return "";
  if (isTurnedBack) return "The file asks to be turned (EXIF), and the server turns it: the model sees it as shown.";
  return `The model sees it ${TURNS[turn]}, as shown: it gets the pixels as they are stored, and viewers turn them (EXIF orientation ${turn}). Turn the picture before it is sent, or serve the model with “orient”.`;
}

// The file with its pixels as they are stored: EXIF's orientation is set to 1 in a copy.
async function asStored(file, { turn, at, isLittle }) {
  if (turn === 1) return file;
  const bytes = new Uint8Array(await file.arrayBuffer());
  new DataView(bytes.buffer).setUint16(at, 1, isLittle);
  return new Blob([bytes], { type: file.type });
}

// The picture of a card. `width` and `height` are those of the file, 0 until (or unless) the browser can decode it.
export class PictureView {
  constructor(name) {
    this.width = this.height = 0;
    this.canvas = make("canvas", { role: "img", ariaLabel: name, width: 4, height: 3 });
    this.element = make("div", { className: "picture" }, this.canvas);
  }

  async show(file, found, isTurnedBack) {
    this.clear();
    try {
      const picture = await createImageBitmap(isTurnedBack ? file : await asStored(file, found));
      const scale = Math.min(1, MAX_SIDE / Math.max(picture.width, picture.height));
      [this.width, this.height] = [picture.width, picture.height];
      this.canvas.width = Math.max(1, Math.round(picture.width * scale));
      this.canvas.height = Math.max(1, Math.round(picture.height * scale));
      this.canvas.getContext("2d").drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
      picture.close();
    } catch {
      this.element.replaceChildren(make("span", { className: "soft" }, "no preview"));
    }
  }

  // A transparent canvas over the picture; its context draws in pixels of the file, of which `pixel` are one on the screen.
  layer() {
    const { width, height } = this.canvas;
    const canvas = make("canvas", { className: "layer", width, height, ariaHidden: "true" });
    const context = canvas.getContext("2d");
    if (this.width) context.scale(width / this.width, height / this.height);
    this.element.append(canvas);
    return { canvas, context, pixel: this.width ? this.width / (canvas.clientWidth || width) : 1 };
  }

  clear() {
    for (const layer of this.element.querySelectorAll(".layer")) layer.remove();
  }
}

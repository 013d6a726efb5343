// An output that is a picture: the server's PNG, encoded bytes, or plain numbers.
import { make } from "/web/page.js";

const MAGIC = [[[0xff, 0xd8, 0xff], "image/jpeg"], [[0x89, 0x50, 0x4e, 0x47], "image/png"], [[0x47, 0x49, 0x46, 0x38], "image/gif"], [[0x42, 0x4d], "image/bmp"], [[0x52, 0x49, 0x46, 0x46], "image/webp"]];

// The bytes of base64 text as a Blob, with the type that they begin like; an empty type: they are no picture.
export function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const type = MAGIC.find(([start]) => start.every((byte, at) => bytes[at] === byte))?.[1] ?? "";
  return new Blob([bytes], { type });
}

export function drawPicture(row, name, range = null) {
  if (row !== null && typeof row === "object" && "b64" in row) return drawBlob(fromBase64(row.b64), name);
  const [height, width] = [row.length, row[0].length];
  const flat = row.flat(2).map((value) => value ?? 0);
  const depth = flat.length / (height * width);
  const [low, high] = range ?? guessRange(flat);
  const pixels = new ImageData(width, height);
  for (let at = 0; at < width * height; at++) {
    for (let channel = 0; channel < 4; channel++) {
      const value = flat[at * depth + (depth < 3 ? 0 : channel)];
      pixels.data[4 * at + channel] = channel === 3 && depth < 4 ? 255 : ((value - low) / (high - low || 1)) * 255;
    }
  }
  const canvas = make("canvas", { width, height, className: "made", role: "img", ariaLabel: name });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return [canvas, make("p", { className: "soft small" }, `${width} × ${height}${range ? "" : `, drawn from ${low} (black) to ${high}`}`)];
}

export function drawBlob(blob, name) {
  if (!blob.type) return [make("p", { className: "soft" }, `${blob.size.toLocaleString("en")} bytes that are no picture`)];
  const picture = make("img", { alt: name, className: "made" });
  picture.src = URL.createObjectURL(blob);
  picture.addEventListener("load", () => URL.revokeObjectURL(picture.src), { once: true });
  return [picture];
}

function guessRange(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  if (low >= -1e-3 && high <= 1.001) return [0, 1];
  if (low >= -1.001 && high <= 1.001) return [-1, 1];
  return low >= 0 && high <= 255 ? [0, 255] : [Math.floor(low), Math.ceil(high)];
}

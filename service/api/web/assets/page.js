// What the pages share: elements, words, numbers, code to copy. Text only ever becomes text nodes, never HTML.
export const byId = (id) => document.getElementById(id);

// An element with properties and children; strings are its text.
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export function say(text, isBad = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("bad", isBad);
}

// A number to read; JSON has no NaN and no infinity, the server writes null for both.
export function number(value) {
  if (value === null) return "NaN";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return Math.abs(value) < 1e15 ? value.toLocaleString("en") : value.toExponential(3);
  const size = Math.abs(value);
  if (size < 1e-4 || size >= 1e9) return value.toExponential(3);
  return size >= 1e4 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

export const percent = (share) => (share === null ? "NaN" : `${(share * 100).toFixed(1)} %`);
const rounded = (value) => (value >= 100 ? value.toFixed(0) : value >= 1 ? value.toFixed(1) : value.toFixed(2));
export const milliseconds = (ms) => (ms >= 1000 ? `${rounded(ms / 1000)} s` : `${rounded(ms)} ms`);

export function plural(count, one, many = `${one}s`) {
  return `${number(count)} ${count === 1 ? one : many}`;
}

// A bar that fills a share of its track; the number beside it says the same.
export function bar(share) {
  const fill = make("span", { className: "fill" });
  fill.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  return make("div", { className: "track", ariaHidden: "true" }, fill);
}

// A block of code with a button that copies it, also where the page has no clipboard (plain http).
export function code(text, name = "code") {
  const pre = make("pre", { tabIndex: 0, role: "region", ariaLabel: name }, text);
  const button = make("button", { type: "button", className: "copy" }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copy(pre)) ? "Copied" : "Select it and copy";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  return make("div", { className: "code" }, pre, button);
}

export async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

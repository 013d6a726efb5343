// A form for a signature that takes more or else than one picture: a field for each input, one row of it.
import { byId, make, milliseconds } from "/web/page.js";
import { labelsOf, shapeText, typeOf } from "/web/models.js";
import { formsOf, send } from "/web/ask.js";
import { drawOutputs } from "/web/outputs.js";
import { drawSnippets } from "/web/snippets.js";
import { drawWaterfall } from "/web/waterfall.js";

const FEW = 256; // numbers that can be typed; of more, all are one number

// Fills the section of the form for a target; what it sends is `{"data": …}`, as on the page of JSON.
export async function showForm(target) {
  const example = await exampleOf(target);
  const fields = target.signature.inputs.map((input) => drawField(input, example?.[input.name], input.name === target.signature.image_input));
  const button = make("button", { className: "main" }, "Send");
  const form = make("form", { className: "fields" }, ...fields.map((field) => field.element), button);
  const answer = byId("form-answer");
  answer.replaceChildren();
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    try {
      answer.replaceChildren(...(await ask(target, fields)));
    } catch (error) {
      answer.replaceChildren(make("p", { className: "bad" }, error.message));
    }
    button.disabled = false;
  });
  byId("form-fields").replaceChildren(form);
}

// What the server itself would send, by input: its first row. None for a version that is not the latest.
async function exampleOf({ model, version, name }) {
  if (version && version !== model.model_version_list.at(-1)) return null;
  const query = new URLSearchParams({ signature_name: name });
  const answer = await fetch(`/v1/models/${encodeURIComponent(model.model_name)}/gen_json?${query}`);
  return answer.ok ? (await answer.json()).data : null;
}

// {name, element, read: () => the input's value}. A batch dimension is left to the page: one row.
function drawField(input, example, isPicture) {
  const isBatched = input.shape === null || input.shape[0] === -1;
  const id = `field-${input.name}`;
  const inner = (isBatched ? input.shape?.slice(1) : input.shape) ?? [];
  const size = inner.reduce((product, length) => product * Math.max(1, length), 1);
  const row = isBatched ? example?.[0] : example;
  const type = typeOf(input);
  const [control, read] = isPicture
    ? pictureControl(id)
    : type === "string" && size === 1
      ? textControl(id, typeof row === "string" ? row : "", inner)
      : size > FEW
        ? constantControl(id, inner, size, type)
        : jsonControl(id, row ?? filled(inner, type === "bool" ? false : 1), input.name, type);
  const label = make("label", { htmlFor: id }, input.name, make("span", { className: "soft" }, ` ${type} ${shapeText(input)}`));
  return { name: input.name, element: make("div", { className: "field" }, label, control), read: async () => { const value = await read(); return isBatched ? [value] : value; } };
}

const filled = (shape, value) => (shape.length ? Array(Math.max(1, shape[0])).fill(filled(shape.slice(1), value)) : value);

function pictureControl(id) {
  const control = make("input", { id, type: "file", accept: "image/*" });
  return [control, async () => {
    const [file] = control.files;
    const bytes = new Uint8Array(await (file ?? (await (await fetch("/web/chelsea.jpg")).blob())).arrayBuffer());
    let text = "";
    for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
    return btoa(text);
  }];
}

function textControl(id, text, inner) {
  const control = make("input", { id, type: "text", value: text });
  return [control, async () => filled(inner, control.value)];
}

function constantControl(id, inner, size, type) {
  const control = make("input", { id, type: "text", inputMode: "decimal", value: "1" });
  const words = make("span", { className: "soft small" }, ` for each of its ${size.toLocaleString("en")} values`);
  return [make("div", {}, control, words), async () => filled(inner, readNumber(control.value, id, type))];
}

function jsonControl(id, example, name, type) {
  const control = make("input", { id, type: "text", value: JSON.stringify(example) });
  return [control, async () => {
    try {
      return JSON.parse(control.value);
    } catch {
      throw new Error(`${name}: expected JSON of ${type}, as ${JSON.stringify(example).slice(0, 80)}`);
    }
  }];
}

function readNumber(text, id, type) {
  const value = type === "string" ? text : type === "bool" ? text === "true" || text === "1" : Number(text);
  if (Number.isNaN(value)) throw new Error(`${id.replace("field-", "")}: expected a number, got “${text.slice(0, 80)}”`);
  return value;
}

async function ask(target, fields) {
  const body = { data: {}, model_name: target.model.model_name, signature_name: target.name };
  if (target.version) body.model_version = Number(target.version);
  for (const field of fields) body.data[field.name] = await field.read();
  const as = formsOf(target.signature);
  if (Object.keys(as).length) body.as = as;
  const json = JSON.stringify(body);
  const [answer, labels] = await Promise.all([send("/", json, "application/json"), labelsOf(target)]);
  const told = answer.ok ? `${milliseconds(answer.ms)}${answer.times?.batch ? `, in a batch of ${answer.times.batch}` : ""}` : `${answer.status}: ${answer.error}`;
  const parts = [make("p", { className: answer.ok ? "told" : "told bad" }, told)];
  if (answer.ok) parts.push(...(await drawOutputs(answer.body, { target, labels, view: null, name: "this row", memory: new Map() })));
  if (answer.times) parts.push(make("details", {}, make("summary", {}, "Where the time went"), drawWaterfall(answer.times, answer.ms)));
  if (json.length < 20_000) parts.push(drawSnippets(target, { json }));
  return parts;
}

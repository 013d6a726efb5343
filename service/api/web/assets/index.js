// The first page: every model with its versions and signatures, and where to go from there.
import { byId, fetchModels, say, signaturesOf, takesPictures } from "/web/models.js";

// TensorFlow's numbers of its types; a reference type (100 more) is the type itself.
const TYPES = { 1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64" };

function make(tag, text = "", className = "") {
  const element = document.createElement(tag);
  element.textContent = text;
  element.className = className;
  return element;
}

function tensorText(tensor) {
  const shape = tensor.shape === null ? "?" : tensor.shape.map((size) => (size < 0 ? "n" : size)).join(", ");
  return `${tensor.name}: ${TYPES[tensor.dtype % 100] ?? tensor.dtype} [${shape}]`;
}

function drawTensors(tensors) {
  const list = make("ul");
  list.append(...tensors.map((tensor) => {
    const item = make("li");
    item.append(make("code", tensorText(tensor)));
    return item;
  }));
  return list;
}

function drawSignature(name, signature) {
  const row = document.createElement("tr");
  const cells = [make("th", name), make("td"), make("td"), make("td", "", "soft")];
  cells[0].scope = "row";
  cells[1].append(drawTensors(signature.inputs));
  cells[2].append(drawTensors(signature.outputs));
  const pictures = signature.image_input ? `pictures: ${signature.formats.join(", ")}` : "no pictures";
  cells[3].textContent = signature.batched ? pictures : `${pictures}; not batched: ${signature.unbatched_reason}`;
  row.append(...cells);
  return row;
}

function drawModel(model) {
  const card = make("section", "", "card");
  const head = make("div", "", "head");
  head.append(make("h2", model.model_name), make("span", `version ${model.model_version_list.join(", ")}`, "soft"));
  const table = make("table");
  const titles = make("tr");
  titles.append(...["signature", "takes", "gives", ""].map((title) => make("th", title, "soft")));
  table.append(titles, ...signaturesOf(model).map((name) => drawSignature(name, model.signatures[name])));
  const scroll = make("div", "", "scroll");
  scroll.append(table);
  const links = make("p", "", "links");
  const pages = [...(takesPictures(model) ? [["image_inference", "Try a picture"]] : []), ["json_inference", "Send JSON"], ["generate_clients", "Get a client"]];
  for (const [page, text] of pages) {
    const link = make("a", text, "button");
    link.href = `/${page}?${new URLSearchParams({ model: model.model_name })}`;
    links.append(link);
  }
  card.append(head, scroll, links);
  return card;
}

try {
  const models = await fetchModels();
  say(models.length ? "" : "No model is served yet.", !models.length);
  byId("models").replaceChildren(...models.map(drawModel));
  if (models.length) {
    const path = `/v1/models/${encodeURIComponent(models[0].model_name)}/gen_client`;
    byId("curl").textContent = `curl '${location.origin}${path}' | bash`;
    byId("ask").hidden = false;
  }
} catch (error) {
  say(`The list of models did not come: ${error.message}`, true);
}

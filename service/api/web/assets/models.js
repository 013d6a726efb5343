// The models that are served, and the menus that choose a model, a version and a signature of them.
import { byId, make } from "/web/page.js";

const RETRY_MS = 3000; // while no model is served

// TensorFlow's numbers of its types; a reference type (100 more) is the type itself.
const TYPES = { 1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "string", 9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64" };

export const typeOf = (tensor) => TYPES[tensor.dtype % 100] ?? `type ${tensor.dtype}`;

export function shapeText(tensor) {
  return tensor.shape === null ? "any shape" : `[${tensor.shape.map((size, at) => (size < 0 ? (at ? "?" : "n") : size)).join(", ")}]`;
}

async function fetchJson(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}

export async function fetchModels() {
  const listed = await fetchJson("/v1/models"); // the descriptions; of a server of --model_repository, {"models": names}
  const describe = (name) => fetchJson(`/v1/models/${encodeURIComponent(name)}`);
  return Array.isArray(listed) ? listed : Promise.all(listed.models.map(describe));
}

export const isServed = (model) => model.model_signature !== null;
// Whether a model is lazy and not in memory: a request loads it.
export const isUnloaded = (model) => !isServed(model) && model.ready;
// Whether a signature takes one picture and nothing else, so that a picture alone is a request.
export const takesPicture = (signature) => Boolean(signature.image_input) && signature.inputs.length === 1;
export const takesPictures = (model) => Object.values(model.signatures).some(takesPicture);

// The signatures of a version (empty: the latest) by name: the default one first, then those that take a picture.
export function signaturesOf(model, version = "") {
  const all = model.older_signatures?.[version] ?? model.signatures;
  const rank = (name) => (name === "serving_default" ? 2 : 0) + takesPicture(all[name]);
  const names = Object.keys(all).sort((a, b) => rank(b) - rank(a));
  return Object.fromEntries(names.map((name) => [name, all[name]]));
}

// Puts [text, value] pairs into a menu; the choice stays where it is still there.
export function fill(menu, pairs) {
  const before = menu.value;
  menu.replaceChildren(...pairs.map(([text, value]) => new Option(text, value)));
  if (pairs.some(([, value]) => value === before)) menu.value = before;
}

// Shows why there is nothing to ask in the place of all that the page offers; loads the page again once there is.
function giveWay(...why) {
  const words = make("p", { id: "status", role: "status" }, ...why);
  document.querySelector("main").replaceChildren(words, make("p", { className: "soft small" }, "This page goes on by itself as soon as a model is served."));
  const again = async () => { if (!document.hidden && (await fetchModels()).some(isServed)) location.reload(); };
  setInterval(() => again().catch(() => {}), RETRY_MS);
}

// The models of the menu, with the one that the address names in memory; the first one, if none is.
async function fetchAwake(name) {
  const listed = await fetchModels();
  const unloaded = listed.filter(isUnloaded);
  const wanted = unloaded.find((each) => each.model_name === name) ?? (listed.some(isServed) ? undefined : unloaded[0]);
  if (!wanted) return listed;
  byId("status")?.replaceChildren(`Model ${wanted.model_name} is being loaded.`);
  await fetchJson(`/v1/models/${encodeURIComponent(wanted.model_name)}/metadata`); // only a loaded model can answer that
  return fetchModels();
}

// Fills the menus of the page (those of model, version and signature that it has) and calls `chosen` with the target now
// and at each change: {model, version (empty: the latest), name (of the signature), signature}.
export async function chooseTarget(chosen) {
  const [model, version, signature] = ["model", "version", "signature"].map(byId);
  const asked = new URLSearchParams(location.search);
  let listed = [];
  try {
    listed = await fetchAwake(asked.get("model"));
  } catch (error) {
    return giveWay(`The list of models did not come: ${error.message}`);
  }
  const served = listed.filter(isServed);
  if (!served.length) return giveWay("No model is served yet. ", make("a", { href: "/" }, "The first page says why."));
  const found = () => served.find((each) => each.model_name === model.value);
  const prefer = (menu, value) => { if ([...menu.options].some((option) => option.value === value)) menu.value = value; };
  const tell = () => {
    const named = signaturesOf(found(), version?.value);
    const name = signature?.value || Object.keys(named)[0];
    const query = new URLSearchParams({ model: model.value });
    if (version?.value) query.set("version", version.value);
    if (name !== Object.keys(named)[0]) query.set("signature", name);
    history.replaceState(null, "", `?${query}`);
    chosen({ model: found(), version: version?.value ?? "", name, signature: named[name] });
  };
  const fillSignatures = () => {
    if (signature) fill(signature, Object.keys(signaturesOf(found(), version?.value)).map((name) => [name, name]));
  };
  const fillVersions = () => {
    const numbers = found().model_version_list;
    if (version) fill(version, [[found().traffic ? "as the rule says" : `latest (${numbers.at(-1)})`, ""], ...numbers.map((each) => [each, each])]);
    fillSignatures();
  };
  fill(model, [...served, ...listed.filter(isUnloaded)].map((each) => [each.model_name, each.model_name]));
  prefer(model, asked.get("model"));
  fillVersions();
  if (version) prefer(version, asked.get("version"));
  fillSignatures();
  if (signature) prefer(signature, asked.get("signature"));
  model.addEventListener("change", () => {
    if (!found()) return location.assign(`?${new URLSearchParams({ model: model.value })}`); // the page loads it
    fillVersions();
    return tell();
  });
  version?.addEventListener("change", () => { fillSignatures(); tell(); });
  signature?.addEventListener("change", tell);
  tell();
}

const labels = new Map(); // by model: a promise of its class names

// The class names of a target; none where they are of another version, since only those of the latest can be read.
export function labelsOf(target) {
  const { model, version } = target;
  if (!model.label_count || (version && version !== model.model_version_list.at(-1))) return Promise.resolve([]);
  const name = model.model_name;
  if (!labels.has(name)) {
    const read = async () => {
      const answer = await fetch(`/v1/models/${encodeURIComponent(name)}/labels`);
      return answer.ok ? answer.json() : [];
    };
    labels.set(name, read().catch(() => []));
  }
  return labels.get(name);
}

// What the pages share: the models in their menus, and how something is said.
export const byId = (id) => document.getElementById(id);

export function say(text, isBad = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("bad", isBad);
}

// Puts [text, value] pairs into a menu; the choice stays where it is still there.
export function fill(menu, pairs) {
  const before = menu.value;
  menu.replaceChildren(...pairs.map(([text, value]) => new Option(text, value)));
  if (pairs.some(([, value]) => value === before)) menu.value = before;
}

async function fetchJson(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer.json();
}

export async function fetchModels() {
  const listed = await fetchJson("/v1/models");  // the descriptions; of a server of --model_repository, {"models": names}
  const describe = (name) => fetchJson(`/v1/models/${encodeURIComponent(name)}`);
  const models = Array.isArray(listed) ? listed : await Promise.all(listed.models.map(describe));
  return models.filter((model) => model.model_signature);
}

export function takesPictures(model) {
  return Object.values(model.signatures).some((signature) => signature.image_input);
}

// Fills the menu with the models that are `wanted`, and calls `chosen` with one now and whenever another is chosen.
export async function listModels(chosen, wanted = () => true) {
  try {
    const models = (await fetchModels()).filter(wanted);
    if (!models.length) return say("No such model is served yet.", true);
    const menu = byId("model");
    fill(menu, models.map((model) => [model.model_name, model.model_name]));
    const asked = new URLSearchParams(location.search).get("model");
    if (models.some((model) => model.model_name === asked)) menu.value = asked;
    const choose = () => chosen(models.find((model) => model.model_name === menu.value));
    menu.addEventListener("change", choose);
    choose();
  } catch (error) {
    say(`The list of models did not come: ${error.message}`, true);
  }
}

// The signatures of a model, the default one first.
export function signaturesOf(model) {
  const names = Object.keys(model.signatures);
  return names.sort((a, b) => (b === "serving_default") - (a === "serving_default"));
}

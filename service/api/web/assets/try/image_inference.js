// The page "Try it": pictures come by drop, paste, picker or sample, and each gets a card; other signatures get a form.
import { byId, plural, say } from "/web/page.js";
import { chooseTarget, takesPicture, takesPictures } from "/web/models.js";
import { Card } from "/web/card.js";
import { wireBurst } from "/web/burst.js";
import { showForm } from "/web/form.js";

const MOST_CARDS = 24;
const SAMPLE = "chelsea.jpg";

let target = null;
let cards = [];
let memory = new Map(); // what drawers remember of the pictures before, of this target

function choose(chosen) {
  target = chosen;
  memory = new Map();
  const isPicture = takesPicture(chosen.signature);
  for (const id of ["pictures", "burst"]) byId(id).hidden = !isPicture;
  byId("form").hidden = isPicture;
  byId("burst-answer").replaceChildren();
  byId("hint").textContent = hintOf(chosen);
  if (isPicture) for (const card of cards) ask(card);
  else showForm(chosen);
  tell();
}

function hintOf({ model, name, signature }) {
  if (takesPicture(signature)) {
    const formats = signature.formats?.length ? `Formats: ${signature.formats.join(", ")}. ` : "";
    return formats + (signature.batched ? "Pictures that come together share a call of the engine." : `Not batched: ${signature.unbatched_reason}.`);
  }
  const other = takesPictures(model) ? " Another signature of this model takes a picture alone." : "";
  return `“${name}” does not take a picture alone, so here is a field for each of its inputs.${other}`;
}

async function ask(card) {
  const done = card.ask(target, memory);
  tell();
  await done;
  tell();
}

// Says how far it is, for screen readers too.
function tell() {
  const count = (state) => cards.filter((card) => card.state === state).length;
  const [asking, answered, failed] = ["asking", "answered", "failed"].map(count);
  byId("cards").hidden = byId("clear").hidden = !cards.length;
  if (!cards.length) return say("");
  const parts = [asking && `${asking} to come`, answered && plural(answered, "answer"), failed && plural(failed, "error")];
  say(`${plural(cards.length, "picture")}: ${parts.filter(Boolean).join(", ")}.`);
}

function take(files) {
  const pictures = [...files].slice(0, MOST_CARDS);
  for (const file of pictures.reverse()) add(file, { name: file.name || "picture" });
  if (files.length > MOST_CARDS) say(`The first ${MOST_CARDS} of ${files.length} pictures are taken.`, true);
}

function add(file, source) {
  const card = new Card(file, source, remove);
  cards.unshift(card);
  byId("cards").prepend(card.element);
  cards.slice(MOST_CARDS).forEach(remove);
  if (target) ask(card);
}

function remove(card) {
  card.asked = NaN; // an answer that is under way is dropped
  cards = cards.filter((each) => each !== card);
  card.element.remove();
  tell();
}

async function sample(name) {
  const picture = await (await fetch(`/web/${name}`)).blob();
  return new File([picture], name, { type: picture.type });
}

const drop = byId("drop");
byId("file").addEventListener("change", (event) => { take(event.target.files); event.target.value = ""; });
document.addEventListener("dragover", (event) => { event.preventDefault(); drop.classList.add("over"); });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) drop.classList.remove("over"); });
document.addEventListener("drop", (event) => { event.preventDefault(); drop.classList.remove("over"); if (!byId("pictures").hidden) take(event.dataTransfer.files); });
document.addEventListener("paste", (event) => { if (!byId("pictures").hidden) take(event.clipboardData.files); });
byId("clear").addEventListener("click", () => [...cards].forEach(remove));
byId("samples").addEventListener("click", async (event) => {
  const name = event.target.closest("button")?.dataset.sample;
  if (name) add(await sample(name), { name, url: `${location.origin}/web/${name}` });
});
wireBurst(async () => {
  const files = cards.filter((card) => card.state !== "failed").map((card) => card.file);
  return { target, files: files.length ? files : [await sample(SAMPLE)] };
});
chooseTarget(choose);

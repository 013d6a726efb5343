// One picture on the page: its thumbnail at once, then its own answer or error, its waterfall, and how to ask the same.
import { make, milliseconds } from "/web/page.js";
import { labelsOf } from "/web/models.js";
import { sendPicture } from "/web/ask.js";
import { HEIC_ADVICE, inspect, PictureView, turnText } from "/web/picture.js";
import { drawOutputs } from "/web/outputs.js";
import { drawWaterfall } from "/web/waterfall.js";
import { drawSnippets } from "/web/snippets.js";

export class Card {
  // `source`: {name}, and {url} if it is a sample of this server.
  constructor(file, source, onRemove) {
    this.file = file;
    this.source = source;
    this.state = "asking"; // then "answered" or "failed"
    this.view = new PictureView(source.name);
    this.status = make("p", { className: "told" }, "Asking …");
    this.answer = make("div", { className: "answer" });
    const remove = make("button", { type: "button", className: "quiet", ariaLabel: `Remove ${source.name}`, title: "Remove" }, "×");
    remove.addEventListener("click", () => onRemove(this));
    const head = make("div", { className: "head" }, make("h3", {}, source.name), remove);
    this.element = make("article", { className: "card picture-card" }, this.view.element, make("div", { className: "body" }, head, this.status, this.answer));
    this.found = inspect(file);
    this.asked = 0; // an answer that comes after another model was chosen is dropped
  }

  // Shows the picture as this target's model sees it, asks, and draws what comes.
  async ask(target, memory) {
    const ticket = ++this.asked;
    this.state = "asking";
    this.told("Asking …");
    this.answer.replaceChildren();
    const found = await this.found;
    const shown = this.view.show(this.file, found, target.signature.front?.orient === true);
    const [answer, labels] = await Promise.all([sendPicture(target, this.file), labelsOf(target), shown]);
    const parts = answer.ok ? await this.draw(answer.body, target, labels, found, memory) : found.isHeic ? [note(HEIC_ADVICE)] : [];
    if (answer.times) parts.push(make("details", {}, make("summary", {}, "Where the time went"), drawWaterfall(answer.times, answer.ms)));
    if (ticket !== this.asked) return;
    this.answer.append(...parts, drawSnippets(target, this.source));
    this.state = answer.ok ? "answered" : "failed";
    if (answer.ok) this.told(`${milliseconds(answer.ms)}${answer.times?.batch ? `, in a batch of ${answer.times.batch}` : ""}`);
    else this.told(`${answer.status ? `${answer.status}: ` : ""}${answer.error}`, true);
  }

  async draw(body, target, labels, found, memory) {
    const turned = turnText(found, target.signature.front?.orient === true);
    const drawn = await drawOutputs(body, { target, labels, view: this.view, name: this.source.name, memory });
    return turned ? [note(turned), ...drawn] : drawn;
  }

  told(text, isBad = false) {
    this.status.textContent = text;
    this.status.classList.toggle("bad", isBad);
    this.element.classList.toggle("failed", isBad);
  }
}

const note = (text) => make("p", { className: "note" }, text);

// The page of clients: a program in the language that is chosen, to copy or to save.
import { byId, copy, say } from "/web/page.js";
import { chooseTarget } from "/web/models.js";

const FILES = { bash: "client.sh", python: "client.py", javascript: "client.js", golang: "client.go", json: "body.json" };
let target = null;
let saved = null; // the object URL of the program on the page
let asked = 0; // answers that come late, after something else was chosen, are dropped

async function write() {
  const ticket = ++asked;
  const language = byId("language").value;
  const query = new URLSearchParams({ language, signature_name: target.name });
  try {
    const answer = await fetch(`/v1/models/${encodeURIComponent(target.model.model_name)}/gen_client?${query}`);
    const text = await answer.text();
    if (ticket !== asked) return;
    byId("take").hidden = !answer.ok;
    byId("program").textContent = text;
    say(answer.ok ? "" : `${answer.status}: ${text}`, !answer.ok);
    if (saved) URL.revokeObjectURL(saved);
    saved = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
    byId("save").href = saved;
    byId("save").download = FILES[language];
    byId("save").textContent = `Save as ${FILES[language]}`;
  } catch (error) {
    if (ticket === asked) say(`No answer: ${error.message}`, true);
  }
}

byId("copy").addEventListener("click", async () => say((await copy(byId("program"))) ? "Copied." : "Select the program and copy it."));
byId("language").addEventListener("change", write);
chooseTarget((chosen) => {
  target = chosen;
  write();
});

// The page of clients: a program in the language that is chosen, to copy or to save.
import { byId, fill, listModels, say, signaturesOf } from "/web/models.js";

const FILES = { bash: "client.sh", python: "client.py", javascript: "client.js", golang: "client.go", json: "body.json" };
let model = null;
let saved = null; // the object URL of the program on the page
let asked = 0; // answers that come late, after something else was chosen, are dropped

async function write() {
  const ticket = ++asked;
  const language = byId("language").value;
  const query = new URLSearchParams({ language, signature_name: byId("signature").value });
  try {
    const answer = await fetch(`/v1/models/${encodeURIComponent(model.model_name)}/gen_client?${query}`);
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

byId("copy").hidden = !navigator.clipboard; // browsers give it to https and localhost only
byId("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(byId("program").textContent);
  say("Copied.");
});
for (const id of ["signature", "language"]) byId(id).addEventListener("change", write);
listModels((chosen) => {
  model = chosen;
  fill(byId("signature"), signaturesOf(model).map((name) => [name, name]));
  write();
});

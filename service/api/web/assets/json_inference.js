// The page of JSON: a body that the model answers to begin with, and the answer as it comes.
import { byId, milliseconds, say } from "/web/page.js";
import { chooseTarget } from "/web/models.js";
import { readTimes } from "/web/ask.js";
import { drawWaterfall } from "/web/waterfall.js";

let target = null;
let asked = 0; // answers that come late, after something else was asked, are dropped

async function example() {
  const ticket = ++asked;
  const query = new URLSearchParams({ signature_name: target.name });
  const answer = await fetch(`/v1/models/${encodeURIComponent(target.model.model_name)}/gen_json?${query}`);
  const body = await answer.json();
  if (ticket !== asked) return;
  if (!answer.ok) return say(`${answer.status}: ${body.error}`, true);
  if (target.version) body.model_version = Number(target.version);
  byId("body").value = write(body);
}

// JSON to read and to change: indented, a row of numbers on one line.
function write(body) {
  const rows = /\[\n\s*([^[\]{}"]*?)\n\s*\]/g;
  return JSON.stringify(body, null, 2).replace(rows, (_, numbers) => `[${numbers.replace(/\n\s*/g, " ")}]`);
}

async function send() {
  const ticket = ++asked;
  say("Asking …");
  byId("answer").hidden = byId("times").hidden = true;
  const started = performance.now();
  try {
    const answer = await fetch("/", { method: "POST", body: byId("body").value, headers: { "Content-Type": "application/json" } });
    const text = await answer.text();
    const took = performance.now() - started;
    if (ticket !== asked) return;
    say(`${answer.status} in ${milliseconds(took)}.`, !answer.ok);
    byId("answer").textContent = text;
    byId("answer").hidden = false;
    const times = readTimes(answer.headers.get("Server-Timing") ?? "");
    byId("times").replaceChildren(...(times ? [drawWaterfall(times, took)] : []));
    byId("times").hidden = false;
  } catch (error) {
    if (ticket === asked) say(`No answer: ${error.message}`, true);
  }
}

byId("send").addEventListener("click", send);
byId("body").addEventListener("keydown", (event) => { if (event.key === "Enter" && event.ctrlKey) send(); });
chooseTarget((chosen) => {
  target = chosen;
  example();
});

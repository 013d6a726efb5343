// The page: sends the chosen picture as it is to POST / and draws the five best labels and where the time went.
import { byId, fill, listModels, say, takesPictures } from "/web/models.js";

const TOP = 5;
const COLOURS = ["#7a6a5d", "#a08a72", "#c2a878", "#8d99ae", "#4f6d7a", "#b3261e", "#6b9080", "#d8a48f"];
let shown = null; // the object URL of the picture on the page
let asked = 0; // answers that come late, after another picture was chosen, are dropped

async function predict(picture, name) {
  const ticket = ++asked;
  if (shown) URL.revokeObjectURL(shown);
  shown = URL.createObjectURL(picture);
  byId("preview").src = shown;
  byId("preview").alt = name;
  byId("preview").hidden = false;
  byId("hint").hidden = true;
  byId("scores").replaceChildren();
  byId("times").hidden = byId("again").hidden = true;
  say("Asking …");
  const query = new URLSearchParams({ model_name: byId("model").value || "default", top_k: TOP });
  if (byId("version").value) query.set("model_version", byId("version").value);
  const started = performance.now();
  try {
    const answer = await fetch(`/?${query}`, { method: "POST", body: picture, headers: { "Content-Type": "application/octet-stream" } });
    const body = await answer.json();
    const took = performance.now() - started;
    if (ticket !== asked) return;
    if (!answer.ok) return say(`${answer.status}: ${body.error}`, true);
    say(`Answered in ${took.toFixed(0)} ms.`);
    drawScores(body);
    drawTimes(answer.headers.get("Server-Timing") || "");
    drawCommand(name, query);
  } catch (error) {
    if (ticket === asked) say(`No answer: ${error.message}`, true);
  }
}

function drawScores(body) {
  const ranked = Object.values(body).find((rows) => Array.isArray(rows[0]) && rows[0][0] && "value" in rows[0][0]);
  if (!ranked) {
    const pre = document.createElement("pre");
    pre.textContent = JSON.stringify(body, null, 1);
    return byId("scores").append(pre);
  }
  for (const score of ranked[0]) {
    const line = document.createElement("div");
    const label = document.createElement("span");
    const value = document.createElement("span");
    label.textContent = score.label ?? `class ${score.index}`;
    value.textContent = `${(score.value * 100).toFixed(1)} %`;
    line.append(label, value);
    const track = document.createElement("div");
    const fill = document.createElement("span");
    track.className = "track";
    fill.className = "fill";
    fill.style.width = `${Math.max(0, Math.min(100, score.value * 100))}%`;
    track.append(fill);
    const item = document.createElement("li");
    item.append(line, track);
    byId("scores").append(item);
  }
}

function drawTimes(header) {
  const stages = [...header.matchAll(/([a-z]+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]);
  const parts = stages.filter(([name]) => name !== "total");
  const total = parts.reduce((sum, [, ms]) => sum + ms, 0);
  if (!total) return;
  byId("bar").replaceChildren();
  byId("legend").replaceChildren();
  parts.forEach(([name, ms], index) => {
    const colour = COLOURS[index % COLOURS.length];
    const slice = document.createElement("span");
    slice.style.flexGrow = ms / total;
    slice.style.background = colour;
    slice.title = `${name}: ${ms.toFixed(2)} ms`;
    byId("bar").append(slice);
    const key = document.createElement("span");
    const swatch = document.createElement("i");
    swatch.style.background = colour;
    key.append(swatch, `${name} ${ms.toFixed(2)} ms`);
    byId("legend").append(key);
  });
  byId("times").hidden = false;
}

function drawCommand(name, query) {
  byId("curl").textContent = `curl -H 'Content-Type: application/octet-stream' --data-binary @${name} '${location.origin}/?${query}'`;
  byId("again").hidden = false;
}

function take(files) {
  const picture = [...files].find((file) => file.size);
  if (picture) predict(picture, picture.name || "picture");
}

byId("file").addEventListener("change", (event) => take(event.target.files));
byId("drop").addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") byId("file").click(); });
byId("drop").addEventListener("dragover", (event) => { event.preventDefault(); byId("drop").classList.add("over"); });
byId("drop").addEventListener("dragleave", () => byId("drop").classList.remove("over"));
byId("drop").addEventListener("drop", (event) => { event.preventDefault(); byId("drop").classList.remove("over"); take(event.dataTransfer.files); });
document.addEventListener("paste", (event) => take(event.clipboardData.files));
byId("samples").addEventListener("click", async (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  const picture = await (await fetch(`/web/${button.dataset.sample}`)).blob();
  predict(picture, button.dataset.sample);
});
listModels((model) => {
  fill(byId("version"), [["latest", ""], ...model.model_version_list.map((version) => [version, version])]);
}, takesPictures);

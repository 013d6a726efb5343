// The same request from a program: each snippet runs as it is in the folder of the picture, or loads the sample itself.
import { code, make } from "/web/page.js";
import { queryOf } from "/web/ask.js";

const quoteShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const quote = JSON.stringify; // a string of Python and of JavaScript

let guarded = null; // a promise: whether the server asks for credentials

function isGuarded() {
  guarded ??= fetch("/v1/models", { credentials: "omit" }).then((answer) => answer.status === 401, () => false);
  return guarded;
}

const LANGUAGES = { curl: writeCurl, Python: writePython, JavaScript: writeJavaScript };

// `source`: {name} of a file, or {name, url} of a sample of this server; or {json} for a body of numbers and texts.
function writeCurl(url, source, hasAuth) {
  const auth = hasAuth ? ' -H "Authorization: $AUTHORIZATION"' : ""; // as in "Bearer TOKEN"
  if (source.json) return `curl --fail-with-body -H 'Content-Type: application/json'${auth} --data-binary ${quoteShell(source.json)} ${quoteShell(url)}`;
  const from = source.url ? `curl -s${auth} ${quoteShell(source.url)} | ` : "";
  return `${from}curl --fail-with-body -H 'Content-Type: application/octet-stream'${auth} --data-binary ${source.url ? "@-" : quoteShell(`@${source.name}`)} ${quoteShell(url)}`;
}

function writePython(url, source, hasAuth) {
  const headers = `{"Content-Type": ${quote(source.json ? "application/json" : "application/octet-stream")}${hasAuth ? ', "Authorization": os.environ["AUTHORIZATION"]' : ""}}`;
  const sample = hasAuth ? `urllib.request.Request(${quote(source.url)}, headers=headers)` : quote(source.url);
  const body = source.json ? `${quote(source.json)}.encode()` : source.url ? `urllib.request.urlopen(${sample}).read()` : `open(${quote(source.name)}, "rb").read()`;
  return `import json${hasAuth ? "\nimport os" : ""}
import urllib.request

headers = ${headers}
body = ${body}
request = urllib.request.Request(${quote(url)}, body, headers)
with urllib.request.urlopen(request) as answer:
    print(json.load(answer))
`;
}

function writeJavaScript(url, source, hasAuth) {
  const headers = `{ "Content-Type": ${quote(source.json ? "application/json" : "application/octet-stream")}${hasAuth ? ", Authorization: process.env.AUTHORIZATION" : ""} }`;
  const body = source.json ? quote(source.json) : source.url ? `await (await fetch(${quote(source.url)}, { headers })).arrayBuffer()` : `await (await import("node:fs/promises")).readFile(${quote(source.name)})`;
  return `// node client.mjs (Node 18 or later)
const headers = ${headers};
const body = ${body};
const answer = await fetch(${quote(url)}, { method: "POST", body, headers });
console.log(answer.status, await answer.json());
`;
}

// A fold with a snippet of the chosen language; it is written when it is opened.
export function drawSnippets(target, source) {
  const url = source.json ? `${location.origin}/` : `${location.origin}/?${queryOf(target)}`;
  const menu = make("select", { ariaLabel: "Language" }, ...Object.keys(LANGUAGES).map((name) => new Option(name, name)));
  const place = make("div");
  const write = async () => place.replaceChildren(code(LANGUAGES[menu.value](url, source, await isGuarded()), `The request in ${menu.value}`));
  const fold = make("details", { className: "snippets" }, make("summary", {}, "The same from a program"), menu, place);
  fold.addEventListener("toggle", () => { if (fold.open) write(); });
  menu.addEventListener("change", write);
  return fold;
}

// The page of the API: the OpenAPI document, an operation a line that unfolds.
const status = document.getElementById("status");

function make(tag, text = "", ...children) {
  const element = document.createElement(tag);
  element.textContent = text;
  element.append(...children);
  return element;
}

function describe(method, path, operation) {
  const title = make("summary", "", make("code", `${method.toUpperCase()} ${path}`), ` ${operation.summary}`);
  const parts = [title];
  if (operation.description) parts.push(make("p", operation.description.replaceAll("`", "")));
  const named = operation.parameters.map((parameter) => `${parameter.name} (${parameter.in})`);
  if (named.length) parts.push(make("p", `Parameters: ${named.join(", ")}`));
  const content = operation.requestBody?.content ?? {};
  if (Object.keys(content).length) parts.push(make("p", `Takes: ${Object.keys(content).join(", ")}`));
  for (const [name, example] of Object.entries(content["application/json"]?.examples ?? {})) {
    parts.push(make("p", `For ${name}:`), Object.assign(make("pre", JSON.stringify(example.value, null, 2)), { tabIndex: 0 }));
  }
  const answers = Object.entries(operation.responses).map(([code, answer]) => `${code} ${answer.description}`);
  parts.push(make("p", `Answers: ${answers.join("; ")}`));
  return make("details", "", ...parts);
}

const answer = await fetch("/openapi.json");
if (answer.ok) {
  const { paths, tags } = await answer.json();
  const groups = new Map(tags.map((tag) => [tag.name, []]));
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      groups.get(operation.tags[0]).push(describe(method, path, operation));
    }
  }
  for (const [tag, operations] of groups) {
    document.getElementById("operations").append(make("section", "", make("h2", tag), ...operations));
  }
  status.textContent = "";
  status.hidden = true;
} else {
  status.textContent = `${answer.status}: the document can't be had.`;
}

// One document: prompt, and what each run made of it.

function make(name, content, className) {
  const element = document.createElement(name);
  if (className) element.className = className;
  for (const child of [content].flat()) if (child !== undefined && child !== null) element.append(child);
  return element;
}

// Text of a model or data set, as it is. Kana say that it is Japanese, which decides glyphs and where lines may break.
function verbatim(text, marked) {
  const block = make("pre");
  if (/[\u3040-\u30ff]/.test(text)) block.lang = "ja";
  const at = marked ? text.indexOf(marked) : -1;
  if (at < 0) block.textContent = text;
  else block.append(text.slice(0, at), make("mark", marked), text.slice(at + marked.length));
  return block;
}

const heading = (text, className) => make("h3", text, className);
const shownScore = (score) => score === null || score === undefined ? "–" : Number(score.toFixed(4)).toString();

function table(className, rows) {
  const cell = (content) => make("td", content instanceof Node ? content : String(content), typeof content === "number" ? "number" : "");
  return make("table", make("tbody", rows.map((row) => make("tr", row.map(cell)))), className);
}

async function prompts(asked) {
  const blocks = [];
  for (const one of asked) {
    const text = await data.text(one.prompt);
    if (blocks.some((block) => block.text === text)) continue;
    const shots = make("details", [make("summary", `instruction and shots (${one.fold.toLocaleString("en")} characters)`), verbatim(text.slice(0, one.fold))], "shots");
    blocks.push({ text, element: make("div", one.fold ? [shots, verbatim(text.slice(one.fold))] : [verbatim(text)]) });
  }
  return blocks.length ? [heading(blocks.length > 1 ? "Prompts" : "Prompt"), ...blocks.map((block) => block.element)] : [];
}

// Log-probabilities beside their continuations.
function choices(asked, outcome) {
  const scored = outcome?.continuations, texts = asked?.settings.continuations;
  if (!scored || !texts) return null;
  const best = Math.max(...scored.map((one) => one.logprob));
  const row = (one, i) => [one.logprob === best ? make("mark", texts[i] ?? "") : texts[i] ?? "", Number(one.logprob.toFixed(4)), `${one.tokens} tokens`, one.is_greedy ? "greedy" : ""];
  return table("choices", scored.map(row));
}

function outcomes(told, asked) {
  const blocks = [];
  told.outcomes.forEach((outcome, i) => {
    const scored = choices(asked[i], outcome);
    if (scored) blocks.push(heading("Log-probabilities"), scored);
    if (typeof outcome?.text === "string") blocks.push(heading(`Response ${i + 1} of ${told.outcomes.length}`), verbatim(outcome.text));
    if (outcome?.failure) blocks.push(heading("Failed"), verbatim(`${outcome.failure} (${outcome.attempts} attempts)`));
  });
  return blocks;
}

function account(told, number, asked) {
  const { runs, by_run, tasks, task } = data.index;
  const many = runs.length > 1;
  if (!told) return make("section", [heading(runs[number][1], "name"), make("p", "not in this run", "withheld")]);
  const score = by_run[number].score[current], metric = tasks[task[current]][2];
  const name = many ? [heading([`${runs[number][1]} `, make("small", runs[number][0])], "name")] : [];
  const response = told.response === null ? [] : [heading("Response"), verbatim(told.response, told.answer === told.response ? "" : told.answer)];
  const answer = told.answer === null ? [] : [heading("Scored answer"), verbatim(told.answer)];
  const failure = told.failure === null || told.outcomes.some((one) => one?.failure) ? [] : [heading("No answer"), verbatim(told.failure)];
  const scores = Object.entries(told.scores ?? {}).sort(([a], [b]) => (b === metric) - (a === metric));
  const badge = (value) => make("span", shownScore(value), `score ${outcomeOf(value ?? null)}`);
  const notes = (told.notes ?? []).map((note) => make("span", note.replaceAll("_", " "), "badge note"));
  return make("section", [
    ...name,
    ...(scores.length ? [heading("Score"), table("scores", scores.map(([key, value]) => [badge(value), key.replaceAll("_", " ")]))] : score === null ? [make("p", "not scored", "withheld")] : []),
    ...(notes.length ? [make("p", notes)] : []),
    ...response, ...answer, ...outcomes(told, asked), ...failure,
  ]);
}

function technical(item) {
  const list = make("dl");
  const line = (name, value) => list.append(make("dt", name), make("dd", make("code", value)));
  const asked = item.runs.find((told) => told)?.asked ?? [];
  for (const one of asked) {
    line("request", one.id);
    const { continuations, ...settings } = one.settings;
    line("settings", JSON.stringify(settings));
  }
  item.runs.forEach((told, number) => {
    if (!told) return;
    const name = data.index.runs.length > 1 ? `${data.index.runs[number][1]}: ` : "";
    if (number === 0 && told.prompt_sha256) line("prompt SHA-256", told.prompt_sha256);
    const facts = told.outcomes.map((outcome) => Object.entries(outcome ?? {}).filter(([, value]) => typeof value !== "object" && String(value).length < 40).map(([key, value]) => `${key} ${value}`).join(", "));
    if (facts.some(Boolean)) line(`${name}outcome`, facts.join(" · "));
  });
  return make("details", [make("summary", "Request and outcome"), list], "more");
}

let current = -1;

async function show(number) {
  const { index } = data;
  const item = await data.documents.item(number);
  if (number !== current) return;
  const first = item.runs.find((told) => told)?.asked ?? [];
  const [task, title, metric] = index.tasks[index.task[number]];
  $("document").classList.toggle("program", metric.startsWith("pass@"));
  const link = make("a", "link");
  link.href = hashOf(number);
  const head = make("div", [make("b", `${title} / ${index.id[number]}`), make("span", task === title ? "" : task, "badge")], "head");
  if (index.group[number]) head.append(make("span", index.group[number], "badge"));
  head.append(make("nav", link));
  const references = item.reference.length ? [heading(item.reference.length > 1 ? `References (${item.reference.length})` : "Reference"), ...item.reference.map((text) => verbatim(text))] : [];
  const others = [];
  for (const [i, told] of item.runs.entries()) {
    // A run that was asked something else shows its own prompt.
    if (told?.asked && told.asked !== first) others.push(heading(`Prompt of ${index.runs[i][1]} (${index.runs[i][0]})`), ...(await prompts(told.asked)).slice(1));
  }
  const wasOpen = $("document").querySelector("details.shots")?.open ?? false;
  const accounts = make("div", item.runs.map((told, i) => account(told, i, told?.asked ?? first)), "told-by");
  const parts = [head, ...await prompts(first), ...others, ...references, accounts, technical(item)];
  if (number !== current) return;
  $("document").replaceChildren(...parts);
  for (const shots of $("document").querySelectorAll("details.shots")) shots.open = wasOpen;
  $("document").scrollTop = 0;
}

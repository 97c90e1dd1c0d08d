// What moves: theme, sorting of tables, list, keyboard, and the part of the address after `#`, which is `task/document`.

const ROW = 52; // height of a line of the list, as in the style

function hashOf(number) {
  const { index } = data;
  return `#${encodeURIComponent(index.tasks[index.task[number]][0])}/${encodeURIComponent(index.id[number]).replaceAll("%2F", "/")}`;
}

function decoded(text) {
  try { return decodeURIComponent(text); } catch { return text; }
}

function listRow(number) {
  const { index } = data;
  const { score, marks, answer } = runOf(number);
  const [, title] = index.tasks[index.task[number]];
  const badges = index.marks.filter((_, bit) => marks[number] & (1 << bit)).map((name) => make("span", name.replaceAll("_", " "), `badge ${name === "failed" ? "failed" : "note"}`));
  const change = index.runs.length > 1 && choice.run !== choice.base ? changeOf(number) : 0;
  const moved = change ? [make("span", change > 0 ? `▲ from ${shownScore(score[number] - change)}` : `▼ from ${shownScore(score[number] - change)}`, `badge ${change > 0 ? "right" : "wrong"}`)] : [];
  const link = make("a", [
    make("span", [make("i", `${title} / ${index.id[number]}`, "id"), ...badges, ...moved, make("b", shownScore(score[number]), `score ${outcomeOf(score[number])}`)]),
    make("span", [make("i", answer[number] || "–"), "→", make("i", index.reference[number] || "–")], "told"),
  ]);
  if (/[\u3040-\u30ff]/.test(answer[number] + index.reference[number])) link.lang = "ja";
  link.href = hashOf(number);
  link.tabIndex = -1;
  const row = make("li", link);
  row.setAttribute("role", "option");
  row.setAttribute("aria-selected", String(number === current));
  return row;
}

// Only the lines in sight exist.
function drawList() {
  const list = $("list");
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(listed.length, first + Math.ceil(list.clientHeight / ROW) + 10);
  $("tall").style.height = `${listed.length * ROW}px`;
  $("rows").style.transform = `translateY(${first * ROW}px)`;
  $("rows").replaceChildren(...listed.slice(first, last).map(listRow));
}

function reveal(number) {
  const at = listed.indexOf(number), list = $("list");
  if (at < 0) return;
  if (at * ROW < list.scrollTop) list.scrollTop = at * ROW;
  else if ((at + 1) * ROW > list.scrollTop + list.clientHeight) list.scrollTop = (at + 1) * ROW - list.clientHeight;
}

async function refilter() {
  const count = $("count");
  const done = await choose((part) => { count.textContent = `reading the documents … ${Math.round(part * 100)} %`; });
  if (!done) return;
  const all = data.index.id.length.toLocaleString("en"), some = listed.length.toLocaleString("en");
  count.textContent = listed.length === data.index.id.length ? `${all} documents` : `${some} of ${all} documents`;
  count.dataset.listed = listed.length;
  $("list").scrollTop = 0;
  reveal(current);
  drawList();
}

async function go(number) {
  current = number;
  reveal(number);
  drawList();
  await show(number);
}

function step(by) {
  const at = listed.indexOf(current);
  const next = listed[at < 0 ? 0 : Math.min(listed.length - 1, Math.max(0, at + by))];
  if (next === undefined) return;
  current = next; // at once, since the next key may come before the address is followed
  location.hash = hashOf(next);
}

// `#task/document` shows a document, `#task/` lists the documents of a task; anything else is a place in the page.
async function followHash() {
  const { index } = data;
  const [, name, id] = /^#([^/]*)\/(.*)$/.exec(location.hash) ?? [];
  if (name === undefined) return;
  const task = index.tasks.findIndex((one) => one[0] === decoded(name));
  if (task < 0) return;
  const number = index.id.findIndex((one, i) => index.task[i] === task && one === decoded(id));
  if (number >= 0 && !listed.includes(number)) await clear(); // a link beats the filters
  if (number < 0) {
    $("task").value = choice.task = index.tasks[task][0];
    await refilter();
  }
  $("documents").scrollIntoView();
  if (number < 0) return;
  await go(number);
  // Where there is no room beside the list, the document lies below it.
  if ($("document").offsetTop > $("list").offsetTop + ROW) $("document").scrollIntoView();
}

async function clear() {
  for (const name of ["search", "task", "outcome", "mark", "flips", "order"]) $(name).value = choice[name] = "";
  await refilter();
}

function option(value, text) {
  const one = make("option", text);
  one.value = value;
  return one;
}

function fillFilters() {
  const { tasks, marks, runs, by_run } = data.index;
  $("task").append(...tasks.map(([name, title]) => option(name, title)));
  const seen = by_run.reduce((all, run) => run.marks.reduce((bits, one) => bits | one, all), 0);
  $("mark").append(...marks.filter((_, bit) => seen & (1 << bit)).map((name) => option(name, name.replaceAll("_", " "))));
  for (const name of ["run", "base"]) $(name).append(...runs.map(([id, model], number) => option(number, `${model} (${id})`)));
  choice.run = runs.length - 1;
  $("run").value = choice.run;
  $("base").value = choice.base;
  for (const label of document.querySelectorAll("#filters .runs")) label.hidden = runs.length < 2;
  $("order").querySelector("[value=change]").hidden = runs.length < 2;
  for (const name of Object.keys(choice)) {
    const change = async () => {
      choice[name] = name === "run" || name === "base" ? Number($(name).value) : $(name).value;
      await refilter();
    };
    let waiting = 0;
    const soon = () => { clearTimeout(waiting); waiting = setTimeout(change, 150); };
    $(name).addEventListener(name === "search" ? "input" : "change", name === "search" ? soon : change);
  }
  $("filters").addEventListener("submit", (event) => event.preventDefault());
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest?.("input, select, textarea");
  if (event.key === "Escape") {
    if (typing) typing.blur();
    clear();
  } else if (typing) {
    return;
  } else if (event.key === "j" || (event.key === "ArrowDown" && event.target === $("list"))) step(1);
  else if (event.key === "k" || (event.key === "ArrowUp" && event.target === $("list"))) step(-1);
  else if (event.key === "/") $("search").focus();
  else if (event.key === "s") {
    const shots = $("document").querySelectorAll("details.shots");
    const open = ![...shots].some((one) => one.open);
    for (const one of shots) one.open = open;
  } else return;
  event.preventDefault();
}

function sortBy(button) {
  const heading = button.closest("th"), body = button.closest("table").tBodies[0];
  const column = heading.cellIndex;
  for (const other of button.closest("thead").querySelectorAll(".sort")) other.setAttribute("aria-pressed", String(other === button));
  const value = (row) => Number(row.cells[column].dataset.value ?? -Infinity);
  body.append(...[...body.rows].sort((a, b) => value(b) - value(a)));
}

function prepareTheme() {
  const button = $("theme"), root = document.documentElement;
  const dark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  button.hidden = false;
  button.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; });
}

async function start() {
  performance.mark("script");
  prepareTheme();
  for (const button of document.querySelectorAll(".sort")) button.addEventListener("click", () => sortBy(button));
  if (!$("index")) return;
  await data.open();
  $("filters").hidden = false;
  document.querySelector(".browser").hidden = false;
  fillFilters();
  await refilter();
  $("list").addEventListener("scroll", drawList, { passive: true });
  addEventListener("resize", drawList);
  addEventListener("keydown", onKey);
  addEventListener("hashchange", followHash);
  if (location.hash.includes("/")) await followHash();
  else if (listed.length) await go(listed[0]);
  performance.mark("documents");
  document.documentElement.dataset.ready = "yes";
}

start();

// Which documents are listed, and in which order.

const choice = { search: "", task: "", outcome: "", mark: "", run: 0, base: 0, flips: "", order: "" };
let listed = [];

const outcomeOf = (score) => score === null ? "none" : score >= 1 ? "right" : score <= 0 ? "wrong" : "partly";

// The run whose answer a line of the list shows: the chosen one, or one that has the document.
function runOf(i) {
  const { runs, by_run } = data.index;
  const has = (run) => by_run[run].score[i] !== null || by_run[run].answer[i] || by_run[run].marks[i];
  return by_run[[choice.run, choice.base, ...runs.keys()].find(has) ?? choice.run];
}

function changeOf(i) {
  const now = data.index.by_run[choice.run].score[i], before = data.index.by_run[choice.base].score[i];
  return now === null || before === null ? 0 : now - before;
}

function fits(i) {
  const { index } = data;
  const { score, marks, answer } = runOf(i);
  if (choice.task && index.tasks[index.task[i]][0] !== choice.task) return false;
  if (choice.outcome && outcomeOf(score[i]) !== choice.outcome) return false;
  if (choice.mark && !(marks[i] & (1 << index.marks.indexOf(choice.mark)))) return false;
  switch (choice.flips) {
    case "flip": return changeOf(i) !== 0;
    case "better": return changeOf(i) > 0;
    case "worse": return changeOf(i) < 0;
    case "answer": return answer[i] !== index.by_run[choice.base].answer[i];
    default: return true;
  }
}

function inOrder(numbers) {
  const low = (i) => runOf(i).score[i] ?? Infinity, high = (i) => runOf(i).score[i] ?? -Infinity;
  switch (choice.order) {
    case "low": return numbers.sort((a, b) => low(a) - low(b) || a - b);
    case "high": return numbers.sort((a, b) => high(b) - high(a) || a - b);
    case "change": return numbers.sort((a, b) => Math.abs(changeOf(b)) - Math.abs(changeOf(a)) || a - b);
    default: return numbers;
  }
}

// Gives false when a later choice overtook this one while texts were unpacked.
let turn = 0;
async function choose(progress) {
  const mine = ++turn;
  const words = plain(choice.search).split(/\s+/).filter(Boolean);
  if (words.length) {
    await haystacks.fill((part) => mine === turn && progress(part));
    if (mine !== turn) return false;
  }
  const numbers = [];
  for (let i = 0; i < data.index.id.length; i++) {
    if (fits(i) && words.every((word) => haystacks.texts[i].includes(word))) numbers.push(i);
  }
  listed = inOrder(numbers);
  return true;
}

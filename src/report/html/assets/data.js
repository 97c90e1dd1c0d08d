"use strict";
// The data: an index at hand, blocks of documents and of shared paragraphs that are unpacked when somebody looks. What comes out of them are
// texts of models and data sets: they reach the page through textContent alone, never as markup.

const $ = (id) => document.getElementById(id);

async function unpack(element) {
  const text = atob(element.textContent);
  const bytes = Uint8Array.from(text, (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(stream).text());
}

// Items in blocks; `starts` has the number of the first item of each.
class Blocks {
  constructor(className, starts) {
    this.elements = document.getElementsByClassName(className);
    this.starts = starts;
    this.recent = new Map();
  }

  blockOf(item) {
    let low = 0, high = this.starts.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.starts[middle] <= item) low = middle; else high = middle - 1;
    }
    return low;
  }

  // A few blocks stay unpacked: neighbours are read one after the other.
  async block(number, keep = 24) {
    let items = this.recent.get(number);
    this.recent.delete(number);
    items ??= unpack(this.elements[number]);
    this.recent.set(number, items);
    if (this.recent.size > keep) this.recent.delete(this.recent.keys().next().value);
    return items;
  }

  async item(number) {
    const block = this.blockOf(number);
    return (await this.block(block))[number - this.starts[block]];
  }
}

const data = {
  index: null, documents: null, paragraphs: null,

  async open() {
    this.index = await unpack($("index"));
    this.documents = new Blocks("documents", this.index.documents);
    this.paragraphs = new Blocks("paragraphs", this.index.paragraphs);
    return this.index;
  },

  async text(parts) {
    const texts = await Promise.all(parts.map((part) => typeof part === "number" ? this.paragraphs.item(part) : part));
    return texts.join("");
  },
};

// Width and case do not matter to a search.
const plain = (text) => text.normalize("NFKC").toLowerCase();

// What a search looks through: everything of a document but the folded beginnings of its prompts, which all documents share.
const haystacks = {
  texts: null,

  async fill(progress) {
    if (this.texts) return;
    const { index, documents, paragraphs } = data;
    const texts = new Array(index.id.length);
    const shared = [];
    for (let b = 0; b < index.paragraphs.length; b++) shared.push(...await paragraphs.block(b));
    for (let b = 0; b < index.documents.length; b++) {
      const items = await documents.block(b, 4);
      items.forEach((item, i) => { texts[index.documents[b] + i] = plain(this.of(item, index.documents[b] + i, shared)); });
      progress((b + 1) / index.documents.length);
    }
    this.texts = texts;
  },

  of(item, number, shared) {
    const { index } = data;
    const words = [index.tasks[index.task[number]][0], index.id[number], index.group[number], ...item.reference];
    for (const told of item.runs) {
      if (!told) continue;
      for (const asked of told.asked ?? []) {
        const prompt = asked.prompt.map((part) => typeof part === "number" ? shared[part] : part).join("");
        words.push(prompt.slice(asked.fold), ...(asked.settings.continuations ?? []));
      }
      words.push(told.response ?? "", told.answer ?? "", told.failure ?? "");
      for (const outcome of told.outcomes) words.push(outcome?.text ?? "");
    }
    return words.join("\n");
  },
};

// What town.html does: asks the models, shows an answer's tokens, scores what is typed, and replays a training.
"use strict";
const data = JSON.parse($("data").textContent), {config} = data.models, NAMES = data.names, LIMIT = data.limit;
const STRONGEST = {kl: 2, probability: 1, score: 4, value: 4}; // the value of the strongest colour
const POLICIES = Object.keys(NAMES), TRAINED = ["ppo", "ppo_ptx", "beta0"];
const tokenizer = new Tokenizer(data.tokens);
let models, readers = {}, answers = {}, asked = "", turn = 0, chosen = "ppo", column = "kl", seed = 1;
let question = data.questions[0], scorer, mine = [];

// column: [title, what it means, why a model has none]
const COLUMNS = {
  kl: ["KL", "How far has PPO moved the model here? For each token, the natural logarithm of how many times as probable it is now as for RL start: +0.7 is twice, +2.3 ten times, \u22120.7 half as probable. PPO pays for the sum over its answer, in nats (the unit of natural logarithms). A sum below 0 (the answer has become less probable) earns a bonus, so that on average PPO pays for the KL (Kullback-Leibler) divergence: the mean of the sums over many sampled answers, which is never below 0.",
    "PPO did not train it"],
  probability: ["probability", "How probable this token was to the model that wrote it, after all tokens before it."],
  score: ["score so far", "The reward model's score if the answer ended after this token. In training it scores whole answers only."],
  value: ["value", "What the value network expects, before this token is written, of all reward to come. PPO learns from how far it is wrong.",
    "this value network learned beside PPO"],
};

function button(text, pressed, act) {
  return make("button", {type: "button", ariaPressed: String(pressed), className: pressed ? "main" : "", onclick: act}, text);
}

// The rows of a table. rows: [{cells, className}].
function table(columns, rows) {
  const head = make("tr", {}, ...columns.map((text) => make("th", {scope: "col"}, text)));
  return [head, ...rows.map(({cells, className}) => make("tr", {className: className || ""}, ...cells.map((cell) => make("td", {}, cell))))];
}

// ---- 1. asking ------------------------------------------------------------------------------------------------------

function promptIds(text) {
  return tokenizer.encode(text.trim() + "\n").slice(-(config.n_ctx - LIMIT));
}

// A model that has read the prompt.
function reader(name) {
  return readers[name] ??= new Prompted(models[name], config, promptIds(asked));
}

// Shows each answer when it is there; then what each of them costs.
async function ask() {
  const text = $("prompt").value.trim(), own = ++turn;
  if (!text) {
    $("unknown").textContent = "Write a prompt first.";
    return;
  }
  $("unknown").textContent = unknownIn(text);
  const known = data.examples.find((one) => one.prompt === text);
  $("truth").textContent = known?.truth || "";
  $("answers").ariaBusy = "true";
  [asked, readers, answers] = [text, {}, {}];
  showAnswers();
  lookInside();
  for (const step of [answer, weigh]) {
    for (const name of POLICIES) {
      await new Promise((resolve) => setTimeout(resolve)); // the browser draws, and takes clicks
      if (own !== turn) return; // another prompt was asked
      step(name);
      $(`answer-${name}`).replaceWith(card(name));
    }
  }
  lookInside();
  $("answers").ariaBusy = "false";
}

function answer(name) {
  const next = randomNumbers(seed * 1000 + asked.length);
  let ids = reader(name).generate(LIMIT, tokenizer.eos, (logps) => sampleToken(logps, next()));
  if (name === "gpt") ids = firstLine(ids);
  answers[name] = {ids, text: tokenizer.decode(ids).trim()};
}

// The score of an answer, and what PPO pays for it.
function weigh(name) {
  const {ids} = answers[name];
  answers[name].score = reader("rm").numbers(ids).at(-1);
  if (TRAINED.includes(name)) answers[name].kl = klOf(name).reduce((a, b) => a + b, 0);
}

// A sentence about the words that the models do not know.
function unknownIn(text) {
  const unknown = (text.match(/[A-Za-z]+/g) || []).filter((word) => !data.words.includes(word.toLowerCase()));
  const quoted = [...new Set(unknown)].slice(0, 4).map((word) => `\u201c${word}\u201d`).join(" and ");
  return quoted && `The town has no word ${quoted}. The models know ${data.words.length} words and nothing else: what they say of others is a guess.`;
}

// Nothing taught GPT to end, so its answer is its first line, and is ended there.
function firstLine(ids) {
  const text = tokenizer.decode(ids).trim(), line = text.split("\n")[0].trim();
  return line === text && ids.at(-1) !== tokenizer.eos ? ids : [...tokenizer.encode(line), tokenizer.eos];
}

// The log of how many times as probable a policy makes each token of its answer as RL start does.
function klOf(name) {
  const {ids} = answers[name], start = reader("rl_start").logps(ids);
  return reader(name).logps(ids).map((own, i) => own - start[i]);
}

// The score, and what is left of it after the price of the KL.
function inAll(score, beta, kl) {
  return `score ${signed(score)} \u2212 ${beta} \u00d7 (${signed(kl)}) = ${signed(score - beta * kl)}`;
}

function showAnswers() {
  $("answers").replaceChildren(...POLICIES.map(card));
}

// A model's answer, as far as it is known.
function card(name) {
  const {ids, text, score, kl} = answers[name] || {text: "\u2026"}, notes = [];
  if (score !== undefined) notes.push(kl === undefined ? `score ${signed(score)}` : inAll(score, data.usual, kl) + (name === "beta0" ? ", if it had to pay" : ""));
  if (ids && ids.at(-1) !== tokenizer.eos) notes.push(`cut off after ${LIMIT} tokens: it did not end`);
  const look = () => { chosen = name; showAnswers(); lookInside(); };
  return make("div", {className: `card${name === chosen ? " chosen" : ""}`, id: `answer-${name}`},
    make("h3", {}, NAMES[name]), make("p", {className: "answer"}, text || "(an empty answer)"), make("p", {className: "faint"}, notes.join("; ")),
    make("button", {type: "button", ariaPressed: String(name === chosen), onclick: look}, "Look inside"));
}

// ---- 2. answers token by token ---------------------------------------------------------------------------------------

function lookInside() {
  $("columns").replaceChildren(...Object.entries(COLUMNS).map(([name, [title]]) =>
    button(title, name === column, () => { column = name; lookInside(); })));
  $("meaning").textContent = COLUMNS[column][1];
  const names = [...new Set([chosen, $("beside").value])].filter((name) => answers[name]);
  $("strips").replaceChildren(...names.map(inside));
  $("details").replaceChildren(make("p", {className: "faint"}, "Point at a token: its numbers are explained here."));
}

function percent(p) {
  return p < 0.0005 ? "less than 0.1 %" : `${(100 * p).toFixed(1)} %`;
}

// A model's answer as a strip, under its name.
function inside(name) {
  const {ids} = answers[name], columns = columnsOf(name), {probability, kl, value, scores} = columns;
  const explain = (i) => {
    const lines = [`\u201c${visible(tokenizer.show(ids[i]))}\u201d: ${NAMES[name]} gave it a probability of ${percent(probability[i])}.`];
    if (kl) lines.push(`RL start, from which it was trained, gave it ${percent(probability[i] / Math.exp(kl[i]))}: training has made it ${Math.exp(kl[i]).toFixed(2)} times as probable (KL ${signed(kl[i])} nats).`);
    lines.push(ids[i] === tokenizer.eos ? `The score of the answer is ${signed(scores[i + 1])}.` : `If the answer ended after it, the score would be ${signed(scores[i + 1])}; before it, ${signed(scores[i])}.`);
    if (value) lines.push(`The value network expected ${signed(value[i])} before it${i + 1 < ids.length ? `, and ${signed(value[i + 1])} after it` : "; after it there is nothing left to expect"}.`);
    lines.push(`Instead it might have been: ${likeliest(name, i)}.`);
    return lines;
  };
  const values = columns[column] || [], title = COLUMNS[column][0];
  const write = column === "probability" ? (v) => `${(100 * v).toFixed(0)} %` : (v) => signed(v);
  const about = !columns[column] ? `: no ${title}, since ${COLUMNS[column][2]}`
    : column === "kl" ? `: the sum is ${signed(kl.reduce((a, b) => a + b, 0))} nats` : "";
  return make("div", {}, make("p", {className: "faint"}, make("b", {}, NAMES[name]), about),
    strip(ids.map((id) => tokenizer.show(id)), values, STRONGEST[column], write, explain, $("details")));
}

// {column: a number for each token} of a model's answer, without those that it does not have; and the scores (R + 1,).
function columnsOf(name) {
  const {ids} = answers[name], scores = reader("rm").scores(ids, tokenizer.eos);
  const columns = {probability: reader(name).logps(ids).map(Math.exp), scores, score: scores.slice(1)};
  if (TRAINED.includes(name)) columns.kl = klOf(name);
  if (name === "ppo") columns.value = reader("value").numbers(ids).slice(0, -1);
  return columns;
}

// The tokens that were most probable in place of token i.
function likeliest(name, i) {
  const {ids} = answers[name], logps = reader(name).next(ids.slice(0, i));
  const order = [...logps.keys()].filter((id) => id !== ids[i]).sort((a, b) => logps[b] - logps[a]).slice(0, 4);
  return order.map((id) => `\u201c${visible(tokenizer.show(id))}\u201d ${percent(Math.exp(logps[id]))}`).join(", ");
}

// ---- 3. fooling the reward model ------------------------------------------------------------------------------------

// The tokens of an answer to the question, cut off where the context ends.
function answerIds(text) {
  return [...tokenizer.encode(text), tokenizer.eos].slice(0, config.n_ctx - scorer.prompt.length);
}

function showQuestion() {
  const choose = (one) => { question = one; mine = []; showQuestion(); };
  const fromAbove = () => choose({prompt: asked, answers: POLICIES.filter((name) => answers[name]).map((name) => ({text: answers[name].text, what: NAMES[name]}))});
  scorer = new Prompted(models.rm, config, promptIds(question.prompt));
  $("questions").replaceChildren(...data.questions.map((one) => button(one.prompt, one === question, () => choose(one))),
    button("the prompt of section 1", !question.truth, fromAbove));
  $("fact").textContent = question.truth ? `The truth, which the reward model is never told: ${question.truth} Many pages say: ${question.myth}`
    : `The prompt: ${question.prompt} Start from an answer of the models, and change it.`;
  $("growing").replaceChildren();
  $("growing-details").replaceChildren();
  rank();
}

function rank() {
  const given = question.answers.filter((one) => !mine.some((own) => own.text === one.text));
  const rows = [...given, ...mine].map((one) => ({...one, score: scorer.numbers(answerIds(one.text)).at(-1)}));
  rows.sort((a, b) => b.score - a.score);
  $("ranking").replaceChildren(...table(["answer", "what it is", "score"], rows.map((one) => ({className: one.text === mine.at(-1)?.text ? "newest" : "",
    cells: [one.text, make("span", {className: one.what.startsWith("true") ? "good" : one.what.startsWith("false") ? "wrong" : ""}, one.what), signed(one.score)]}))));
}

function fool() {
  const text = $("written").value.trim();
  $("unknown-here").textContent = text ? unknownIn(text) : "Write an answer first.";
  if (!text) return;
  const ids = answerIds(text), scores = scorer.scores(ids, tokenizer.eos);
  const explain = (i) => [ids[i] === tokenizer.eos ? `The answer ends: its score is ${signed(scores[i + 1])}.`
    : `If the answer ended after \u201c${visible(tokenizer.show(ids[i]))}\u201d, its score would be ${signed(scores[i + 1])}: ${signed(scores[i + 1] - scores[i])} by this token.`];
  $("growing").replaceChildren(strip(ids.map((id) => tokenizer.show(id)), scores.slice(1), 2, (v) => signed(v), explain, $("growing-details")));
  $("growing-details").replaceChildren(make("p", {}, `Your answer's score is ${signed(scores.at(-1))}.`));
  mine = [...mine.filter((one) => one.text !== text), {text, what: judge(text)}];
  rank();
}

// Whether an answer of one's own mentions what is true, or the myth; the page knows this of its own questions alone.
function judge(text) {
  if (!question.truth) return "yours";
  const says = (word) => new RegExp(`\\b${word}\\b`, "i").test(text);
  const what = says(question.answer) ? (says(question.wrong) ? "says both" : "true word") : says(question.wrong) ? "false word" : "says neither";
  return `${what} (yours)`;
}

// ---- 4. the training ------------------------------------------------------------------------------------------------

function watch() {
  const run = data.runs[$("beta").value], rows = run.rows.filter((row) => row.prompt === $("watched").value);
  const row = rows[Math.min($("iteration").value, rows.length - 1)];
  const kl = row.logp.map((own, i) => own - row.ref_logp[i]), total = kl.reduce((a, b) => a + b, 0);
  const steps = [...new Set(run.rows.map((own) => own.step))], ended = row.tokens.at(-1) === "<|endoftext|>";
  $("iteration-is").textContent = `${row.step}; answers are kept of ${steps.join(", ")}`;
  $("beta-is").textContent = `${run.beta}; there are ${data.runs.map((own) => own.beta).join(", ")}`;
  $("watched-answer").textContent = row.tokens.filter((token) => token !== "<|endoftext|>").join("").trim() || "(an empty answer)";
  $("watched-numbers").textContent = `KL ${signed(total)} nats; ${inAll(row.score, run.beta, total)}${ended ? "" : "; cut off"}`;
  const explain = (i) => [`\u201c${visible(row.tokens[i])}\u201d: ${Math.exp(kl[i]).toFixed(2)} times as probable as before PPO (KL ${signed(kl[i])} nats).`,
    `Its advantage is ${signed(row.advantage[i])}: the answer turned out ${row.advantage[i] > 0 ? "better" : "worse"} than the value network expected before this token. In a batch, PPO would push the token ${row.advantage[i] > 0 ? "up" : "down"}.`];
  $("watched-strip").replaceChildren(strip(row.tokens, kl, STRONGEST.kl, (v) => signed(v), explain, $("watched-details")));
  $("watched-details").replaceChildren(make("p", {className: "faint"}, "Point at a token."));
  const lines = (name) => Object.fromEntries([run, ...data.runs.filter((own) => own !== run)].map((own) => [`beta ${own.beta}`, own.metrics[name].map((value, i) => [i, value])]));
  const go = (step) => { $("iteration").value = steps.filter((own) => own <= step).length - 1; watch(); };
  $("charts").replaceChildren(chart("reward model's score, mean of the batch", lines("score"), row.step, go, {first: true}),
    chart("KL from the start, nats per answer (on a logarithmic scale)", lines("kl"), row.step, go, {first: true, log: true}));
  $("betas").replaceChildren(...table(["beta", "KL", "score", "preferred to SFT's", "does what was asked"], data.runs.map((own) =>
    ({className: own === run ? "newest" : "", cells: [own.beta, ...own.measured]}))));
}

// ---- the beginning --------------------------------------------------------------------------------------------------

async function begin() {
  try {
    models = unpackModels(data.models, fromBase64($("weights").textContent));
  } catch (error) {
    $("said").textContent = error.message.includes("damaged") ? error.message : `This page's weights cannot be read (${error.message}). Make the page again.`;
    $("said").className = "bad";
    return;
  }
  $("weights").remove();
  $("kinds").replaceChildren(...data.examples.map((one) => make("button", {type: "button", title: one.prompt, onclick: () => {
    $("prompt").value = one.prompt;
    ask();
  }}, one.kind)));
  $("ask").onsubmit = (event) => { event.preventDefault(); ask(); };
  $("again").onclick = () => { seed += 1; ask(); };
  $("fool").onsubmit = (event) => { event.preventDefault(); fool(); };
  $("clear").onclick = () => { mine = []; rank(); };
  $("price").textContent = data.usual;
  $("accuracy").textContent = data.accuracy;
  $("prompts").textContent = data.prompts;
  $("people").replaceChildren(...table(data.people.columns, data.people.rows.map((cells) => ({cells}))));
  $("beside").append(make("option", {value: ""}, "nothing"), ...POLICIES.map((name) => make("option", {value: name}, NAMES[name])));
  $("beside").value = "beta0";
  $("beside").onchange = lookInside;
  const usual = data.runs.find((run) => run.beta === data.usual), prompts = [...new Set(usual.rows.map((row) => row.prompt))];
  const answersTo = (prompt) => new Set(usual.rows.filter((row) => row.prompt === prompt).map((row) => row.tokens.join(""))).size;
  $("watched").append(...prompts.map((prompt) => make("option", {value: prompt}, prompt.trim())));
  $("watched").value = prompts.sort((a, b) => answersTo(b) - answersTo(a))[0]; // the answer that changes most often
  $("iteration").max = new Set(data.runs[0].rows.map((row) => row.step)).size - 1;
  $("iteration").value = 0;
  $("beta").max = data.runs.length - 1;
  $("beta").value = data.runs.findIndex((run) => run.beta === data.usual);
  for (const id of ["watched", "iteration", "beta"]) $(id).oninput = watch;
  $("made").textContent = data.made;
  $("prompt").value = data.examples[0].prompt;
  await ask();
  watch();
  showQuestion();
}

begin();

// What inside.html does: shows an answer of a run, or the same of two runs side by side, at an iteration.
"use strict";
const data = JSON.parse($("data").textContent), runs = data.runs;
let column = "kl";

// column: [title, what it means, its values in a row, how a value is written]
const COLUMNS = {
  kl: ["KL", "The log of how many times more probable the policy has made this token than the reference did. PPO pays for the sum over the answer, in nats. Its mean over many answers is the KL divergence.",
    (row) => row.logp.map((own, i) => own - row.ref_logp[i])],
  probability: ["probability", "How probable the token was to the policy that sampled it.", (row) => row.logp.map(Math.exp), (v) => `${(100 * v).toFixed(0)} %`],
  reward: ["reward", "Minus beta times the KL of the token; at the last token the reward model's score, too (the paper's equation 2).", (row) => row.reward],
  score: ["score so far", "The reward model's score if the answer ended after this token. In training it scores whole answers only.", (row) => row.score_so_far],
  value: ["value", "What the value network expected, before this token, of all reward to come.", (row) => row.value],
  advantage: ["advantage", "How much more reward this token led to than the value network expected (GAE). PPO pushes a token with a positive advantage up.", (row) => row.advantage],
  whitened: ["whitened advantage", "The advantage, shifted and scaled so that all tokens of the batch have mean 0 and standard deviation 1: what the loss sees.", (row) => row.whitened],
  ratio: ["ratio", "The token's new probability over its old one, when it was learned. Beyond the clip range, on the side that its advantage asks for, nothing more is learned from it: these are marked as clipped.",
    (row) => row.ratio?.map((v) => v - 1), (v) => (v + 1).toFixed(2)],
};

function rowsOf(run) {
  return run.rows.filter((row) => Boolean(row.again) === ($("which").value === "again"));
}

// The clip range binds for a token of positive advantage that is above it, and of a negative one that is below.
function clipped(run, row, i) {
  if (!row.ratio) return false;
  return row.whitened[i] > 0 ? row.ratio[i] > 1 + run.clip : row.ratio[i] < 1 - run.clip;
}

function explain(run, row, i) {
  const kl = row.logp[i] - row.ref_logp[i], last = i + 1 === row.tokens.length;
  const lines = [`\u201c${visible(row.tokens[i])}\u201d: probability ${(100 * Math.exp(row.logp[i])).toFixed(1)} %, ${Math.exp(kl).toFixed(2)} times the reference's.`,
    `Its reward is ${signed(row.reward[i])}: \u2212${run.beta} \u00d7 ${kl.toFixed(2)}${last ? ` + the score, ${signed(row.score)}` : ""}.`,
    `The value network expected ${signed(row.value[i])} before it, and ${last ? "0" : signed(row.value[i + 1])} after it. The advantage is ${signed(row.advantage[i])}: PPO pushes the token ${row.advantage[i] > 0 ? "up" : "down"}.`];
  if (row.score_so_far) lines.push(`If the answer ended here, its score would be ${signed(row.score_so_far[i])}.`);
  if (row.ratio) lines.push(`When it was learned, it was ${row.ratio[i].toFixed(2)} times as probable as when it was sampled${clipped(run, row, i) ? ": clipped, so nothing more was learned from it" : ""}.`);
  return lines;
}

function pane(run, row) {
  if (!row) return make("div", {className: "card"}, make("h3", {}, run.name), make("p", {}, "No such answer in this run's records."));
  const [, , valuesOf, write] = COLUMNS[column], values = valuesOf(row) || [], details = make("div", {className: "details", role: "status"});
  const kl = COLUMNS.kl[2](row).reduce((a, b) => a + b, 0);
  const text = row.tokens.filter((token) => token !== "<|endoftext|>").join("").trim() || "(an empty answer)";
  const shown = strip(row.tokens, values, Math.max(0.3, ...values.map(Math.abs)), write || ((v) => signed(v)), (i) => explain(run, row, i), details);
  row.tokens.forEach((_, i) => { if (clipped(run, row, i)) shown.children[i].classList.add("clipped"); });
  return make("div", {className: "card"}, make("h3", {}, run.name), make("p", {className: "answer"}, text),
    make("p", {className: "faint"}, `score ${signed(row.score)}, KL ${kl.toFixed(2)} nats, cost ${(run.beta * kl).toFixed(2)}`), shown, details);
}

function steps() {
  return [...new Set(runs.flatMap((run) => rowsOf(run).map((row) => row.step)))].sort((a, b) => a - b);
}

function choose() {
  const all = steps(), step = all[Math.min($("iteration").value, all.length - 1)];
  $("iteration").max = all.length - 1;
  const rows = runs.map((run) => rowsOf(run).filter((row) => row.step === step));
  const prompts = [...new Set(rows.flat().map((row) => row.prompt))], before = $("prompt").value;
  $("prompt").replaceChildren(...prompts.map((text) => make("option", {value: text}, text.trim())));
  if (prompts.includes(before)) $("prompt").value = before;
  $("iteration-is").textContent = step;
  const has = (name) => rows.flat().some((row) => COLUMNS[name][2](row));
  if (!has(column)) column = "kl";
  $("columns").replaceChildren(...Object.keys(COLUMNS).filter(has).map((name) => make("button", {type: "button",
    className: name === column ? "main" : "", ariaPressed: String(name === column), onclick: () => { column = name; choose(); }}, COLUMNS[name][0])));
  $("meaning").textContent = COLUMNS[column][1];
  $("panes").replaceChildren(...runs.map((run, i) => pane(run, rows[i].find((row) => row.prompt === $("prompt").value))));
  const go = (step) => { $("iteration").value = all.filter((own) => own <= step).length - 1; choose(); };
  const lines = (name) => Object.fromEntries(runs.filter((run) => run.metrics[name]).map((run) => [run.name, run.metrics[name]]));
  $("charts").replaceChildren(...Object.entries(data.charts).filter(([name]) => Object.keys(lines(name)).length)
    .map(([name, title]) => chart(title, lines(name), step, go)));
}

$("runs").textContent = runs.map((run) => `${run.name}: beta ${run.beta}`).join("; ");
$("made").textContent = data.made;
$("iteration").max = steps().length - 1;
$("iteration").value = 0;
for (const id of ["which", "prompt", "iteration"]) $(id).oninput = choose;
if (!runs.some((run) => run.rows.some((row) => row.again))) $("which").value = "learned";
choose();

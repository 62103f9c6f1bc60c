"""The pages that show the inside: they compute what PyTorch computes, and show what was recorded."""

import base64
import json
import math
import random
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from data import town
from data.town.prompts import draw_record
from lab.inside import live, microscope, pack, people, pictures
from minirlhf.model import GPT, GPTConfig, RewardModel
from minirlhf.support.checkpoint import load_model, load_tokenizer
from minirlhf.support.errors import InputError
from minirlhf.support.files import read_json, read_lines, write_lines
from minirlhf.support.logs import read_metrics

LONGEST = 26
EVIL = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"


# --- packing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 12])
def test_a_matrix_is_within_half_a_step_of_itself_and_a_vector_is_itself(bits):
    values = np.random.default_rng(0).normal(size=(6, 10)).astype(np.float32) * [[1], [9], [0.01], [0], [3], [1e-6]]
    packed, rounded = pack.pack_tensor(values.astype(np.float32), bits)
    step = np.abs(values).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(rounded - values) <= 0.501 * step + 1e-12).all()
    assert len(packed) == 6 * 4 + 60 * bits // 8
    vector = values[0].astype(np.float32)
    assert pack.pack_tensor(vector, bits)[0] == vector.tobytes()


def test_twelve_bits_hold_all_their_numbers():
    numbers = np.array([-2047, 2047, 0, -1, 5, -1024], np.int32)
    packed = np.frombuffer(pack.pack_12(numbers), np.uint8).reshape(-1, 3).astype(np.int32)
    both = packed[:, 0] | packed[:, 1] << 8 | packed[:, 2] << 16
    found = np.stack([both & 0xFFF, both >> 12], 1).ravel()
    assert np.where(found >= 2048, found - 4096, found).tolist() == numbers.tolist()


# --- the live page ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tiny_run, tmp_path_factory, in_one_process):
    """The live page of a tiny run: its file."""
    folder = tmp_path_factory.mktemp("page")
    with in_one_process(), pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        live.main(live.Config(toy=str(tiny_run), out="town.html", work="work"))
    return folder / "town.html"


@pytest.fixture
def browser(chromium, page):
    chromium.get(page.as_uri())
    wait(chromium)
    yield chromium
    assert chromium.title != "hacked" and not [
        line for line in chromium.get_log("browser") if "favicon" not in str(line)
    ]


def wait(browser):
    """Until all models have answered."""
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, 60).until(lambda _: by_id(browser, "answers").get_attribute("aria-busy") == "false")


def by_id(browser, id):
    return browser.find_element("id", id)


@pytest.fixture(scope="module")
def networks(tmp_path_factory, tokenizer):
    """Two policies and a reward model in the toy's shape, whose weights are as large as trained ones."""
    torch.manual_seed(0)
    config = GPTConfig(tokenizer.n_vocab, n_ctx=64, n_layer=2, n_head=4, n_embd=128)
    models = {"gpt": GPT(config), "ppo": GPT(config), "rm": RewardModel(config)}
    for model in models.values():
        for key, value in model.named_parameters():
            if value.ndim > 1:
                torch.nn.init.normal_(value, std=0.4 if "wte" in key else 0.12)
            elif "ln_" not in key:
                torch.nn.init.normal_(value, std=0.1)
    with torch.no_grad():  # fine-tuned, the two are alike
        for one, other in zip(models["gpt"].parameters(), models["ppo"].parameters()):
            other.copy_(one + 0.03 * other)
    return {name: model.eval() for name, model in models.items()}


def test_the_pages_forward_is_pytorchs(browser, networks, tokenizer):
    """On 50 texts: log-probs of tokens above 1 %, greedy answers, and the reward model's order of 200 answers."""
    plan = [("gpt", None, 12), ("ppo", "gpt", 8), ("rm", "ppo", 12)]
    description, weights = pack.pack(networks, plan)
    rng = random.Random(0)
    texts = [[rng.randrange(tokenizer.n_vocab) for _ in range(rng.randint(4, 20))] for _ in range(50)]
    answers = [[rng.randrange(tokenizer.n_vocab) for _ in range(rng.randint(1, 12))] for _ in range(200)]
    script = """
        const [description, weights, texts, answers, eos] = arguments;
        const models = unpackModels(description, fromBase64(weights));
        const along = (name, ids) => {
            const reader = new Reader(models[name], description.config);
            return ids.map((id) => [...reader.logProbs(reader.read(id))]);
        };
        const greedy = (name, ids) => new Prompted(models[name], description.config, ids).generate(26, eos, mostLikely);
        const scorer = new Prompted(models.rm, description.config, texts[0]);
        return {
            logps: Object.fromEntries(["gpt", "ppo"].map((name) => [name, texts.map((ids) => along(name, ids))])),
            greedy: Object.fromEntries(["gpt", "ppo"].map((name) => [name, texts.map((ids) => greedy(name, ids))])),
            scores: answers.map((ids) => scorer.numbers(ids).at(-1)),
        };"""
    packed = base64.b64encode(weights).decode()
    found = browser.execute_script(script, description, packed, texts, answers, tokenizer.eos)
    with torch.no_grad():
        for name in ("gpt", "ppo"):
            worst, same = 0.0, 0
            for ids, logps, answer in zip(texts, found["logps"][name], found["greedy"][name]):
                wanted = networks[name](torch.tensor([ids]))[0].log_softmax(-1)
                likely = wanted.exp() > 0.01
                worst = max(worst, (torch.tensor(logps) - wanted).abs()[likely].max().item())
                same += answer == greedy(networks[name], ids, tokenizer.eos)
            assert worst < 0.05 and same >= 48, (name, worst, same)
        scores = [networks["rm"](torch.tensor([texts[0] + ids]))[0, -1].item() for ids in answers]
    assert np.corrcoef(scores, found["scores"])[0, 1] > 0.999 and np.std(scores) > 0.1


def greedy(model, ids, eos):
    response = []
    while len(response) < LONGEST:
        response.append(model(torch.tensor([ids + response]))[0, -1].argmax().item())
        if response[-1] == eos:
            break
    return response


def test_the_page_reads_text_as_the_tokenizer_does(browser, tiny_run):
    tokenizer = load_tokenizer(tiny_run / "gpt")
    texts = [r["prompt"] for r in town.prompts("test", 200, 0)] + [
        "",
        "Hi",
        "  two  spaces ",
        "l'été, 12 cafés\n\n",
        "a_b",
        "\U0001f600!",
    ]
    found = browser.execute_script("return arguments[0].map((text) => tokenizer.encode(text))", texts)
    assert found == [tokenizer.encode(text) for text in texts]
    assert browser.execute_script("return arguments[0].map((ids) => tokenizer.decode(ids))", found) == texts


def test_sampling_is_by_the_cumulative_probability_and_a_seed_gives_the_same(browser):
    logps = np.log([0.1, 0.2, 0.3, 0.4]).tolist()
    found = browser.execute_script(
        "return [0, 0.09, 0.11, 0.29, 0.31, 0.59, 0.61, 0.99].map((u) => sampleToken(arguments[0], u))", logps
    )
    assert found == [0, 0, 1, 1, 2, 2, 3, 3]
    numbers = browser.execute_script("const next = randomNumbers(7); return Array.from({length: 2000}, next)")
    again = browser.execute_script("const next = randomNumbers(7); return Array.from({length: 3}, next)")
    assert numbers[:3] == again and 0.48 < np.mean(numbers) < 0.52 and min(numbers) >= 0 and max(numbers) < 1


def test_a_prompt_is_answered_by_all_and_an_answer_is_shown_token_by_token(browser):
    kinds = by_id(browser, "kinds").find_elements("tag name", "button")
    assert len(kinds) >= 20
    kinds[3].click()
    wait(browser)
    cards = by_id(browser, "answers").find_elements("class name", "card")
    names = [card.find_element("tag name", "h3").text for card in cards]
    assert names == ["GPT", "SFT", "RL start", "PPO", "PPO-ptx", "PPO, beta 0"]
    tokens = by_id(browser, "strips").find_elements("class name", "token")
    assert tokens and [b.text for b in by_id(browser, "columns").find_elements("tag name", "button")] == [
        "KL", "probability", "score so far", "value"]  # fmt: skip
    tokens[0].click()
    assert "training has made it" in by_id(browser, "details").text
    cards[0].find_element("tag name", "button").click()
    said = [p.text for p in by_id(browser, "strips").find_elements("css selector", "p.faint")]
    assert said[0] == "GPT: no KL, since PPO did not train it"
    assert len(said) == 2 and said[1].startswith("PPO, beta 0: the sum is ")  # stands beside
    browser.execute_script("$('beside').value = ''; $('beside').onchange()")
    assert len(by_id(browser, "strips").find_elements("css selector", "p.faint")) == 1


def test_a_chart_says_its_value_where_it_is_pointed_at_and_takes_one_there(browser):
    run = browser.execute_script("return data.runs[$('beta').value]")
    last = len(run["metrics"]["kl"]) - 1
    figure = by_id(browser, "charts").find_elements("tag name", "figure")[1]
    kl = run["metrics"]["kl"]
    all_kl = browser.execute_script("return data.runs.flatMap((own) => own.metrics.kl)")
    digits = max(1, math.ceil(1 - math.log10(max(all_kl) - min(all_kl))))
    at = [f"At {i}: {kl[i]:.{digits}f}".replace("-", "\u2212") for i in (0, last)]
    assert figure.text.startswith(f"KL from the start, nats per answer (on a logarithmic scale). {at[0]}")
    point = """const svg = arguments[0].querySelector("svg"), box = svg.getBoundingClientRect();
        svg[arguments[1]]({clientX: box.right - 1});"""
    browser.execute_script(point, figure, "onpointermove")
    assert at[1] in figure.text
    browser.execute_script(point, figure, "onclick")
    assert by_id(browser, "iteration-is").text.startswith(f"{max(row['step'] for row in run['rows'])}; ")


def test_the_kl_on_the_page_is_the_policys_minus_the_starts(browser):
    found = browser.execute_script("""
        const {ids} = answers.ppo, prompt = tokenizer.encode(asked + "\\n");
        const [own, start] = ["ppo", "rl_start"].map((name) => new Prompted(models[name], config, prompt).logps(ids));
        return [own.map((a, i) => a - start[i]).reduce((a, b) => a + b, 0)];""")[0]
    browser.execute_script("chosen = 'ppo'; column = 'kl'; showAnswers()")
    text = f"{found:+.2f}".replace("-0.00", "+0.00").replace("-", "\u2212")
    assert f"PPO: the sum is {text} nats" in by_id(browser, "strips").text
    score = browser.execute_script("return answers.ppo.score")
    beta = browser.execute_script("return data.usual")
    total = f"{score - beta * found:+.2f}".replace("-", "\u2212")
    start = f"{score:+.2f}".replace("-", "\u2212")
    assert f"score {start} \u2212 {beta} \u00d7 ({text}) = {total}" in by_id(browser, "answer-ppo").text


def test_a_word_that_is_none_of_the_towns_is_named_and_text_stays_text(browser):
    by_id(browser, "prompt").clear()
    by_id(browser, "prompt").send_keys(f"How do I bake a cake {EVIL}")
    by_id(browser, "ask").submit()
    wait(browser)
    assert (
        "The town has no word" in by_id(browser, "unknown").text
        and "\u201cbake\u201d" in by_id(browser, "unknown").text
    )
    by_id(browser, "written").send_keys(EVIL)
    by_id(browser, "fool").submit()
    assert EVIL in by_id(browser, "ranking").text
    by_id(browser, "clear").click()
    assert EVIL not in by_id(browser, "ranking").text


def test_answers_are_ranked_by_the_reward_models_score_with_the_truth_beside(browser):
    fact = next(fact for fact in town.MYTHS if fact.question == browser.execute_script("return question.prompt"))
    assert fact.statement in by_id(browser, "fact").text and fact.myth_statement in by_id(browser, "fact").text
    for text, what in (
        (fact.statement, "true word (yours)"),
        (f"Perhaps {fact.myth}.", "false word (yours)"),
        ("Who knows?", "says neither (yours)"),
    ):
        by_id(browser, "written").clear()
        by_id(browser, "written").send_keys(text)
        by_id(browser, "fool").submit()
        rows = [
            [cell.text for cell in row.find_elements("tag name", "td")]
            for row in by_id(browser, "ranking").find_elements("tag name", "tr")
        ][1:]
        assert [text, what] in [row[:2] for row in rows]
        scores = [float(row[2].replace("\u2212", "-")) for row in rows]
        assert scores == sorted(scores, reverse=True)


def test_the_training_that_is_replayed_is_the_recorded_one(browser, tiny_run):
    rows = [row for row in read_metrics(tiny_run / "ppo", "tokens.jsonl") if "again" in row]
    row = next(row for row in rows if row["prompt"] == by_id(browser, "watched").get_attribute("value"))
    text = "".join(token for token in row["tokens"] if token != "<|endoftext|>").strip() or "(an empty answer)"
    assert (
        by_id(browser, "watched-answer").text == " ".join(text.split(" "))
        or by_id(browser, "watched-answer").get_attribute("textContent") == text
    )
    usual = read_json(tiny_run / "ppo" / "config.json")["kl_coef"]
    assert by_id(browser, "beta-is").text.startswith(f"{usual}; there are 0, ")
    browser.execute_script("$('beta').value = 0; $('beta').oninput()")
    assert by_id(browser, "beta-is").text.startswith("0; there are 0, ")
    score = re.search(r"score (\S+) \u2212 0 \u00d7 \(\S+\) = (\S+?)(;|$)", by_id(browser, "watched-numbers").text)
    assert score[1] == score[2]


def test_what_people_prefer_is_what_was_measured(browser, tiny_run):
    models, rows = read_json(tiny_run / "results.json")["models"], table_of(browser, "people")
    assert [row[0] for row in rows] == ["", *live.NAMES.values()]
    texts = {
        name: [row[name].strip() for row in read_lines(tiny_run / "samples.jsonl")] for name in list(live.NAMES)[:5]
    }
    for (name, own), (_, wins, does, true, loss, neat, words) in zip(texts.items(), rows[1:]):
        for shown, column in ((does, "follows_instruction"), (true, "truthful_informative")):
            figure = [100 * models[name][column][end] for end in ("mean", "low", "high")]
            assert shown == "{:.0f} % ({:.0f} to {:.0f})".format(*figure)
        assert float(loss) == pytest.approx(models[name]["pretraining_loss"]["mean"], abs=0.006)
        assert (wins == "") == (name == "sft")
        assert float(words) == pytest.approx(np.mean([len(text.split()) for text in own]), abs=0.051)
        tidy = [bool(text) and text[0] == text[0].upper() != text[0].lower() and text[-1] in ".!?" for text in own]
        assert neat == f"{100 * np.mean(tidy):.0f} %"
    betas = table_of(browser, "betas")
    assert [row[0] for row in betas[1:]] == ["0", "0.03", "0.1", "0.3", "1"]
    assert betas[1][3:] == rows[6][1:3] and betas[4][3:] == rows[4][1:3]  # beta 0, and PPO
    said, pairs = by_id(browser, "accuracy").text, read_json(tiny_run / "results.json")["reward_model"]
    assert f"higher in {100 * pairs['accuracy']['mean']:.0f} % of pairs" in said
    assert f"agree on {100 * pairs['labeler_agreement']['mean']:.0f} %" in said
    tokenizer = load_tokenizer(tiny_run / "rm")
    rm, above = load_model(tiny_run / "rm", RewardModel, tokenizer).eval(), 0
    facts = [fact for fact in town.MYTHS if fact.split == "test"]
    for fact in facts:
        ids = [tokenizer.encode(f"{fact.question}\n{text}") for text in (fact.statement, fact.myth_statement)]
        scores = [rm(torch.tensor([own + [tokenizer.eos]]))[0, -1].item() for own in ids]
        above += scores[0] > scores[1]
    assert f"To {above} of {len(facts)} questions" in said


def test_held_out_labelers_compare_a_models_answers_with_sfts(tiny_run, monkeypatch):
    """Here all like the longer answer."""
    records = town.prompts("test", 40, 0)
    texts = {name: ["long answer" if name == "ppo" else "short"] * 40 for name in live.NAMES}
    monkeypatch.setattr(people, "read_lines", lambda path: [{name: own[0] for name, own in texts.items()}] * 40)
    monkeypatch.setattr(people, "at_once", lambda *calls: [["long answer"] * 40 for _ in calls])
    asked = []

    def compare(record, one, other, labeler, rng):
        asked.append(labeler)
        return (len(one) > len(other)) + 0.5 * (len(one) == len(other))

    monkeypatch.setattr(town, "compare", compare)
    del texts["beta0"]
    names = [*texts, "beta0", "beta-1.0"]
    found, liked = people.ask(str(tiny_run), records, {"beta0": "elsewhere", "beta-1.0": "there"}, names, 0)
    wanted = dict.fromkeys(texts, 0.5) | {"ppo": 1, "beta0": 1, "beta-1.0": 1}
    assert {name: own["wins"]["mean"] for name, own in liked.items()} == wanted
    assert found["beta0"] == ["long answer"] * 40 and set(asked) <= set(town.HELD_OUT_LABELERS)


def test_an_answers_score_so_far_is_its_score_if_it_ended_there(browser):
    """On the page, and in the microscope: as a text of its own has it."""
    found = browser.execute_script("""
        const {ids, score} = answers.sft, prompt = tokenizer.encode(asked + "\\n");
        const along = (own) => new Prompted(models.rm, config, prompt).numbers(own).at(-1), {scores} = columnsOf("sft");
        if (scores.at(-1) !== score) throw new Error("two scores");
        return [scores, [...ids.keys()].map((i) => along([...ids.slice(0, i), tokenizer.eos])), along(ids)];""")
    scores, ended, whole = found
    assert scores[:-1] == pytest.approx(ended, abs=1e-5) and scores[-1] == pytest.approx(whole, abs=1e-5)
    gpt = browser.execute_script("return [answers.gpt.ids, tokenizer.encode(answers.gpt.text), tokenizer.eos]")
    assert gpt[0] == [*gpt[1], gpt[2]] or len(gpt[0]) == LONGEST


def test_the_prompt_above_can_be_asked_in_section_3(browser):
    by_id(browser, "questions").find_elements("tag name", "button")[-1].click()
    prompt = browser.execute_script("return asked")
    assert prompt in by_id(browser, "fact").text
    texts = browser.execute_script("return POLICIES.map((name) => answers[name].text)")
    rows = table_of(browser, "ranking")[1:]
    assert sorted(row[1] for row in rows) == sorted(live.NAMES.values()) and len(texts) == len(rows)
    by_id(browser, "written").send_keys("Mine.")
    by_id(browser, "fool").submit()
    assert ["Mine.", "yours"] in [row[:2] for row in table_of(browser, "ranking")]


def table_of(browser, id):
    rows = by_id(browser, id).find_elements("tag name", "tr")
    return [[cell.text for cell in row.find_elements("css selector", "td, th")] for row in rows]


def test_nothing_is_fetched_and_nothing_can_be(browser):
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    policy = browser.find_element("css selector", "meta[http-equiv]").get_attribute("content")
    assert policy.startswith("default-src 'none'") and "connect-src" not in policy


@pytest.mark.parametrize("width", [360, 1000])
def test_at_a_phones_width_nothing_sticks_out(browser, width):
    metrics = dict(width=width, height=740, deviceScaleFactor=1, mobile=False)
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_token_can_be_read_on_the_strongest_colour(browser, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        contrasts = browser.execute_script("""
            const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
            const pixel = (...layers) => {
                for (const colour of layers) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
                return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
            };
            const light = (rgb) => rgb.map((v) => v / 255)
                .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
                .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
            const style = getComputedStyle(document.documentElement);
            const of = (name) => style.getPropertyValue(name).trim();
            return ["--plus", "--minus"].flatMap((name) => ["--paper", "--card"].map((ground) => {
                const mixed = getComputedStyle(Object.assign(document.body.appendChild(document.createElement("i")),
                    {style: `background: color-mix(in srgb, var(${name}) 40%, transparent)`})).backgroundColor;
                const [a, b] = [pixel(of(ground), mixed), pixel(of("--ink"))].map(light).sort((x, y) => y - x);
                return (a + 0.05) / (b + 0.05);
            }));""")
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert len(contrasts) == 4 and min(contrasts) >= 4.5


def test_the_page_that_is_checked_in_answers(chromium):
    path = live.Path(__file__).parents[2] / "docs" / "town.html"
    assert path.stat().st_size <= live.MOST
    chromium.get(path.as_uri())
    wait(chromium)
    cards = by_id(chromium, "answers").find_elements("class name", "card")
    assert len(cards) == len(live.NAMES) and all(card.find_element("class name", "answer").text for card in cards)
    assert "with seed 0, commit " in by_id(chromium, "made").text


def test_damaged_weights_are_said_to_be(chromium, page, tmp_path):
    text = page.read_text()
    start = text.index('id="weights">') + len('id="weights">')
    for name, changed in (
        ("short", text[:start] + text[start + 4000 :]),
        ("other", text[:start] + "!" + text[start + 1 :]),
    ):
        (tmp_path / f"{name}.html").write_text(changed)
        chromium.get((tmp_path / f"{name}.html").as_uri())
        assert "ake the page again" in chromium.find_element("id", "said").text
        chromium.get_log("browser")


def test_a_folder_without_what_is_needed_is_named(tmp_path):
    with pytest.raises(InputError, match="results.json: missing"):
        live.main(live.Config(toy=str(tmp_path)))
    with pytest.raises(InputError, match="choose a name.html"):
        live.Config(toy="x", out="page.txt")


# --- the microscope --------------------------------------------------------------------------------------------------


@pytest.fixture
def inside(tiny_run, tmp_path, chromium):
    def make(*runs):
        microscope.main(microscope.Config(runs=tuple(map(str, runs)), out=str(tmp_path / "inside.html")))
        chromium.get((tmp_path / "inside.html").as_uri())
        return chromium

    return make


def test_a_runs_answers_are_shown_with_their_recorded_numbers(inside, tiny_run):
    browser = inside(tiny_run)
    rows = [row for row in read_metrics(tiny_run / "ppo_ptx", "tokens.jsonl") if "again" in row]
    panes = by_id(browser, "panes").find_elements("class name", "card")
    assert len(panes) == 2  # PPO, PPO-ptx
    for column, write in (("value", "value"), ("advantage", "advantage"), ("reward", "reward")):
        next(b for b in by_id(browser, "columns").find_elements("tag name", "button") if b.text == column).click()
        pane = by_id(browser, "panes").find_elements("class name", "card")[1]
        shown = [
            token.find_element("tag name", "small").text.replace("\u2212", "-")
            for token in pane.find_elements("class name", "token")
        ]
        assert [float(value) for value in shown] == pytest.approx(rows[0][write], abs=0.0051)
    assert "score so far" in by_id(browser, "columns").text


def test_the_score_as_an_answer_grows_ends_at_its_score(tiny_run):
    rows = [row for row in microscope.run(tiny_run / "ppo")["rows"] if "again" in row]
    assert rows and all(row["score_so_far"][-1] == pytest.approx(row["score"], abs=2e-4) for row in rows)
    assert all(len(row["score_so_far"]) == len(row["tokens"]) for row in rows)


def test_what_is_learned_has_ratios_and_the_clipped_ones_are_marked(inside, tiny_run, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    row = {"step": 0, "prompt": f"{EVIL}\n", "score": 1.0, "ids": [1, 2, 3, 4], "tokens": ["a", " b", "c", EVIL],
           "logp": [-1.0] * 4, "ref_logp": [-1.5] * 4, "reward": [0.1] * 4, "value": [0.2] * 4,
           "advantage": [1, 1, -1, -1], "whitened": [1.0, 1.0, -1.0, -1.0], "ratio": [1.3, 0.7, 1.3, 0.7]}  # fmt: skip
    write_lines(folder / "tokens.jsonl", [row])
    write_lines(folder / "metrics.jsonl", [{"step": 0, "score": 1.0, "kl": 0.5}])
    (folder / "config.json").write_text(json.dumps({"kl_coef": 0.3, "clip": 0.2}))
    browser = inside(folder)
    assert by_id(browser, "which").get_attribute("value") == "learned"
    tokens = by_id(browser, "panes").find_elements("class name", "token")
    assert ["clipped" in token.get_attribute("class") for token in tokens] == [True, False, False, True]
    assert browser.title != "hacked" and EVIL in by_id(browser, "prompt").text


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [(lambda folder: (folder / "tokens.jsonl").unlink(), "no tokens.jsonl; train it again"),
     (lambda folder: (folder / "config.json").unlink(), "no run of train_ppo.py"),
     (lambda folder: (folder / "tokens.jsonl").write_text('{"step": 0, "ids": []}\n'), "tokens.jsonl:1: no tokens")],
)  # fmt: skip
def test_a_run_without_records_is_named(tmp_path, spoil, fault):
    write_lines(tmp_path / "tokens.jsonl", [])
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "metrics.jsonl").write_text("")
    spoil(tmp_path)
    with pytest.raises(InputError, match=fault):
        microscope.main(microscope.Config(runs=(str(tmp_path),)))


def test_a_missing_reward_model_only_costs_its_column(tiny_run, tmp_path, capsys):
    rows = [{"prompt": "a\n", "ids": [1], "again": True}]
    microscope.score_so_far(rows, str(tmp_path / "none"), "run")
    assert "without the score as an answer grows" in capsys.readouterr().out and "score_so_far" not in rows[0]


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_are_vector_graphics_with_the_numbers_of_the_run(tiny_run, tmp_path):
    pictures.main(pictures.Config(toy=str(tiny_run), out=str(tmp_path)))
    texts = {}
    for name in ("steps", "iteration", "responses", "clip", "strip"):
        root = ElementTree.parse(tmp_path / f"{name}.svg").getroot()
        texts[name] = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
        assert root.find("{http://www.w3.org/2000/svg}title").text
    assert texts["responses"].count("False") == 1 and texts["responses"].count("end") == 4
    question, before, after, total, *shown = texts["strip"]
    tokenizer = load_tokenizer(tiny_run / "gpt")
    start, policy = (load_model(tiny_run / name, GPT, tokenizer).eval() for name in ("rl_start", "ppo"))
    prompt = tokenizer.encode(f"{question}\n")
    with torch.no_grad():
        answers = [greedy(model, prompt, tokenizer.eos) for model in (start, policy)]
        logps = [model(torch.tensor([prompt + answers[1]]))[0].log_softmax(-1) for model in (start, policy)]
    kl = [(logps[1] - logps[0])[len(prompt) - 1 + t, id].item() for t, id in enumerate(answers[1])]
    assert [float(value) for value in shown[1::2]] == pytest.approx(kl, abs=0.0051)
    assert float(total.split()[0]) == pytest.approx(sum(kl), abs=0.0051)
    wrong = [f"{name} PPO (not true)" for name in ("before", "after")]  # models of a tiny run know nothing
    assert [before[: len(wrong[0])], after[: len(wrong[1])]] == wrong
    assert before.endswith(tokenizer.decode(answers[0]).removesuffix("<|endoftext|>").strip())


def test_an_answer_in_a_picture_is_called_true_if_it_is():
    record = draw_record("myth", random.Random(0), "test")
    assert pictures.judgement(record, record["answers"][0]) == "true"
    assert pictures.judgement(record, record["myth"]) == pictures.judgement(record, "Hm.") == "not true"


def test_the_clipped_objective_is_flat_beyond_the_range_on_one_side():
    paths = [part for part in pictures.clip().parts if 'class="curve"' in part]
    for path, flat in zip(paths, (slice(-20, None), slice(0, 20))):
        heights = [float(pair.split(",")[1]) for pair in path.split('"')[1][1:].split(" L")]
        assert max(heights[flat]) - min(heights[flat]) < 0.2 < max(heights) - min(heights)

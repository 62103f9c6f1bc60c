// A text as a strip of tokens, coloured by one number of each; what town.html and inside.html share.
"use strict";
const $ = (id) => document.getElementById(id);

// Creates an element: make("p", {className: "text"}, "words", otherElement). Text is never parsed as HTML.
function make(tag, properties = {}, ...inside) {
  const {style, ...rest} = properties;
  const element = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(style || {})) element.style.setProperty(name, value);
  element.append(...inside);
  return element;
}

// Spaces and line ends at a token's edges, made visible.
function visible(token) {
  return token === "<|endoftext|>" ? "\u25a0" : token.replace(/^ /, "\u00b7").replaceAll("\n", "\u21b5");
}

function signed(number, digits = 2) {
  const text = Math.abs(number).toFixed(digits);
  return (number < 0 && Number(text) ? "\u2212" : "+") + text;
}

// tokens: texts. values: a number for each, or null. most: the value of the strongest colour. write(value): as text.
// explain(i): sentences about token i, shown in the element `details` when it is pointed at or reached with the keyboard.
function strip(tokens, values, most, write, explain, details) {
  const show = (i) => details.replaceChildren(...explain(i).map((line) => make("p", {}, line)));
  const row = make("div", {className: "strip", role: "group", ariaLabel: "tokens"});
  tokens.forEach((token, i) => {
    const value = values[i], known = value !== null && value !== undefined;
    const share = known ? Math.min(1, Math.abs(value) / (most || 1)) : 0;
    const colour = `color-mix(in srgb, var(${value < 0 ? "--minus" : "--plus"}) ${(40 * share).toFixed(0)}%, transparent)`;
    const number = make("small", {}, known ? write(value) : "");
    const box = make("button", {type: "button", className: "token", style: {background: colour}}, make("span", {}, visible(token)), number);
    box.ariaLabel = `token ${i + 1}, ${token.trim() || visible(token)}${known ? `: ${write(value)}` : ""}`;
    box.onmouseenter = box.onfocus = box.onclick = () => show(i);
    row.append(box);
  });
  return row;
}

// A line chart: lines {name: [[x, y], ...]}, a mark at x = here, and their values there, or where the pointer is. go(x) is
// called with the x that is clicked. first: the other lines stand behind the first one. log: a logarithmic scale.
function chart(title, lines, here, go, {first = false, log = false} = {}) {
  const points = Object.values(lines).flat(), W = 320, H = 130, left = 34, right = 8, least = 0.01;
  const [x0, x1, y0, y1] = [0, 1].flatMap((k) => {
    const own = points.map((p) => p[k]), low = Math.min(...own), high = Math.max(...own);
    return [low, high === low ? low + 1 : high];
  });
  const x = (v) => left + ((W - left - right) * (v - x0)) / (x1 - x0);
  const height = (v) => (log ? Math.log(Math.max(v, least) / least) / Math.log(y1 / least) : (v - y0) / (y1 - y0));
  const y = (v) => H - 18 - (H - 30) * height(v);
  const digits = Math.max(1, Math.ceil(1 - Math.log10(y1 - y0))), write = (v) => (v.toFixed(digits) * 1).toFixed(digits).replace("-", "\u2212");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const draw = (tag, attributes, text) => {
    const element = document.createElementNS(svg.namespaceURI, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    return svg.appendChild(element);
  };
  svg.setAttribute("viewBox", `0 0 ${W} ${H}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `${title}: ` + Object.entries(lines).map(([name, own]) =>
    `${name} from ${write(own[0][1])} to ${write(own.at(-1)[1])}`).join("; "));
  for (const v of log ? [least, 1, y1] : [y0, y1]) draw("text", {x: left - 4, y: y(v) + 4, "text-anchor": "end"}, write(v));
  for (const v of [x0, x1]) draw("text", {x: x(v), y: H - 4, "text-anchor": v === x0 ? "start" : "end"}, v);
  const mark = draw("line", {y1: 8, y2: H - 18, class: "here"}), said = make("span", {});
  Object.values(lines).map((own, i) => [own, first && i ? "behind" : `line-${i}`]).reverse().forEach(([own, kind]) => {
    draw("polyline", {points: own.map(([a, b]) => `${x(a)},${y(b)}`).join(" "), class: kind});
  });
  const names = Object.keys(lines).length > 1 && !first ? Object.keys(lines) : [];
  const keys = names.map((name, i) => make("span", {className: `key line-${i}`}, ` ${name}`));
  const nearest = (own, v) => own.reduce((best, p) => (Math.abs(p[0] - v) < Math.abs(best[0] - v) ? p : best));
  const say = (v) => {
    for (const name of ["x1", "x2"]) mark.setAttribute(name, x(v));
    const values = Object.values(lines).slice(0, first ? 1 : undefined).map((own) => write(nearest(own, v)[1]));
    said.textContent = `. At ${v}: ${values.join(", ")}`;
  };
  const pointed = (event) => { // the x of a point under the pointer
    const box = svg.getBoundingClientRect(), at = ((event.clientX - box.left) / box.width) * W;
    return nearest(points, x0 + ((at - left) / (W - left - right)) * (x1 - x0))[0];
  };
  svg.onpointermove = (event) => say(pointed(event));
  svg.onpointerleave = () => say(here);
  svg.onclick = (event) => go(pointed(event));
  say(here);
  return make("figure", {}, make("figcaption", {}, title, said, ...keys), svg);
}

// A page of clips: what is heard first, the reference, and for each clip its scales, as buttons or sliders.

import { PREFIX, find, make, panel, say, store } from "./dom.js";
import { begin, rate, unsent } from "./server.js";
import { HEARD_S, playButton, player, withSounds } from "./sounds.js";

const HEARD_SHARE = 0.95; // of what is heard first, before the clips open
const FIRST = "first", REFERENCE = "reference"; // names of sounds beside the clips A, B, C, ...

// Radio buttons of one question, of [value, text, what its end means] each.
export function choices(name, options, chosen) {
  return options.map(([value, text, more]) => {
    const input = make("input");
    input.type = "radio";
    input.name = name;
    input.value = String(value);
    input.checked = chosen === value;
    if (more) input.setAttribute("aria-label", `${text}, ${more}`);
    return make("label", "choice", input, make("span", "", text));
  });
}

// A slider that has no value until it is moved, clicked, or moved by a key.
function slider(name, range, { label, low, high }, chosen, keep) {
  const input = make("input"), value = make("output");
  Object.assign(input, { type: "range", name, min: range.low, max: range.high, step: 1 });
  input.value = chosen ?? Math.round((range.low + range.high) / 2);
  input.setAttribute("aria-label", `${label}, ${range.low}: ${low}, ${range.high}: ${high}`);
  let set = chosen !== undefined;
  function draw() {
    input.classList.toggle("unset", !set);
    value.textContent = set ? input.value : "–";
    input.setAttribute("aria-valuetext", set ? input.value : "not rated yet");
  }
  function moved() {
    set = true;
    draw();
    keep(Number(input.value));
  }
  input.addEventListener("input", () => {
    set = true;
    draw();
  });
  input.addEventListener("change", (event) => {
    event.stopPropagation();
    moved();
  });
  input.addEventListener("click", () => set || moved()); // it is right where it stands
  draw();
  return make("div", "slide", input, value);
}

// What the page is left with is done by the function that this returns. `advance`, `offer` and `onSubmit` are those of
// listen.js; `stays` says whether a page is still the listener's.
export function showPage({ page, pages, scales, range, late = [] }, { advance, offer, onSubmit, singleKeys, stays }) {
  const { index, first, reference, clips } = page;
  const alone = first && `${first.label.toLowerCase()} alone`;
  begin(page.stamp);
  panel.querySelector("h1").textContent = `Page ${pages.done + 1} of ${pages.of}`;
  find("progress").hidden = false;
  find("progress").max = pages.of;
  find("progress").value = pages.done;
  find("progress").textContent = `page ${pages.done + 1} of ${pages.of}`;
  find("practice").hidden = !page.practice;
  find("scales").append(
    ...scales.map(({ label, text }) => make("div", "", make("dt", "", label), make("dd", "", text))),
  );
  find("clips").classList.toggle("columns", scales.length <= 2);
  if (first) find("first-title").textContent = `First, the ${alone}`;
  else {
    find("first").remove();
    find("clips-title").textContent = "Play and rate each clip";
  }
  if (first && !reference) find("reference").remove(); // else sounds are told of there

  // Ratings as the server has them, and those still on their way.
  const given = Object.fromEntries(clips.map(({ place }) => [place, { ...page.ratings[place] }]));
  for (const { page: on, clip, scale, value } of [...late, ...unsent]) {
    if (on === index && given[clip]) given[clip][scale] = value;
  }
  const unrated = (place) => scales.filter(({ name }) => given[place][name] === undefined);
  const complete = () => clips.every(({ place }) => !unrated(place).length);
  // Who comes back to a page that is not all rated hears the first again; what was rated may be changed after that.
  let open = !first || complete();
  const ripe = new Set(clips.map(({ place }) => place).filter((place) => unrated(place).length < scales.length));

  // Time in view and plays, also from before a reload.
  const key = `${PREFIX}page ${index}`;
  const before = store.get(key) ?? { seconds: 0, plays: {} };
  let seconds = before.seconds, shown = document.hidden ? null : performance.now();
  const left = new AbortController();
  function note() {
    const now = performance.now();
    if (shown !== null) seconds += (now - shown) / 1000;
    shown = document.hidden ? null : now;
    const plays = { ...before.plays };
    for (const [name, times] of Object.entries(sounds?.plays ?? {})) plays[name] = (plays[name] ?? 0) + times;
    store.set(key, { seconds, plays });
    return { seconds, plays };
  }
  document.addEventListener("visibilitychange", note, { signal: left.signal });
  addEventListener("pagehide", note, { signal: left.signal });

  const beside = {}; // buttons of what is not rated
  if (first) beside[FIRST] = playButton(first.label, `Play ${alone}`);
  if (reference) beside[REFERENCE] = playButton("Reference", "Play reference");
  for (const [name, button] of Object.entries(beside)) panel.querySelector(`#${name} .note`).before(button);
  const rows = clips.map(({ place }) => row(place));
  find("rows").append(...rows.map(({ element }) => element));
  let sounds = null;

  function row(place) {
    const button = playButton(`Clip ${place}`, `Play clip ${place}`);
    const hint = make("p", "note");
    const groups = scales.map((scale) => group(place, scale));
    const element = make("li", "clip", make("div", "turn", button, hint), make("div", "questions", ...groups));
    return { place, button, hint, groups, element };
  }
  function group(place, scale) {
    const { name, label, low, high } = scale;
    const keep = (value) => {
      given[place][name] = value;
      rate({ page: index, clip: place, scale: name, value }, !range.buttons);
      note();
      draw();
    };
    const question = range.buttons
      ? buttons(place, scale)
      : slider(`${place} ${name}`, range, scale, given[place][name], keep);
    const told = range.buttons ? [low, high] : [`${range.low}: ${low}`, `${range.high}: ${high}`];
    const ends = make("p", "ends", ...told.map((text) => make("span", "", text)));
    ends.setAttribute("aria-hidden", "true"); // the controls say it
    const legend = make("legend", "", make("span", "unseen", `Clip ${place}, `), label);
    const field = make("fieldset", "", legend, question, ends);
    field.disabled = true;
    if (range.buttons) {
      field.addEventListener("change", ({ target }) => keep(Number(target.value)));
      field.addEventListener("keydown", (event) => {
        const choice = field.querySelector(`[value="${CSS.escape(event.key)}"]`);
        if (!choice || !singleKeys.checked || event.ctrlKey || event.altKey || event.metaKey) return;
        event.preventDefault();
        choice.focus();
        choice.click();
      });
    }
    return field;
  }
  function buttons(place, { name, low, high }) {
    const ends = { [range.low]: low, [range.high]: high };
    const values = Array.from({ length: range.high - range.low + 1 }, (_, step) => range.low + step);
    const options = values.map((value) => [value, String(value), ends[value]]);
    return make("div", "choices", ...choices(`${place} ${name}`, options, given[place][name]));
  }

  function missing() {
    if (complete()) return { text: "" };
    if (!open) return { text: `First listen to the ${alone}, from start to end.`, control: beside[FIRST] };
    const wanting = rows.filter(({ place }) => unrated(place).length);
    const names = wanting.map(({ place }) => {
      const scale = unrated(place).map(({ label }) => label);
      return scale.length < scales.length ? `${place} (${scale.join(", ")})` : place;
    });
    const { place, button, groups } = wanting[0];
    const field = groups[scales.indexOf(unrated(place)[0])];
    const control = field.disabled ? button : field.querySelector("input");
    return { text: `Still to rate: ${names.join(", ")}`, control };
  }
  const drawNext = onSubmit(missing, () => {
    sounds?.pause();
    advance("next", { page: index, ...note() });
  });

  // Called many times a second while a sound plays: changes only what has changed.
  function draw() {
    const heard = sounds?.heard, current = sounds?.current ?? null, position = sounds?.position() ?? 0;
    for (const [name, button] of Object.entries(beside)) button.draw(current === name, position);
    if (heard && !open && heard[FIRST] >= HEARD_SHARE * length) {
      open = true;
      say(`The ${first.label.toLowerCase()} was heard. Now play and rate the clips.`);
    }
    if (sounds && first) write(panel.querySelector(".sound .note"), !open
      ? "Play it once from start to end; then the clips open."
      : "Heard. Play it again whenever you like, and switch between the sounds as they run.");
    else if (sounds && reference) write(panel.querySelector(".sound .note"),
      "Play it whenever you like, and switch between the sounds as they run.");
    for (const { place, button, hint, groups, element } of rows) {
      button.draw(current === place, position);
      button.disabled = !open || sounds === null;
      if (heard && !ripe.has(place) && heard[place] >= Math.min(HEARD_S, length)) {
        ripe.add(place);
        say(`Clip ${place} can be rated.`);
      }
      const rated = !unrated(place).length;
      for (const field of groups) field.disabled = !open || !ripe.has(place);
      write(hint, rated ? "✓ rated" : !open ? "" : ripe.has(place) ? "rate it" : "play it to rate it");
      element.classList.toggle("rated", rated);
      element.classList.toggle("heard", current === place);
    }
    drawNext();
  }
  const write = (element, text) => element.textContent === text || (element.textContent = text);
  let length = 0;
  draw();

  const names = Object.fromEntries(clips.map(({ place, clip }) => [place, clip]));
  withSounds(
    { ...(first && { [FIRST]: first.clip }), ...(reference && { [REFERENCE]: reference }), ...names }, page.next,
    (buffers) => {
      length = Object.values(buffers)[0].duration;
      sounds = player(buffers, draw);
      for (const [name, button] of Object.entries(beside)) {
        button.disabled = false;
        button.addEventListener("click", () => turn(name));
      }
      for (const { place, button } of rows) button.addEventListener("click", () => turn(place));
      offerKeys();
      draw();
    },
  );
  function turn(name) {
    if (!open && !(name in beside)) return say(`First listen to the ${alone}.`);
    sounds.toggle(name);
  }
  function offerKeys() {
    const letters = Object.keys(names);
    const actions = { " ": () => turn(sounds.current ?? sounds.last ?? (first ? FIRST : letters[0])) };
    const told = [[["Space"], "play or pause"]];
    const free = (letter) => !letters.includes(letter) && !(letter in actions);
    const add = (sound, keys, text) => {
      for (const one of keys) actions[one] = () => turn(sound);
      told.push([keys, text]);
    };
    if (reference && free("R")) actions.R = () => turn(REFERENCE);
    if (first) add(FIRST, ["0", first.label[0].toUpperCase()].filter(free), `the ${alone}`);
    if (actions.R && reference) told.push([["R"], "the reference"]);
    for (const place of letters) actions[place] = () => turn(place);
    const clip = letters.length > 1 ? [letters[0], "…", letters.at(-1)] : letters;
    told.push([clip, "a clip"], [["Tab"], "to the next control"]);
    const digits = range.low >= 0 && range.high <= 9 ? [String(range.low), "…", String(range.high)] : [];
    told.push(range.buttons
      ? [["←", "→", ...digits], "rate, within a scale"]
      : [["←", "→", "PgUp", "PgDn", "Home", "End"], "rate, on a slider"]);
    offer(actions, [...told, [["Enter"], "Next, from any scale"]]);
  }
  return () => {
    sounds?.close();
    left.abort();
    if (!stays(index)) store.remove(key);
  };
}

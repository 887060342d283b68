"use strict";

// The list of items: players, filters, order. Everything from the data becomes text, never markup.
(() => {
  const { presentations, arms, measures, cases, pairs, columns, shared, own, whole, called, choices } = REPORT;
  const ofKind = (...kinds) => Object.keys(columns).filter((name) => kinds.includes(columns[name]));
  const heading = ofKind("class", "id", "text").sort((a, b) => (columns[a] !== "class") - (columns[b] !== "class"))[0];
  const find = (id) => document.getElementById(id);
  const tools = document.querySelector(".tools");
  const tabs = [...tools.querySelectorAll("[role=tab]")];
  const caseButtons = [...tools.querySelectorAll("[data-case]")];
  const filters = Object.fromEntries(Object.keys(choices).map((name) => [name, find(`by-${name}`)]));
  const status = find("by-status"), text = find("by-text");
  const measure = find("measure"), arm = find("arm"), order = find("order");
  const panel = find("panel"), count = find("count");
  const cards = new Map();
  let presentation = 0;
  let only = null; // place of the case shown alone: 0 best, 1 median, 2 worst
  let playing = null;

  function make(tag, className, content) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (content !== undefined) {
      element.textContent = content;
      element.dir = "auto"; // a text written from right to left must not turn its neighbours around
    }
    return element;
  }

  // Only one player at a time; media events do not bubble, but they are captured.
  document.addEventListener("play", (event) => {
    if (playing && playing !== event.target) playing.pause();
    playing = event.target;
  }, true);

  function player(kind, sound, whose, seconds) {
    const box = make("div", "player");
    const audio = make("audio");
    audio.preload = "none";
    audio.src = sound.src;
    audio.volume = sound.volume;
    const picture = make("div", "picture");
    const image = make("img");
    image.loading = "lazy";
    image.width = 256;
    image.height = 192;
    image.alt = `Mel image: ${kind}, ${whose}`;
    image.src = sound.image;
    const head = make("div", "head");
    picture.append(image, head);
    const button = make("button", "play", kind);
    button.type = "button";
    button.setAttribute("aria-label", `Play ${kind}, ${whose}`);
    button.setAttribute("aria-pressed", "false");
    const time = make("span", "time");
    const length = () => (Number.isFinite(audio.duration) ? audio.duration : seconds);

    function draw() {
      head.style.left = `${(100 * audio.currentTime) / length()}%`;
      time.textContent = `${audio.currentTime.toFixed(1)} s`;
      if (!audio.paused) requestAnimationFrame(draw);
    }
    function mark() {
      box.classList.toggle("playing", !audio.paused);
      button.setAttribute("aria-pressed", String(!audio.paused));
      draw();
    }
    function start() {
      audio.play().catch(() => {}); // stopped before it began, or an error, which has its own event
    }
    function seek(to) {
      audio.currentTime = Math.max(0, Math.min(length() - 0.01, to));
      draw();
    }
    for (const name of ["play", "pause", "ended", "seeked"]) audio.addEventListener(name, mark);
    audio.addEventListener("error", () => {
      box.classList.add("broken");
      time.textContent = "cannot be played";
    });
    button.addEventListener("click", () => (audio.paused ? start() : audio.pause()));
    button.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -0.5, ArrowRight: 0.5 }[event.key];
      if (step === undefined) return;
      event.preventDefault();
      seek(audio.currentTime + step);
    });
    picture.addEventListener("click", (event) => {
      const { left, width } = picture.getBoundingClientRect();
      seek((length() * (event.clientX - left)) / width);
      start();
    });
    const bar = make("div", "bar");
    bar.append(button, time);
    box.append(picture, bar, audio);
    return box;
  }

  const titled = (pair) => pair[heading] || pair.pair_id;
  const shown = (value) => (value === null ? "–" : String(Number(value.toPrecision(3))));

  function column(pair, place) {
    const box = make("div", "arm");
    box.append(make("h4", "", arms[place]));
    const cell = pair.cells[presentation][place];
    const sounds = pair.sounds[presentation][place];
    if (cell === null) {
      box.append(make("p", "facts", "not run"));
      return box;
    }
    if (cell.reason) {
      box.classList.add("failure");
      box.append(make("p", "failed", `Failed: ${cell.reason}`));
      return box;
    }
    const whose = `${arms[place]}, ${titled(pair)}`;
    for (const [part, label] of Object.entries(own)) {
      if (sounds[part]) box.append(player(label.toLowerCase(), sounds[part], whose, pair.seconds));
    }
    if (sounds.mix) box.append(player(whole, sounds.mix, whose, pair.seconds));
    else box.append(make("p", "failed", `The ${whole} is missing.`));
    const values = make("dl", "values");
    measures.forEach((one, at) => {
      // Levels stand in words below.
      if (!one.told || cell.values[at] === null) return;
      const line = make("div");
      line.dataset.value = `${place} ${at}`;
      line.append(make("dt", "", one.label), make("dd", "", shown(cell.values[at])));
      values.append(line);
    });
    const told = make("p", "facts", cell.told);
    const level = measures.findIndex((one) => !one.told);
    if (level >= 0) told.dataset.value = `${place} ${level}`;
    box.append(values, told);
    return box;
  }

  function card(place) {
    const key = `${presentation} ${place}`;
    if (cards.has(key)) return cards.get(key);
    const pair = pairs[place];
    const box = make("article", "pair");
    box.dataset.pair = pair.pair_id;
    const title = make("header");
    title.append(make("h3", "", titled(pair)));
    for (const name of ofKind("class")) if (name !== heading) title.append(make("span", "tag", pair[name]));
    for (const name of ofKind("id")) if (name !== heading) title.append(make("span", "facts", pair[name]));
    box.append(title);
    for (const name of ofKind("text")) if (name !== heading) box.append(make("p", "prompt", pair[name]));
    if (pair.note) box.append(make("p", "failed", pair.note));
    const row = make("div", "arms");
    for (const [part, label] of Object.entries(shared)) {
      if (!pair.shared[part]) continue;
      const common = make("div", "arm");
      common.append(make("h4", "", label), player(label.toLowerCase(), pair.shared[part], titled(pair), pair.seconds));
      row.append(common);
    }
    row.append(...arms.map((_, at) => column(pair, at)));
    box.append(row);
    cards.set(key, box);
    return box;
  }

  const value = (place) => {
    const cell = pairs[place].cells[presentation][Number(arm.value)];
    return cell && !cell.reason ? cell.values[Number(measure.value)] : null;
  };

  function passes(pair) {
    const other = ([name, select]) => select.value && pair[name] !== choices[name][Number(select.value)];
    if (Object.entries(filters).some(other)) return false;
    const reasons = pair.cells[presentation].map((cell) => (cell ? cell.reason : ""));
    const failed = reasons.some((reason) => reason);
    if (status.value && (status.value === "failed") !== failed) return false;
    const words = [...Object.keys(columns), "dataset", "pair_id"].map((name) => pair[name]).concat(reasons);
    return words.join("\n").toLowerCase().includes(text.value.trim().toLowerCase());
  }

  function chosen() {
    if (only !== null) {
      const found = cases[presentation][Number(arm.value)][Number(measure.value)];
      return found.length ? [found[only]] : [];
    }
    const places = pairs.map((_, place) => place).filter((place) => passes(pairs[place]));
    if (order.value === "run") return places;
    const up = (order.value === "best") === measures[Number(measure.value)].better <= 0;
    // Pairs without a value stand last, whichever the order; the sort is stable.
    return places.sort((one, two) => {
      const [a, b] = [value(one), value(two)];
      if (a === null || b === null) return (a === null) - (b === null);
      return up ? a - b : b - a;
    });
  }

  function name() {
    const directed = measures[Number(measure.value)].better !== 0;
    const [best, worst] = directed ? ["Best", "Worst"] : ["Lowest", "Highest"];
    order.options[1].textContent = `${best.toLowerCase()} first`;
    order.options[2].textContent = `${worst.toLowerCase()} first`;
    caseButtons[1].textContent = best;
    caseButtons[3].textContent = worst;
  }

  function update() {
    name();
    const places = chosen();
    panel.replaceChildren(...places.map(card));
    if (playing && !playing.isConnected) playing.pause();
    if (!places.length) panel.append(make("p", "facts", `No such ${called}.`));
    const marked = `${arm.value} ${measure.value}`;
    const told = only !== null || order.value !== "run";
    for (const line of panel.querySelectorAll("[data-value]")) {
      line.classList.toggle("chosen", told && line.dataset.value === marked);
    }
    for (const button of caseButtons) {
      button.setAttribute("aria-pressed", String(button.dataset.case === (only === null ? "" : String(only))));
    }
    count.textContent = `${places.length} of ${pairs.length} ${called}`;
  }

  function turnTo(place) {
    presentation = place;
    tabs.forEach((tab, at) => {
      tab.setAttribute("aria-selected", String(at === place));
      tab.tabIndex = at === place ? 0 : -1;
    });
    panel.setAttribute("aria-labelledby", `tab-${place}`);
    update();
  }

  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => turnTo(at));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const place = (to + tabs.length) % tabs.length;
      tabs[place].focus();
      turnTo(place);
    });
  });
  for (const control of [...Object.values(filters), status, text, order]) {
    control.addEventListener("input", () => {
      only = null;
      update();
    });
  }
  for (const control of [measure, arm]) control.addEventListener("input", update);
  for (const button of caseButtons) {
    button.addEventListener("click", () => {
      only = button.dataset.case === "" ? null : Number(button.dataset.case);
      if (only !== null) {
        // A case is one of the whole run.
        for (const control of [...Object.values(filters), status, text]) control.value = "";
      }
      update();
    });
  }
  tools.hidden = false;
  update();
})();

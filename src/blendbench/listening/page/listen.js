// The listeners' page. Whatever comes from the server becomes text, never markup.

const RATE = 44_100;
const FADE_S = 0.01;
const LEAD_S = 0.01; // from a command to its effect, so that no change of level comes too late to be heard as a ramp
const HEARD_S = 1; // a clip may be rated once it has been played for so long
const HEARD_SHARE = 0.95; // of the noise, before the clips open
const LATE_S = 3; // after which a sound that has not started is told of
const WAITS_S = [0.5, 1, 2, 4, 8, 15, 30]; // between attempts to reach the server
const VALUES = [1, 2, 3, 4, 5];

const find = (id) => document.getElementById(id);
const panel = find("panel"), saved = find("saved"), dialog = find("leaving"), singleKeys = find("single-keys");

function make(tag, className, ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content); // strings become text nodes
  // The study's words may be written from right to left.
  if (content.some((one) => typeof one === "string")) element.dir = "auto";
  return element;
}

// Tells listeners with a screen reader what others see.
function say(text) {
  find("said").textContent = "";
  setTimeout(() => (find("said").textContent = text), 50);
}

// Sounds

/**
 * Sounds of equal length, as they go in a loop together from one sample on; at most one of them is let through.
 *
 * Levels change along straight lines of 10 ms whose sum stays one, one after the other, so that what two sounds have
 * in common goes on as if nothing had happened. `at` is in seconds of the context's time.
 */
export function mixer(context, buffers) {
  const rate = context.sampleRate, fade = Math.round(FADE_S * rate);
  const length = Object.values(buffers)[0].length;
  const gains = {};
  for (const name of Object.keys(buffers)) {
    gains[name] = new GainNode(context, { gain: 0 });
    gains[name].connect(context.destination);
  }
  let sources = [], current = null;
  let place = 0; // in the loop where it goes on after a pause; all in whole frames, so that no sample is interpolated
  let began = 0; // when the loop was at its start
  let free = 0; // when the last change of levels is over

  const slot = (at) => {
    const start = Math.max(Math.round(at * rate), free);
    free = start + fade;
    return start;
  };
  const ramp = (name, from, to, start) => {
    gains[name].gain.setValueAtTime(from, start / rate);
    gains[name].gain.linearRampToValueAtTime(to, (start + fade) / rate);
  };

  return {
    play(name, at) {
      if (name === current) return;
      const start = slot(at);
      if (current === null) {
        began = start - place;
        sources = Object.entries(buffers).map(([one, buffer]) => {
          const source = new AudioBufferSourceNode(context, { buffer, loop: true });
          source.connect(gains[one]);
          source.start(start / rate, place / rate);
          return source;
        });
      } else ramp(current, 1, 0, start);
      ramp(name, 0, 1, start);
      current = name;
    },
    pause(at) {
      if (current === null) return;
      ramp(current, 1, 0, slot(at));
      place = (free - began) % length;
      for (const source of sources) source.stop(free / rate);
      current = null;
    },
    // Share of the loop that has gone by.
    position: (at) => Math.max(0, (current === null ? place : Math.round(at * rate) - began) % length) / length,
  };
}

let context = null;

// The audio context, running. Browsers start it by a listener's gesture alone, so it is not made before. Firefox also
// waits for a device to play on, for ever if there is none.
async function running() {
  context ??= new AudioContext({ sampleRate: RATE });
  if (context.state === "running") return context;
  const told = panel.querySelector(".sound .note");
  const timer = setTimeout(() => {
    told.textContent = "The browser does not start the sound. Connect your headphones, and load this page again.";
    say(told.textContent);
  }, 1000 * LATE_S);
  await context.resume();
  clearTimeout(timer);
  told.textContent = "";
  return context;
}

const soon = () => context.currentTime + LEAD_S + (context.baseLatency || 0);

// A mixer with what a listener does to it: counts how long and how often each sound was heard.
function player(buffers, changed) {
  const heard = Object.fromEntries(Object.keys(buffers).map((name) => [name, 0]));
  let sounds = null, current = null, last = null, since = 0, frame = 0, closed = false;

  function count() {
    if (current !== null) heard[current] += context.currentTime - since;
    since = context.currentTime;
  }
  function draw() {
    count();
    frame = requestAnimationFrame(draw);
    changed();
  }
  const self = {
    heard,
    plays: {},
    get current() { return current; },
    get last() { return last; },
    position: () => (sounds === null ? 0 : sounds.position(context.currentTime)),
    async play(name) {
      await running();
      if (closed) return;
      if (sounds === null) {
        sounds = mixer(context, buffers);
        context.addEventListener("statechange", interrupted);
      }
      count();
      sounds.play(name, soon());
      if (current === null) frame = requestAnimationFrame(draw);
      if (current !== name) self.plays[name] = (self.plays[name] ?? 0) + 1;
      current = last = name;
      changed();
    },
    pause() {
      if (current === null) return;
      count();
      cancelAnimationFrame(frame);
      sounds.pause(soon());
      current = null;
      changed();
    },
    toggle: (name) => (name === current ? self.pause() : self.play(name)),
    close() {
      closed = true;
      self.pause();
      context?.removeEventListener("statechange", interrupted);
    },
  };
  // A telephone call, say.
  function interrupted() {
    if (context.state !== "running") self.pause();
  }
  return self;
}

class Undecodable extends Error {}

const loaded = new Map(); // promises of sounds by name

function load(name) {
  if (!loaded.has(name)) {
    loaded.set(name, fetchSound(name));
    loaded.get(name).catch(() => loaded.delete(name));
  }
  return loaded.get(name);
}

async function fetchSound(name) {
  const answer = await fetch(`clips/${name}.flac`, { signal: AbortSignal.timeout(60_000) });
  if (!answer.ok) throw new Error(answer.statusText);
  const bytes = await answer.arrayBuffer();
  // An offline context decodes before any gesture.
  return new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes).catch(() => { throw new Undecodable(); });
}

// Loads a step's sounds, of the server's names by the page's, and calls `ready` with them; frees those of past steps.
async function withSounds(names, next, ready) {
  const told = panel.querySelector(".sound .note");
  told.textContent = "Loading the sounds …";
  for (const name of loaded.keys()) {
    if (!Object.values(names).includes(name) && !next.includes(name)) loaded.delete(name);
  }
  let buffers;
  try {
    buffers = await Promise.all(Object.values(names).map(load));
  } catch (error) {
    if (!told.isConnected) return;
    const again = make("button", "", "Try again");
    again.type = "button";
    again.addEventListener("click", () => withSounds(names, next, ready));
    told.replaceChildren(error instanceof Undecodable
      ? "This browser cannot decode a sound (FLAC). Current versions of Firefox, Chrome, Edge and Safari can. "
      : "A sound could not be loaded. ", again);
    say(told.textContent);
    return;
  }
  if (!told.isConnected) return;
  told.textContent = "";
  ready(Object.fromEntries(Object.keys(names).map((key, index) => [key, buffers[index]])));
  for (const name of next) load(name).catch(() => {}); // that page says so itself
}

function playButton(text, label) {
  const at = make("span", "at");
  const button = make("button", "play", text, at);
  button.type = "button";
  button.disabled = true;
  button.setAttribute("aria-label", label);
  button.setAttribute("aria-pressed", "false");
  button.draw = (pressed, position) => {
    button.setAttribute("aria-pressed", String(pressed));
    at.style.setProperty("--at", pressed ? position : 0);
  };
  return button;
}

// What a reload must not lose, under the listener's own address. A browser that keeps nothing is no hindrance.
const PREFIX = `blendbench ${location.pathname} `;
const store = (() => {
  const attempt = (work) => {
    try {
      return work();
    } catch {
      return null;
    }
  };
  return {
    get: (key) => attempt(() => JSON.parse(localStorage.getItem(key))),
    set: (key, value) => attempt(() => localStorage.setItem(key, JSON.stringify(value))),
    remove: (key) => attempt(() => localStorage.removeItem(key)),
    keys: (start) => attempt(() => Object.keys(localStorage).filter((key) => key.startsWith(start))) ?? [],
  };
})();

// The server

class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Asks until the server answers; a Refusal is an answer, too.
async function ask(path, body) {
  const headers = { "content-type": "application/json" };
  const request = body && { method: "POST", headers, body: JSON.stringify(body) };
  for (let turn = 0; ; turn += 1) {
    try {
      const answer = await fetch(path, { ...request, cache: "no-store", signal: AbortSignal.timeout(20_000) });
      if (answer.ok) {
        const found = await answer.json();
        reached(true);
        return found;
      }
      if (answer.status < 500 && answer.status !== 408 && answer.status !== 429) {
        const json = answer.headers.get("content-type")?.includes("json");
        const text = json ? (await answer.json()).error : await answer.text();
        reached(true);
        throw new Refusal(answer.status, text.trim().slice(0, 200));
      }
    } catch (error) {
      if (error instanceof Refusal) throw error;
    }
    reached(false);
    await new Promise((done) => setTimeout(done, 1000 * WAITS_S[Math.min(turn, WAITS_S.length - 1)]));
  }
}

let away = false;

function reached(now) {
  if (now === away) {
    away = !now;
    say(away ? "The server does not answer. Trying again." : "The server answers again.");
  }
  drawSaved();
}

// Ratings that the server has not yet, oldest first: sent one by one, and kept over a reload.
const unsent = store.keys(`${PREFIX}rating `).map(store.get).filter(Boolean).sort((one, two) => one.stamp - two.stamp);
let sending = null, stamp = unsent.at(-1)?.stamp ?? 0;
let ever = false; // has one been saved since this page was shown

function drawSaved() {
  saved.classList.toggle("trouble", away);
  if (away) {
    saved.textContent = unsent.length
      ? "Not saved yet: the server does not answer. Trying again; your ratings are kept meanwhile."
      : "The server does not answer. Trying again …";
  } else if (unsent.length) saved.textContent = "Saving …";
  else saved.textContent = ever && state?.step === "page" ? "✓ All ratings saved" : "";
}

function rate(rating) {
  stamp = Math.max(Date.now(), stamp + 1);
  unsent.push({ ...rating, stamp });
  store.set(`${PREFIX}rating ${stamp}`, unsent.at(-1));
  sending ??= send();
}

async function send() {
  let outdated = false;
  while (unsent.length) {
    drawSaved();
    const rating = unsent[0];
    try {
      await ask("rate", rating);
      ever = true;
    } catch (refusal) {
      if (refusal.status !== 400 && refusal.status !== 409) {
        sending = null;
        fail(refusal);
        return;
      }
      outdated ||= rating.page === state?.page?.index;
    }
    if (unsent[0] === rating) unsent.shift(); // else the listener has withdrawn
    store.remove(`${PREFIX}rating ${rating.stamp}`);
  }
  sending = null;
  drawSaved();
  if (outdated) await refresh();
}

// Where the listener is; null where the server will not say, which is shown.
async function refresh() {
  const late = [...unsent]; // may come after the state is looked up, and before it is here
  try {
    render({ ...await ask("state"), late });
  } catch (refusal) {
    fail(refusal);
  }
}

// Gives an answer that leads on. 409: it has been given already, or elsewhere.
async function advance(path, body) {
  panel.inert = true;
  let now = null, refusal = null;
  try {
    if (unsent.length) await sending;
    now = await ask(path, body);
  } catch (error) {
    refusal = error;
  }
  panel.inert = false;
  if (now) render(now);
  else if (refusal.status === 409) await refresh();
  else fail(refusal);
}

function fail(error) {
  if (!(error instanceof Refusal)) throw error;
  show("failed", null);
  find("reason").textContent = `The server says: ${error.message}`;
  find("reload").addEventListener("click", start);
}

// Steps. Each fills its template, and returns what is to be done when it is left.

let state = null, leave = null, shortcuts = {};

function show(step, fill) {
  const first = leave === null;
  leave?.();
  panel.replaceChildren(find(`step-${step}`).content.cloneNode(true));
  shortcuts = {};
  find("keys").hidden = true;
  find("progress").hidden = true;
  leave = fill?.(state) ?? (() => {});
  const heading = panel.querySelector("h1");
  document.title = state ? `${heading.textContent} – ${state.title}` : heading.textContent;
  find("study").textContent = state?.title ?? "";
  find("withdraw").hidden = state === null || ["consent", "withdrawn"].includes(state.step) || fill === null;
  drawSaved();
  if (first) return;
  scrollTo(0, 0);
  heading.focus({ preventScroll: true });
}

function render(now) {
  state = now;
  show(state.step, steps[state.step]);
}

// The shortcuts of a step: what each single key does, and how they are told.
function offer(actions, told) {
  shortcuts = actions;
  find("keys").hidden = false;
  find("shortcuts").replaceChildren(...told.flatMap(([keys, text]) => {
    const names = keys.flatMap((key, index) => [index ? " " : "", key === "…" ? key : make("kbd", "", key)]);
    return [make("dt", "", ...names), make("dd", "", text)];
  }));
}

// Calls `done` where nothing is missing, else says what is and goes there.
function onSubmit(missing, done) {
  const told = panel.querySelector(".missing");
  panel.querySelector("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const { text, control } = missing();
    if (!text) return done();
    told.classList.add("asked");
    say(text);
    control?.focus();
  });
  return function draw() {
    const { text } = missing();
    if (told.textContent !== text) told.textContent = text;
    if (!text) told.classList.remove("asked");
    panel.querySelector(".primary").setAttribute("aria-disabled", String(Boolean(text)));
  };
}

function choices(name, texts, chosen) {
  return texts.map(([text, more], index) => {
    const input = make("input");
    input.type = "radio";
    input.name = name;
    input.value = String(index + 1);
    input.checked = chosen === index + 1;
    if (more) input.setAttribute("aria-label", `${text}, ${more}`);
    return make("label", "choice", input, make("span", "", text));
  });
}

const steps = {
  consent({ consent }) {
    find("consent-text").append(...consent.text.split(/\n\s*\n/).map((text) => make("p", "", text)));
    if (consent.contact) {
      find("contact").hidden = false;
      find("contact").textContent = `Questions? ${consent.contact}`;
    }
    panel.querySelector("form").addEventListener("submit", (event) => {
      event.preventDefault();
      advance("consent", { agree: true });
    });
    find("decline").addEventListener("click", () => show("declined", () => {}));
  },

  volume({ volume }) {
    const button = playButton("Sound", "Play the sound");
    panel.querySelector(".sound").prepend(button);
    let sounds = null;
    const draw = onSubmit(
      () => (sounds?.heard.sound >= HEARD_S ? { text: "" } : { text: "First play the sound.", control: button }),
      () => advance("volume", {}),
    );
    draw();
    withSounds({ sound: volume.clip }, [], (buffers) => {
      sounds = player(buffers, () => {
        button.draw(sounds.current !== null, sounds.position());
        draw();
      });
      button.disabled = false;
      button.addEventListener("click", () => sounds.toggle("sound"));
      offer({ " ": () => sounds.toggle("sound") }, [[["Space"], "play or pause"]]);
    });
    return () => sounds?.close();
  },

  headphones({ headphones: { attempt, trial, of, clip } }) {
    panel.querySelector("h1").textContent = `Headphone check, ${trial + 1} of ${of}`;
    find("again").hidden = attempt === 0;
    const button = playButton("Three tones", "Play the three tones");
    panel.querySelector(".sound").prepend(button);
    const question = panel.querySelector("fieldset");
    question.querySelector(".choices").append(...choices("tone", [["First"], ["Second"], ["Third"]]));
    let source = null, asked = false;
    const answer = () => Number(question.querySelector(":checked")?.value);
    const draw = onSubmit(
      () => {
        if (question.disabled) return { text: "First play the tones to their end.", control: button };
        return answer() ? { text: "" } : { text: "Choose one.", control: question.querySelector("input") };
      },
      () => advance("check", { attempt, trial, answer: answer() }),
    );
    draw();
    question.addEventListener("change", draw);
    withSounds({ tones: clip }, [], ({ tones }) => {
      async function play() {
        if (asked) return;
        asked = true;
        source = new AudioBufferSourceNode(await running(), { buffer: tones });
        if (!button.isConnected) return;
        const began = context.currentTime;
        const follow = () => {
          if (source === null) return;
          button.draw(true, Math.min(1, (context.currentTime - began) / tones.duration));
          requestAnimationFrame(follow);
        };
        source.addEventListener("ended", () => {
          source = null;
          asked = false;
          button.draw(false, 0);
          if (question.disabled) say("Which was the quietest?");
          question.disabled = false;
          draw();
        });
        source.connect(context.destination);
        source.start();
        follow();
      }
      button.disabled = false;
      button.addEventListener("click", play);
      offer({ " ": play }, [[["Space"], "play the tones"]]);
    });
    return () => {
      source?.disconnect();
      source = null;
    };
  },

  page({ page, pages, scales, late = [] }) {
    const { index, noise, clips } = page;
    ever = false;
    stamp = Math.max(stamp, page.stamp); // another device's clock may be ahead
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

    // Ratings as the server has them, and those still on their way.
    const given = Object.fromEntries(clips.map(({ place }) => [place, { ...page.ratings[place] }]));
    for (const { page: on, clip, scale, value } of [...late, ...unsent]) {
      if (on === index && given[clip]) given[clip][scale] = value;
    }
    const unrated = (place) => scales.filter(({ name }) => given[place][name] === undefined);
    const complete = () => clips.every(({ place }) => !unrated(place).length);
    // Who comes back to a page that is not all rated hears its noise again; what was rated may be changed after that.
    let open = complete();
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

    const noiseButton = playButton("Noise", "Play noise alone");
    panel.querySelector(".sound").prepend(noiseButton);
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
    function group(place, { name, label, low, high }) {
      const texts = VALUES.map((value) => [String(value), { 1: low, 5: high }[value]]);
      const boxes = make("div", "choices", ...choices(`${place} ${name}`, texts, given[place][name]));
      const ends = make("p", "ends", make("span", "", low), make("span", "", high));
      ends.setAttribute("aria-hidden", "true"); // the outer choices say it
      const legend = make("legend", "", make("span", "unseen", `Clip ${place}, `), label);
      const field = make("fieldset", "", legend, boxes, ends);
      field.disabled = true;
      field.addEventListener("change", ({ target }) => {
        given[place][name] = Number(target.value);
        rate({ page: index, clip: place, scale: name, value: given[place][name] });
        note();
        draw();
      });
      field.addEventListener("keydown", (event) => {
        const choice = field.querySelector(`[value="${CSS.escape(event.key)}"]`);
        if (!choice || !singleKeys.checked || event.ctrlKey || event.altKey || event.metaKey) return;
        event.preventDefault();
        choice.focus();
        choice.click();
      });
      return field;
    }

    function missing() {
      if (complete()) return { text: "" };
      if (!open) return { text: "First listen to the noise alone, from start to end.", control: noiseButton };
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
      noiseButton.draw(current === "noise", position);
      if (heard && !open && heard.noise >= HEARD_SHARE * length) {
        open = true;
        say("The noise was heard. Now play and rate the clips.");
      }
      if (sounds) write(panel.querySelector(".sound .note"), !open
        ? "Play it once from start to end; then the clips open."
        : "Heard. Play it again whenever you like, and switch between the sounds as they run.");
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

    const names = { noise, ...Object.fromEntries(clips.map(({ place, clip }) => [place, clip])) };
    withSounds(names, page.next, (buffers) => {
      length = buffers.noise.duration;
      sounds = player(buffers, draw);
      noiseButton.disabled = false;
      const turn = (name) => {
        if (name !== "noise" && !open) return say("First listen to the noise alone.");
        sounds.toggle(name);
      };
      noiseButton.addEventListener("click", () => turn("noise"));
      for (const { place, button } of rows) button.addEventListener("click", () => turn(place));
      const letters = clips.map(({ place }) => place);
      offer(
        {
          " ": () => turn(sounds.current ?? sounds.last ?? "noise"),
          0: () => turn("noise"),
          N: () => turn("noise"),
          ...Object.fromEntries(letters.map((place) => [place, () => turn(place)])),
        },
        [
          [["Space"], "play or pause"],
          [letters.includes("N") ? ["0"] : ["0", "N"], "the noise alone"],
          [letters.length > 1 ? [letters[0], "…", letters.at(-1)] : letters, "a clip"],
          [["Tab"], "to the next control"],
          [["←", "→", "1", "…", "5"], "rate, within a scale"],
          [["Enter"], "Next, from any scale"],
        ],
      );
      draw();
    });
    return () => {
      sounds?.close();
      left.abort();
      if (state.page?.index !== index) store.remove(key);
    };
  },

  finished({ thanks }) {
    find("thanks").textContent = thanks;
    forget();
  },

  refused: forget,
  withdrawn: forget,
};

function forget() {
  unsent.length = 0;
  for (const key of store.keys(PREFIX)) store.remove(key);
}

// Everywhere

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.defaultPrevented) return;
  if (!singleKeys.checked || dialog.open || panel.inert) return;
  if (key === " " && target.closest("button, input, summary")) return;
  const action = shortcuts[key.toUpperCase()];
  if (!action) return;
  event.preventDefault();
  action();
});

singleKeys.checked = store.get("blendbench single keys") ?? true;
singleKeys.addEventListener("change", () => store.set("blendbench single keys", singleKeys.checked));

find("withdraw").addEventListener("click", () => {
  dialog.returnValue = "";
  dialog.showModal();
});
dialog.addEventListener("close", () => {
  if (dialog.returnValue !== "withdraw") return;
  forget(); // what is still on its way is not waited for
  advance("withdraw", { confirm: true });
});

async function start() {
  if (unsent.length) sending ??= send();
  await refresh();
}

if ("AudioContext" in window && "OfflineAudioContext" in window) start();
else show("unsupported", null);

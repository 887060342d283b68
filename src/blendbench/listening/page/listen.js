// The listeners' page: its steps, one after the other. Whatever comes from the server becomes text, never markup.

import { find, make, panel, say, store } from "./dom.js";
import { choices, showPage } from "./rating.js";
import { Refusal, ask, drawSaved, flush, forget, hooks, unsent } from "./server.js";
import { HEARD_S, playButton, player, running, withSounds } from "./sounds.js";

const dialog = find("leaving"), singleKeys = find("single-keys");

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
    await flush();
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
    question.querySelector(".choices").append(...choices("tone", [[1, "First"], [2, "Second"], [3, "Third"]]));
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
        const context = await running();
        source = new AudioBufferSourceNode(context, { buffer: tones });
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

  page: (asked) => showPage(asked, { advance, offer, onSubmit, singleKeys, stays: (on) => state?.page?.index === on }),

  finished({ thanks }) {
    find("thanks").textContent = thanks;
    forget();
  },

  refused: forget,
  withdrawn: forget,
};

// Everywhere

document.addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.defaultPrevented) return;
  if (!singleKeys.checked || dialog.open || panel.inert) return;
  if (key === " " && target.closest("button, input:not([type=range]), summary")) return;
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
  if (unsent.length) flush();
  await refresh();
}

Object.assign(hooks, {
  onPage: () => state?.step === "page", index: () => state?.page?.index, outdated: refresh, failed: fail,
});

if ("AudioContext" in window && "OfflineAudioContext" in window) start();
else show("unsupported", null);

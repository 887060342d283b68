// Sounds of the listeners' page: loaded, played in step, and counted.

import { make, panel, say } from "./dom.js";

const RATE = 44_100;
const FADE_S = 0.01;
const LEAD_S = 0.01; // from a command to its effect, so that no change of level comes too late to be heard as a ramp
export const HEARD_S = 1; // a sound counts as heard once it has been played for so long
const LATE_S = 3; // after which a sound that has not started is told of

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
export async function running() {
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
export function player(buffers, changed) {
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
export async function withSounds(names, next, ready) {
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

export function playButton(text, label) {
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

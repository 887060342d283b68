// Talk with the server: what is asked until it answers, and ratings that are kept until it has them.

import { PREFIX, find, say, store } from "./dom.js";

const WAITS_S = [0.5, 1, 2, 4, 8, 15, 30]; // between attempts to reach the server
const saved = find("saved");

// What the page does: `onPage` says whether it shows clips, `outdated` comes where ratings of its page `index` were
// refused, `failed` where the server will not take them.
export const hooks = { onPage: () => false, index: () => undefined, outdated: async () => {}, failed: () => {} };

export class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Asks until the server answers; a Refusal is an answer, too.
export async function ask(path, body) {
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
export const unsent = store.keys(`${PREFIX}rating `).map(store.get).filter(Boolean)
  .sort((one, two) => one.stamp - two.stamp);
let sending = null, stamp = unsent.at(-1)?.stamp ?? 0;
let ever = false; // has one been saved since this page was shown

export function drawSaved() {
  saved.classList.toggle("trouble", away);
  if (away) {
    saved.textContent = unsent.length
      ? "Not saved yet: the server does not answer. Trying again; your ratings are kept meanwhile."
      : "The server does not answer. Trying again …";
  } else if (unsent.length) saved.textContent = "Saving …";
  else saved.textContent = ever && hooks.onPage() ? "✓ All ratings saved" : "";
}

// `coalesced`: of a control that is still being moved, so that only the last value that waits is sent.
export function rate(rating, coalesced = false) {
  stamp = Math.max(Date.now(), stamp + 1);
  if (coalesced) {
    // The first is on its way.
    const same = (one) => ["page", "clip", "scale"].every((key) => one[key] === rating[key]);
    for (const one of unsent.slice(1).filter(same)) {
      unsent.splice(unsent.indexOf(one), 1);
      store.remove(`${PREFIX}rating ${one.stamp}`);
    }
  }
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
        hooks.failed(refusal);
        return;
      }
      outdated ||= rating.page === hooks.index();
    }
    if (unsent[0] === rating) unsent.shift(); // else the listener has withdrawn
    store.remove(`${PREFIX}rating ${rating.stamp}`);
  }
  sending = null;
  drawSaved();
  if (outdated) await hooks.outdated();
}

// A new page is shown: nothing of it has been saved, and stamps go on after the latest that the server knows.
export function begin(latest) {
  ever = false;
  stamp = Math.max(stamp, latest); // another device's clock may be ahead
}

// Sends what is not sent yet; resolved once the server has all of it.
export async function flush() {
  if (unsent.length) await (sending ??= send());
}

export function forget() {
  unsent.length = 0;
  for (const key of store.keys(PREFIX)) store.remove(key);
}

// What all of the listeners' page uses: its elements, and what it keeps in the browser.

export const find = (id) => document.getElementById(id);
export const panel = find("panel");

export function make(tag, className, ...content) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...content); // strings become text nodes
  // The study's words may be written from right to left.
  if (content.some((one) => typeof one === "string")) element.dir = "auto";
  return element;
}

// Tells listeners with a screen reader what others see.
export function say(text) {
  find("said").textContent = "";
  setTimeout(() => (find("said").textContent = text), 50);
}

// What a reload must not lose, under the listener's own address. A browser that keeps nothing is no hindrance.
export const PREFIX = `blendbench ${location.pathname} `;
export const store = (() => {
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

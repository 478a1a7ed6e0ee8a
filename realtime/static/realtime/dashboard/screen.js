/** When panels are drawn: with a frame of the browser, a few times a second, never while paused. */

// Milliseconds between drawings. People cannot read faster, and painting is what costs most.
const INTERVAL = 100;

export class Screen {
  #panels;
  #always;
  #pending = false;
  #paused = false;
  #drawn = -INTERVAL;

  /**
   * @param {{draw: (now: number) => void}[]} panels
   * @param {{draw: (now: number) => void}} always what is drawn while paused too
   */
  constructor(panels, always) {
    this.#panels = panels;
    this.#always = always;
    // Time passes without messages too: lag grows, charts move on.
    setInterval(() => this.changed(), 1000);
  }

  get paused() {
    return this.#paused;
  }

  set paused(paused) {
    this.#paused = paused;
    this.changed();
  }

  /** Ask for a drawing, at once if the last was a while ago; however often before, there is one. */
  changed() {
    if (this.#pending) return;
    this.#pending = true;
    const due = this.#drawn + INTERVAL - performance.now();
    if (due > 0) setTimeout(() => requestAnimationFrame(() => this.#draw()), due);
    else requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#pending = false;
    this.#drawn = performance.now();
    const now = Date.now();
    this.#always.draw(now);
    if (this.#paused) return;
    for (const panel of this.#panels) panel.draw(now);
  }
}

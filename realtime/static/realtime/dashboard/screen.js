/** When panels are drawn: at most once for each frame that the browser shows, never while paused. */

export class Screen {
  #panels;
  #always;
  #pending = false;
  #paused = false;

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

  /** Ask for a drawing; however often before the next frame, there is one. */
  changed() {
    if (this.#pending) return;
    this.#pending = true;
    requestAnimationFrame(() => {
      this.#pending = false;
      const now = Date.now();
      this.#always.draw(now);
      if (this.#paused) return;
      for (const panel of this.#panels) panel.draw(now);
    });
  }
}

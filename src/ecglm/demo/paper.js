// <ecg-paper>: an ECG page with zoom, pan and calipers. Attributes: src, alt, scale (JSON: what a pixel of the picture
// is worth, and what was measured on it). Everything is drawn in a shadow root, so the page around may be redrawn freely.
"use strict";
(() => {
  if (customElements.get("ecg-paper")) return;
  const SVG = "http://www.w3.org/2000/svg";
  const make = (name, attributes = {}, text = "") => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  };
  const draw = (name, attributes = {}, text = "") => {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text) node.textContent = text;
    return node;
  };
  const STYLE = `
    :host { display: block; }
    .bar { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; margin: 0 0 8px; min-height: 32px; }
    button { font: inherit; font-size: 13px; min-height: 32px; min-width: 34px; padding: 2px 10px; cursor: pointer;
      border-radius: 8px; border: 1px solid var(--border-color-primary, #cbd5e1);
      background: var(--background-fill-primary, #fff); color: var(--body-text-color, #1e293b); }
    button:hover { border-color: var(--color-accent, #0f766e); }
    button[aria-pressed="true"] { background: #0f766e; border-color: #0f766e; color: #fff; }
    button:focus-visible, .view:focus-visible, .end:focus-visible { outline: 3px solid #0f766e; outline-offset: 1px; }
    output { margin-left: auto; font-size: 14px; font-weight: 600; font-variant-numeric: tabular-nums;
      color: var(--body-text-color, #1e293b); }
    output.hint { font-weight: 400; opacity: .75; font-size: 13px; }
    .view { overflow: auto; border: 1px solid var(--border-color-primary, #cbd5e1); border-radius: 10px;
      background: #fffdfb; overscroll-behavior: contain; max-height: min(72vh, 900px); }
    .sheet { position: relative; line-height: 0; }
    img { width: 100%; height: auto; display: block; user-select: none; -webkit-user-drag: none; }
    svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
    .view.measure .sheet { cursor: crosshair; touch-action: none; }
    .view.move .sheet { cursor: grab; }
    .cal { stroke: #b91c1c; stroke-width: 1.6; vector-effect: non-scaling-stroke; fill: none; }
    .area { fill: #dc2626; opacity: .10; stroke: none; }
    .end { fill: #fff; stroke: #b91c1c; stroke-width: 2; vector-effect: non-scaling-stroke; cursor: move; }
    .cal-text { fill: #991b1b; font: 700 13px system-ui, sans-serif; paint-order: stroke; stroke: #fff;
      stroke-width: 4px; }
  `;

  // What calipers say, from the distance in pixels of the picture.
  const reading = (scale, ends) => {
    if (!scale.px_per_s) return "The scale of a picture is not known";
    const ms = (Math.abs(ends[1].x - ends[0].x) / scale.px_per_s) * 1000;
    const mv = (ends[0].y - ends[1].y) / scale.px_per_mv;
    const rate = ms >= 100 ? ` · ${Math.round(60000 / ms)} bpm` : "";
    return `${Math.round(ms)} ms${rate} · ${mv < 0 ? "−" : ""}${Math.abs(mv).toFixed(2)} mV`;
  };

  class EcgPaper extends HTMLElement {
    static observedAttributes = ["src", "alt", "scale"];
    #zoom = 1; #mode = "measure"; #ends = null; #drag = null; #scale = {}; #root = null; #parts = {};

    connectedCallback() {
      if (this.#root) return;
      this.#root = this.attachShadow({ mode: "open" });
      this.#root.append(make("style", {}, STYLE));
      const bar = make("div", { class: "bar", role: "toolbar", "aria-label": "ECG view" });
      const button = (name, label, title, act) => {
        const node = make("button", { type: "button", title, "aria-label": title, "data-name": name }, label);
        node.addEventListener("click", act);
        bar.append(node);
        return node;
      };
      button("out", "−", "Zoom out", () => this.#zoomTo(this.#zoom / 1.4));
      button("in", "+", "Zoom in", () => this.#zoomTo(this.#zoom * 1.4));
      button("fit", "Fit", "Fit to width", () => this.#zoomTo(1));
      const measure = button("measure", "Calipers", "Measure with calipers", () => this.#setMode("measure"));
      const move = button("move", "Move", "Move the page", () => this.#setMode("move"));
      button("place", "Place", "Place calipers in the middle, to be moved with the arrow keys", () => this.#place());
      button("clear", "Clear", "Take the calipers away", () => this.#clear());
      const out = make("output", { class: "hint", "aria-live": "polite" });
      bar.append(out);
      const view = make("div", { class: "view measure", tabindex: "0", role: "group",
        "aria-label": "ECG paper. Plus and minus zoom, arrow keys scroll." });
      const sheet = make("div", { class: "sheet" });
      const img = make("img", { draggable: "false" });
      const svg = draw("svg", { "aria-hidden": "false" });
      const calipers = draw("g");
      svg.append(calipers);
      sheet.append(img, svg);
      view.append(sheet);
      this.#root.append(bar, view);
      this.#parts = { measure, move, out, view, sheet, img, svg, calipers };
      img.addEventListener("load", () => this.#redraw());
      sheet.addEventListener("pointerdown", (event) => this.#down(event));
      sheet.addEventListener("pointermove", (event) => this.#moved(event));
      for (const name of ["pointerup", "pointercancel"]) sheet.addEventListener(name, () => { this.#drag = null; });
      view.addEventListener("wheel", (event) => {
        if (!event.ctrlKey) return;
        event.preventDefault();
        this.#zoomTo(this.#zoom * (event.deltaY < 0 ? 1.15 : 1 / 1.15), event);
      }, { passive: false });
      view.addEventListener("keydown", (event) => this.#key(event));
      this.#setMode("measure");
      for (const name of EcgPaper.observedAttributes) this.attributeChangedCallback(name, null, this.getAttribute(name));
    }

    attributeChangedCallback(name, before, value) {
      if (!this.#root || before === value) return;
      const { img } = this.#parts;
      if (name === "src") {
        this.#ends = null;
        if (value && value.startsWith("/ecglm/show/")) img.setAttribute("src", value); else img.removeAttribute("src");
      } else if (name === "alt") img.setAttribute("alt", value || "");
      else if (name === "scale") {
        try { this.#scale = JSON.parse(value || "{}"); } catch { this.#scale = {}; }
      }
      this.#redraw();
    }

    #setMode(mode) {
      this.#mode = mode;
      for (const name of ["measure", "move"]) this.#parts[name].setAttribute("aria-pressed", String(mode === name));
      this.#parts.view.className = `view ${mode}`;
      this.#redraw();
    }

    #zoomTo(zoom, at = null) {
      const { view, sheet } = this.#parts;
      const old = this.#zoom, box = view.getBoundingClientRect();
      this.#zoom = Math.min(8, Math.max(1, zoom));
      const x = at ? at.clientX - box.left : view.clientWidth / 2, y = at ? at.clientY - box.top : view.clientHeight / 2;
      const left = ((view.scrollLeft + x) * this.#zoom) / old - x, top = ((view.scrollTop + y) * this.#zoom) / old - y;
      sheet.style.width = `${this.#zoom * 100}%`;
      view.scrollLeft = left; view.scrollTop = top;
      this.#redraw();
    }

    #size() { return { width: this.#scale.width || this.#parts.img.naturalWidth || 1,
      height: this.#scale.height || this.#parts.img.naturalHeight || 1 }; }

    #point(event) {
      const box = this.#parts.img.getBoundingClientRect(), { width, height } = this.#size();
      const inside = (value, most) => Math.min(most, Math.max(0, value));
      return { x: inside(((event.clientX - box.left) / box.width) * width, width),
        y: inside(((event.clientY - box.top) / box.height) * height, height) };
    }

    #down(event) {
      if (event.button !== 0) return;
      const { view, sheet } = this.#parts;
      if (this.#mode === "move") {
        this.#drag = { x: event.clientX, y: event.clientY, left: view.scrollLeft, top: view.scrollTop };
      } else {
        const point = this.#point(event);
        const end = event.target.classList && event.target.classList.contains("end") ? Number(event.target.dataset.end) : 1;
        if (!event.target.classList || !event.target.classList.contains("end")) {
          // A second click without a drag ends what the first began.
          if (this.#ends && this.#ends.open) this.#ends = [this.#ends[0], point];
          else { this.#ends = [point, point]; this.#ends.open = true; }
        }
        this.#drag = { end, from: point };
        this.#redraw();
      }
      sheet.setPointerCapture(event.pointerId);
      event.preventDefault();
      view.focus({ preventScroll: true });
    }

    #moved(event) {
      const { view } = this.#parts;
      if (this.#drag && this.#mode === "move") {
        view.scrollLeft = this.#drag.left + this.#drag.x - event.clientX;
        view.scrollTop = this.#drag.top + this.#drag.y - event.clientY;
      } else if (this.#drag && this.#ends) {
        const point = this.#point(event);
        if (Math.hypot(point.x - this.#drag.from.x, point.y - this.#drag.from.y) > 2) this.#ends.open = false;
        this.#ends[this.#drag.end] = point;
        this.#redraw();
      }
    }

    #place() {
      const { view, img } = this.#parts, { width } = this.#size();
      const box = view.getBoundingClientRect(), per = width / (img.getBoundingClientRect().width || 1);
      const middle = this.#point({ clientX: box.left + box.width / 2, clientY: box.top + box.height / 2 });
      const half = 40 * per;
      this.#ends = [{ x: middle.x - half, y: middle.y }, { x: middle.x + half, y: middle.y }];
      this.#setMode("measure");
      this.#parts.calipers.querySelector(".end").focus();
    }

    #clear() { this.#ends = null; this.#redraw(); }

    #key(event) {
      const target = event.composedPath()[0];
      const step = event.shiftKey ? 10 : 1;
      const by = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
      if (target.classList.contains("end") && by) {
        const number = Number(target.dataset.end), { width, height } = this.#size(), end = this.#ends[number];
        this.#ends[number] = { x: Math.min(width, Math.max(0, end.x + by[0])), y: Math.min(height, Math.max(0, end.y + by[1])) };
        this.#redraw();
        event.preventDefault();
      } else if (event.key === "+" || event.key === "=") this.#zoomTo(this.#zoom * 1.4);
      else if (event.key === "-") this.#zoomTo(this.#zoom / 1.4);
      else if (event.key === "0") this.#zoomTo(1);
      else if (event.key === "Delete" || event.key === "Backspace") this.#clear();
    }

    #redraw() {
      const { svg, calipers, out, img } = this.#parts, { width, height } = this.#size();
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      const per = width / (img.getBoundingClientRect().width || width); // picture pixels per pixel of the screen
      this.#calipers(calipers, per, height);
      const told = this.#ends ? reading(this.#scale, this.#ends)
        : this.#mode === "measure" ? "Drag on the paper to measure" : "Drag to move the page";
      if (out.textContent !== told) out.textContent = told;
      out.className = this.#ends ? "" : "hint";
    }

    #calipers(group, per, height) {
      if (!this.#ends) { group.replaceChildren(); return; }
      if (!group.childElementCount) {
        group.append(draw("rect", { class: "area" }), draw("line", { class: "cal" }), draw("line", { class: "cal" }),
          draw("line", { class: "cal", "stroke-dasharray": "4 3" }), draw("text", { class: "cal-text" }));
        for (const number of [0, 1]) group.append(draw("circle", { class: "end", tabindex: "0", role: "button",
          "data-end": number, "aria-label": `${number ? "Second" : "First"} end of the calipers, arrow keys move it` }));
      }
      const [first, second] = this.#ends, [area, ...rest] = group.children;
      const set = (node, values) => { for (const [key, value] of Object.entries(values)) node.setAttribute(key, value); };
      const reach = 46 * per, top = Math.max(0, Math.min(first.y, second.y) - reach);
      const bottom = Math.min(height, Math.max(first.y, second.y) + reach);
      set(area, { x: Math.min(first.x, second.x), width: Math.abs(first.x - second.x), y: top, height: bottom - top });
      [first, second].forEach((end, number) => {
        set(rest[number], { x1: end.x, x2: end.x, y1: top, y2: bottom });
        set(rest[4 + number], { cx: end.x, cy: end.y, r: 6 * per });
      });
      set(rest[2], { x1: first.x, y1: first.y, x2: second.x, y2: second.y });
      const right = Math.max(first.x, second.x), room = right + 210 * per < this.#size().width;
      set(rest[3], { x: room ? right + 8 * per : Math.min(first.x, second.x) - 8 * per, y: top + 14 * per,
        "text-anchor": room ? "start" : "end" });
      rest[3].style.fontSize = `${13 * per}px`;
      rest[3].style.strokeWidth = `${4 * per}px`;
      const told = reading(this.#scale, this.#ends);
      if (rest[3].textContent !== told) rest[3].textContent = told;
    }
  }
  customElements.define("ecg-paper", EcgPaper);
})();

// <ecg-drop>: where files are dropped or chosen; and the keys of the page. No text of a user becomes markup here.
"use strict";
(() => {
  if (customElements.get("ecg-drop")) return;
  const STYLE = `
    :host { display: block; }
    label { display: flex; align-items: center; gap: 14px; padding: 7px 14px; border-radius: 12px; cursor: pointer;
      border: 2px dashed var(--border-color-accent, #94a3b8); color: var(--body-text-color, #1e293b);
      background: var(--background-fill-secondary, #f8fafc); min-height: 52px; box-sizing: border-box; }
    label.over { border-color: #0f766e; background: color-mix(in srgb, #0f766e 12%, transparent); }
    label:focus-within { outline: 3px solid #0f766e; outline-offset: 2px; }
    b { display: block; font-weight: 600; } small { display: block; opacity: .8; font-size: 13px; line-height: 1.35; }
    svg { flex: none; } input { position: absolute; opacity: 0; width: 1px; height: 1px; }
  `;

  class EcgDrop extends HTMLElement {
    #root = null;

    connectedCallback() {
      if (this.#root) return;
      this.#root = this.attachShadow({ mode: "open" });
      this.#root.innerHTML = `<style>${STYLE}</style><label>
        <svg width="30" height="30" viewBox="0 0 30 30" fill="none" stroke="#0f766e" stroke-width="2" aria-hidden="true">
        <path d="M2 17h6l2-4 3 10 4-19 3 15 2-2h6"/></svg>
        <span><b></b><small></small></span><input type="file" multiple></label>`;
      const label = this.#root.querySelector("label"), input = this.#root.querySelector("input");
      this.#root.querySelector("b").textContent = "Drop an ECG here, or choose files";
      this.#root.querySelector("small").textContent = this.getAttribute("kinds") || "";
      input.setAttribute("accept", this.getAttribute("accept") || "");
      input.setAttribute("aria-label", `Choose an ECG. ${this.getAttribute("kinds") || ""}`);
      input.addEventListener("change", () => { this.#send([...input.files]); input.value = ""; });
      const over = (on) => (event) => { event.preventDefault(); label.classList.toggle("over", on); };
      for (const name of ["dragenter", "dragover"]) label.addEventListener(name, over(true));
      label.addEventListener("dragleave", over(false));
      label.addEventListener("drop", (event) => { over(false)(event); this.#send([...event.dataTransfer.files]); });
    }

    async #send(files) {
      if (!files.length) return;
      const tell = (detail) => this.dispatchEvent(new CustomEvent("ecg-files", { bubbles: true, composed: true, detail }));
      const most = Number(this.getAttribute("most")), talk = this.getAttribute("talk") || "", sent = [];
      if (files.length > 16) return tell({ talk, failed: "16 files at once are the most; drop fewer" });
      const large = files.find((file) => file.size > most);
      if (large) return tell({ talk, failed: `${large.name}: larger than ${most >> 20} MB` });
      for (const file of files) {
        const headers = { "x-talk": talk, "x-name": encodeURIComponent(file.name), "content-type": "application/octet-stream" };
        let answer;
        try { answer = await fetch("/ecglm/put/upload", { method: "POST", headers, body: file }); }
        catch { return tell({ talk, sent, failed: `${file.name}: the server did not answer` }); }
        const said = (await answer.text()).slice(0, 500);
        if (!answer.ok) return tell({ talk, sent, failed: said });
        sent.push(said);
      }
      tell({ talk, sent });
    }
  }
  customElements.define("ecg-drop", EcgDrop);

  const visible = (node) => node && node.offsetParent !== null && !node.disabled;
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    const stop = document.querySelector("#stop, #stop button");
    if (visible(stop)) { stop.click(); event.preventDefault(); }
  });
  // What was pressed by keyboard and then goes away leaves the keyboard where one writes next.
  document.addEventListener("click", (event) => {
    const node = event.detail === 0 && event.target.closest && event.target.closest("#stop, #correcting button");
    if (node) setTimeout(() => document.querySelector("#question textarea").focus(), 60);
    const wanted = event.composedPath()[0];
    if (wanted.closest && wanted.closest("[data-act=correct]")) wait("#correction textarea", 40);
  });
  const wait = (name, left) => {
    const box = document.querySelector(name);
    if (visible(box)) box.focus();
    else if (left) setTimeout(() => wait(name, left - 1), 50);
  };
  // A talk is forgotten with its page; nobody should lose one by a key pressed by mistake.
  window.addEventListener("beforeunload", (event) => {
    if (document.querySelector("#talk .eg-turn")) event.preventDefault();
  });
  // A file that misses the drop zone must not replace the page.
  for (const name of ["dragover", "drop"]) document.addEventListener(name, (event) => event.preventDefault());
})();

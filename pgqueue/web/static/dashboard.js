// What a page does beside htmx: the theme, copying, ticking rows, shortcuts, and the state of the live stream.
(() => {
  const root = document.documentElement;

  function switchTheme() {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    localStorage.setItem("pgqueue-theme", root.dataset.theme);
    document.dispatchEvent(new Event("pgqueue:theme"));
  }

  async function copy(button) {
    const text = button.closest(".code").querySelector("pre").textContent;
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      // Without a secure context there is no clipboard: the text is selected instead.
      getSelection().selectAllChildren(button.closest(".code").querySelector("pre"));
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }

  function count(form) {
    const ticked = form.querySelectorAll("input[name=id]:checked").length;
    for (const place of form.querySelectorAll("[data-ticked]")) place.textContent = ticked;
    for (const button of form.querySelectorAll("[data-needs-tick]")) button.disabled = ticked === 0;
  }

  document.addEventListener("click", (event) => {
    if (event.target.closest("[data-theme-switch]")) switchTheme();
    const button = event.target.closest("[data-copy]");
    if (button) copy(button);
  });

  document.addEventListener("change", (event) => {
    const box = event.target;
    if (box.matches("[data-tick-all]")) {
      for (const one of box.closest("form").querySelectorAll("input[name=id]")) one.checked = box.checked;
    }
    if (box.matches("[data-tick-all], input[name=id]")) count(box.closest("form"));
  });

  // "/" goes to the search field; "g" and a letter to a page, as its link in the rail begins.
  let goes = false;
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
    if (event.key === "/") {
      const field = document.querySelector("[data-search]");
      if (field) { event.preventDefault(); field.focus(); }
    } else if (event.key === "g") {
      goes = true;
      setTimeout(() => { goes = false; }, 1000);
    } else if (goes) {
      goes = false;
      const links = [...document.querySelectorAll(".rail li a")];
      links.find((link) => link.textContent.toLowerCase().startsWith(event.key))?.click();
    }
  });

  function live(state) { document.body.dataset.live = state; }
  document.body.addEventListener("htmx:sse:after:connection", () => live("on"));
  document.body.addEventListener("htmx:sse:error", () => live("off"));
  document.body.addEventListener("htmx:sse:close", () => live("off"));
  // The dashboard answers, and its database may not.
  document.body.addEventListener("htmx:response:error", () => live("off"));
  document.body.addEventListener("htmx:after:swap", (event) => { if (event.detail.ctx?.response?.raw?.ok) live("on"); });
  function countAll() {
    for (const form of document.querySelectorAll("form")) if (form.querySelector("[data-needs-tick]")) count(form);
  }
  countAll();
  document.addEventListener("htmx:after:swap", countAll);
})();

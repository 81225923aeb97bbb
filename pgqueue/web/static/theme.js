// Before anything is drawn: the theme that somebody chose, over the one of the system.
(() => {
  const chosen = localStorage.getItem("pgqueue-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();

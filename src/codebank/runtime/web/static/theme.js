// Switches the theme at once and keeps the choice; without JavaScript the forms are sent instead.
(() => {
  const root = document.documentElement;
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || "system") === "dark" ||
    ((root.dataset.theme || "system") === "system" && prefersDark.matches);

  const show = () => {
    const theme = root.dataset.theme || "system";
    for (const button of document.querySelectorAll("[data-theme-form] button")) {
      if (button.hasAttribute("data-theme-toggle")) button.value = isDark() ? "light" : "dark";
      else button.setAttribute("aria-pressed", String(button.value === theme));
    }
  };

  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.matches("[data-theme-form]") || !event.submitter) return;
    event.preventDefault();
    const theme = event.submitter.value;
    if (theme === "system") delete root.dataset.theme;
    else root.dataset.theme = theme;
    show();
    const body = new URLSearchParams({ theme, return_to: "/" });
    fetch(form.action, { method: "POST", body, redirect: "manual", keepalive: true }).catch(() => {});
  });
  prefersDark.addEventListener("change", show);
  document.addEventListener("page:drawn", show);
  show();
})();

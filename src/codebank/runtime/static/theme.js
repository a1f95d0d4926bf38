// Switches the theme at once; without JavaScript the form is sent instead.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (!form.matches("[data-theme-form]") || !event.submitter) return;
  event.preventDefault();
  const theme = event.submitter.value;
  document.documentElement.dataset.theme = theme;
  for (const button of form.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button === event.submitter));
  }
  const body = new URLSearchParams({ theme, return_to: "/" });
  fetch(form.action, { method: "POST", body, redirect: "manual" });
});

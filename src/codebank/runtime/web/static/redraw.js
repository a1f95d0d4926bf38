// Draws a page anew where one stands: what was typed stays in its fields, and the page where it was. Switches the
// language so; a page that is at work by itself is opened anew instead, and remembers all but secrets.
(() => {
  const REMEMBERED = "redraw";
  const fieldsOf = (root) => [...root.querySelectorAll("main form")].flatMap((form, place) =>
    [...form.elements].filter((field) => field.name && field.type !== "hidden" && field.tagName !== "BUTTON")
      .map((field) => [`${place} ${field.name} ${field.type === "radio" ? field.value : ""}`, field]));
  const isTicked = (field) => field.type === "radio" || field.type === "checkbox";
  const valueOf = (field) => (isTicked(field) ? field.checked : field.value);
  const fill = (typed) => {
    for (const [name, field] of fieldsOf(document)) {
      if (!(name in typed)) continue;
      if (isTicked(field)) field.checked = typed[name];
      else field.value = typed[name];
    }
  };

  // Nothing is stored here: the fields' values go from the old page to the new one.
  window.redraw = (html) => {
    const drawn = new DOMParser().parseFromString(html, "text/html");
    const typed = Object.fromEntries(fieldsOf(document).map(([name, field]) => [name, valueOf(field)]));
    const focused = document.activeElement?.name;
    const { scrollX, scrollY } = window;
    document.title = drawn.title;
    document.documentElement.lang = drawn.documentElement.lang;
    for (const part of [".skip", "body > header", "body > main", "body > footer"]) {
      const [before, after] = [document.querySelector(part), drawn.querySelector(part)];
      if (before && after) before.replaceWith(document.adoptNode(after));
    }
    fill(typed);
    document.dispatchEvent(new Event("page:drawn"));
    if (focused) document.querySelector(`[name="${CSS.escape(focused)}"]`)?.focus({ preventScroll: true });
    window.scrollTo(scrollX, scrollY);
  };

  const isSecret = (field) => field.type === "password" || /^cc-/.test(field.autocomplete);
  const openAnew = (address) => {
    const kept = fieldsOf(document).filter(([, field]) => !isSecret(field)).map(([name, field]) => [name, valueOf(field)]);
    const page = { path: location.pathname, scrollY: window.scrollY, typed: Object.fromEntries(kept) };
    sessionStorage.setItem(REMEMBERED, JSON.stringify(page));
    location.replace(address);
  };
  const remembered = JSON.parse(sessionStorage.getItem(REMEMBERED) || "null");
  sessionStorage.removeItem(REMEMBERED);
  if (remembered?.path === location.pathname) {
    fill(remembered.typed);
    window.scrollTo(0, remembered.scrollY);
  }

  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (form.getAttribute("action") !== "/preferences" || event.submitter?.name !== "language") return;
    event.preventDefault();
    const address = form.elements.namedItem("return_to").value;
    const body = new URLSearchParams({ language: event.submitter.value, return_to: "/" });
    try {
      await fetch("/preferences", { method: "POST", body, redirect: "manual" });
      if (!document.querySelector("[data-redraws]")) return openAnew(address);
      const answer = await fetch(address, { headers: { accept: "text/html" } });
      if (!answer.ok || answer.redirected) return openAnew(address);
      window.redraw(await answer.text());
    } catch {
      // Offline: the browser says so.
      location.assign(address);
    }
  });
})();

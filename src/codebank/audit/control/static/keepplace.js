// Keeps the sideways place of what scrolls when htmx puts a fresh copy in its stead: nothing jumps. What is marked
// data-announce is read out only when its words change, not with every copy.
(() => {
  const scrolled = (root) => [...root.querySelectorAll("[data-keep-place]")];
  const said = () => document.querySelector("[data-announce]")?.textContent.trim() || "";
  let places = [];
  let last = said();
  document.addEventListener("htmx:beforeSwap", () => { places = scrolled(document).map((box) => box.scrollLeft); });
  document.addEventListener("htmx:afterSwap", () => {
    scrolled(document).forEach((box, number) => { box.scrollLeft = places[number] || 0; });
    const now = said();
    if (now !== last) document.getElementById("announcer").textContent = now;
    last = now;
  });
})();

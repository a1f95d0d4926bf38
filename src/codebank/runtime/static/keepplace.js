// Keeps the sideways place of what scrolls when htmx puts a fresh copy in its stead: nothing jumps.
(() => {
  const scrolled = (root) => [...root.querySelectorAll("[data-keep-place]")];
  let places = [];
  document.addEventListener("htmx:beforeSwap", () => { places = scrolled(document).map((box) => box.scrollLeft); });
  document.addEventListener("htmx:afterSwap", () => {
    scrolled(document).forEach((box, number) => { box.scrollLeft = places[number] || 0; });
  });
})();

// The payment form: groups the number, names the brand, turns the drawn card, checks before sending, sends once.
(() => {
  const form = document.querySelector("[data-payment]");
  if (!form) return;
  const drawn = document.querySelector(".payment-card");
  const field = (name) => form.elements.namedItem(name);
  const digits = (text) => text.replace(/\D/g, "");
  const brands = [
    ["Elo", /^(4011|4389(35|90)|4576|5041|5066|5067|509|6277|6362|6363|650|6516|6550)/],
    ["Hipercard", /^(6062|3841)/],
    ["Amex", /^3[47]/],
    ["Visa", /^4/],
    ["Mastercard", /^(5[1-5]|2(22[1-9]|2[3-9]|[3-6]|7[01]|720))/],
  ];
  const brandOf = (number) => (brands.find(([, pattern]) => pattern.test(number)) || [""])[0];
  const grouped = (number) =>
    brandOf(number) === "Amex"
      ? [number.slice(0, 4), number.slice(4, 10), number.slice(10, 15)].filter(Boolean).join(" ")
      : (number.slice(0, 19).match(/.{1,4}/g) || []).join(" ");
  const passesLuhn = (number) =>
    [...number].reverse().reduce((sum, character, place) => {
      const doubled = Number(character) * (place % 2 ? 2 : 1);
      return sum + (doubled > 9 ? doubled - 9 : doubled);
    }, 0) % 10 === 0;

  // Keeps the caret behind the digit it was behind.
  const rewrite = (input, format) => {
    const before = digits(input.value.slice(0, input.selectionStart)).length;
    input.value = format(digits(input.value));
    let place = 0;
    for (let seen = 0; place < input.value.length && seen < before; place += 1) {
      if (/\d/.test(input.value[place])) seen += 1;
    }
    input.setSelectionRange(place, place);
  };
  const show = (part, text) => {
    const place = drawn && drawn.querySelector(`[data-part="${part}"]`);
    if (place) place.textContent = text;
  };

  field("number").addEventListener("input", (event) => {
    rewrite(event.target, grouped);
    const number = digits(event.target.value);
    const hidden = number.length > 4 ? "•".repeat(number.length - 4) + number.slice(-4) : number;
    show("number", grouped("0".repeat(16)).replace(/0/g, "•"));
    if (number) show("number", hidden.match(/.{1,4}/g).join(" "));
    show("brand", brandOf(number));
  });
  field("expiry").addEventListener("input", (event) => {
    rewrite(event.target, (text) => (text.length > 2 ? `${text.slice(0, 2)}/${text.slice(2, 4)}` : text));
    show("expiry", event.target.value || "MM/AA");
  });
  field("cvv").addEventListener("input", (event) => {
    event.target.value = digits(event.target.value).slice(0, 4);
    show("cvv", "•".repeat(event.target.value.length) || "•••");
  });
  field("cvv").addEventListener("focus", () => drawn && drawn.classList.add("flipped"));
  field("cvv").addEventListener("blur", () => drawn && drawn.classList.remove("flipped"));

  const checks = {
    number: (text) => digits(text).length >= 12 && passesLuhn(digits(text)),
    expiry: (text) => {
      const match = /^(\d{2})\/(\d{2})$/.exec(text);
      if (!match || Number(match[1]) < 1 || Number(match[1]) > 12) return false;
      const now = new Date();
      return 2000 + Number(match[2]) > now.getFullYear() ||
        (2000 + Number(match[2]) === now.getFullYear() && Number(match[1]) > now.getMonth());
    },
    cvv: (text) => /^\d{3,4}$/.test(text),
  };
  const check = (name) => {
    const input = field(name);
    const fits = checks[name](input.value);
    input.setAttribute("aria-invalid", String(!fits));
    document.getElementById(`${input.id}-error`).textContent = fits ? "" : input.dataset.message;
    return fits;
  };
  for (const name of Object.keys(checks)) {
    field(name).addEventListener("blur", () => field(name).value && check(name));
  }

  let sent = false;
  form.addEventListener("submit", (event) => {
    const wrong = Object.keys(checks).filter((name) => !check(name));
    if (sent || wrong.length) {
      event.preventDefault();
      if (wrong.length) field(wrong[0]).focus();
      return;
    }
    sent = true;
    const button = form.querySelector("[data-pay]");
    button.setAttribute("aria-busy", "true");
    button.querySelector("[data-label]").textContent = button.dataset.busy;
  });
  // The back button shows the page as it was left; the form may be sent again, its key keeps it from paying twice.
  window.addEventListener("pageshow", () => {
    sent = false;
    const button = form.querySelector("[data-pay]");
    button.removeAttribute("aria-busy");
    button.querySelector("[data-label]").textContent = button.dataset.ready;
  });
})();

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
  const grouped = (number, brand) =>
    brand === "Amex"
      ? [number.slice(0, 4), number.slice(4, 10), number.slice(10, 15)].filter(Boolean).join(" ")
      : (number.slice(0, 19).match(/.{1,4}/g) || []).join(" ");
  const passesLuhn = (number) =>
    [...number].reverse().reduce((sum, character, place) => {
      const doubled = Number(character) * (place % 2 ? 2 : 1);
      return sum + (doubled > 9 ? doubled - 9 : doubled);
    }, 0) % 10 === 0;

  // Keeps the caret behind the digit it was behind.
  const rewrite = (input, format) => {
    const atEnd = input.selectionStart === input.value.length;
    const before = digits(input.value.slice(0, input.selectionStart)).length;
    input.value = format(digits(input.value), input.value);
    let place = atEnd ? input.value.length : 0;
    for (let seen = 0; !atEnd && place < input.value.length && seen < before; place += 1) {
      if (/\d/.test(input.value[place])) seen += 1;
    }
    input.setSelectionRange(place, place);
  };
  // Browsers fill in both 12/34 and 12/2034; people type 9/34 as well.
  const asExpiry = (text, typed) => {
    const month = /^[2-9]/.test(text) || /^1\//.test(typed) ? `0${text}` : text;
    const year = month.slice(2);
    const short = year.startsWith("20") && year.length > 2 ? (year.length > 3 ? year.slice(2, 4) : year) : year.slice(0, 2);
    return month.length > 2 ? `${month.slice(0, 2)}/${short}` : month;
  };
  const part = (name) => drawn && drawn.querySelector(`[data-part="${name}"]`);
  const show = (name, text) => {
    const place = part(name);
    if (place) place.textContent = text;
  };
  const emptyNumber = part("number")?.textContent || "";
  const emptyExpiry = field("expiry").placeholder;

  const showNumber = () => {
    const number = digits(field("number").value);
    const brand = brandOf(number);
    const hidden = number.length > 4 ? "•".repeat(number.length - 4) + number.slice(-4) : number;
    show("number", number ? grouped(hidden, brand) : emptyNumber);
    show("brand", brand);
    if (part("brand")) part("brand").dataset.brand = brand.toLowerCase();
  };
  field("number").addEventListener("input", (event) => {
    rewrite(event.target, (number) => grouped(number, brandOf(number)));
    showNumber();
  });
  field("expiry").addEventListener("input", (event) => {
    rewrite(event.target, asExpiry);
    show("expiry", event.target.value || emptyExpiry);
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
      // The server's month when it sent the page: the browser's clock and zone decide nothing.
      return `20${match[2]}-${match[1]}` >= form.dataset.month;
    },
    cvv: (text) => text.length === (brandOf(digits(field("number").value)) === "Amex" ? 4 : 3) && /^\d+$/.test(text),
  };
  const check = (name) => {
    const input = field(name);
    const fits = checks[name](input.value);
    if (fits) input.removeAttribute("aria-invalid");
    else input.setAttribute("aria-invalid", "true");
    document.getElementById(`${input.id}-error`).textContent = fits ? "" : input.dataset.message;
    return fits;
  };
  for (const name of Object.keys(checks)) {
    field(name).addEventListener("blur", () => field(name).value && check(name));
    field(name).addEventListener("input", () => field(name).getAttribute("aria-invalid") && check(name));
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
    showNumber();
    show("expiry", field("expiry").value || emptyExpiry);
  });
})();

// The payment form: reads what is typed or pasted, draws the card, checks before sending, sends once, and tells what
// happens meanwhile. What a number and an expiry are is the server's rule too (checkout/typed.py): one list of cases.
(() => {
  const narrow = (text) =>
    text.replace(/[\uff01-\uff5e]/g, (wide) => String.fromCharCode(wide.charCodeAt(0) - 0xfee0));
  const plain = (text) => {
    const shown = narrow(text)
      .replace(/[\t\n\v\f\r\p{Z}]/gu, " ").replace(/[\p{Pd}\u2212]/gu, "-").replace(/\p{Cf}/gu, "");
    const match = /^([^0-9]*)([0-9](?:.*[0-9])?)([^0-9]*)$/s.exec(shown);
    return match && !/[\p{N}\p{C}]/u.test(match[1] + match[3]) ? match[2].replace(/ +/g, " ") : "";
  };
  const digits = (text) => narrow(text).replace(/[^0-9]/g, "");
  const readNumber = (text) => (/^[0-9 .·-]+$/.test(plain(text)) ? digits(plain(text)) : "");
  const yearAndMonth = (year, month) => {
    if (Number(month) < 1 || Number(month) > 12 || !/^(20)?[0-9]{2}$/.test(year)) return null;
    return [Number(year.slice(-2)) + 2000, Number(month)];
  };
  const readExpiry = (text) => {
    const figures = plain(text);
    const match = /^([0-9]{1,4}) ?[/. -] ?([0-9]{1,4})$/.exec(figures)
      || /^(?:([0-9]{2})([0-9]{2})|([0-9]{2})(20[0-9]{2})|(20[0-9]{2})([0-9]{2}))$/.exec(figures);
    if (!match) return null;
    const [first, second] = match.slice(1).filter((part) => part !== undefined);
    if (first.length <= 2 && Number(first) >= 1 && Number(first) <= 12) return yearAndMonth(second, first);
    return second.length === 2 && Number(first) > 12 ? yearAndMonth(first, second) : null;
  };
  const twoDigits = (number) => String(number % 100).padStart(2, "0");
  const passesLuhn = (number) =>
    [...number].reverse().reduce((sum, character, place) => {
      const doubled = Number(character) * (place % 2 ? 2 : 1);
      return sum + (doubled > 9 ? doubled - 9 : doubled);
    }, 0) % 10 === 0;

  const fits = (number, [first, last]) => {
    const beginning = number.slice(0, first.length);
    return beginning.length === first.length && first <= beginning && beginning <= last;
  };
  const grouped = (number, brand) =>
    brand === "amex"
      ? [number.slice(0, 4), number.slice(4, 10), number.slice(10)].filter(Boolean).join(" ")
      : (number.match(/.{1,4}/g) || []).join(" ");
  // Keeps the caret behind the digit it was behind.
  const rewrite = (input, text) => {
    if (text === input.value) return;
    const atEnd = input.selectionStart === input.value.length;
    const before = digits(input.value.slice(0, input.selectionStart)).length;
    input.value = text;
    let place = atEnd ? text.length : 0;
    for (let seen = 0; !atEnd && place < text.length && seen < before; place += 1) if (/\d/.test(text[place])) seen += 1;
    input.setSelectionRange(place, place);
  };
  const asExpiry = (text) => {
    const read = readExpiry(text);
    if (read) return `${twoDigits(read[1])}/${twoDigits(read[0])}`;
    // While one types it without the slash.
    return /^(0[1-9]|1[0-2])[0-9]$/.test(text) ? `${text.slice(0, 2)}/${text.slice(2)}` : text;
  };

  let reset = () => {};
  const start = (isDrawnAnew) => {
    const form = document.querySelector("[data-payment]");
    if (!form) return;
    const drawn = document.querySelector(".payment-card");
    const button = form.querySelector("[data-pay]");
    const field = (name) => form.elements.namedItem(name);
    const brands = JSON.parse(form.dataset.brands);
    const brandOf = (number) => (brands.find(([, ranges]) => ranges.some((range) => fits(number, range))) || [""])[0];
    const part = (name) => drawn && drawn.querySelector(`[data-part="${name}"]`);
    const show = (name, text) => {
      if (part(name)) part(name).textContent = text;
    };
    const emptyNumber = "•••• •••• •••• ••••";
    const draw = () => {
      const number = readNumber(field("number").value).slice(0, 19);
      const brand = brandOf(number);
      const hidden = number.length > 4 ? "•".repeat(number.length - 4) + number.slice(-4) : number;
      show("number", number ? grouped(hidden, brand) : emptyNumber);
      show("brand", brand);
      if (part("brand")) part("brand").dataset.brand = brand;
      show("expiry", readExpiry(field("expiry").value) ? asExpiry(field("expiry").value) : field("expiry").placeholder);
      show("cvv", "•".repeat(Math.min(4, readNumber(field("cvv").value).length)) || "•••");
    };
    // What is not understood stays as it was written: its message says so, and nothing else is made of it.
    const formats = {
      number: (text) => (readNumber(text).length <= 19 && grouped(readNumber(text), brandOf(readNumber(text)))) || text,
      expiry: asExpiry,
      cvv: (text) => (readNumber(text).length <= 4 && readNumber(text)) || text,
    };
    const wrong = {
      number: (text) => (readNumber(text).length >= 12 && readNumber(text).length <= 19 && passesLuhn(readNumber(text)) ? "" : "wrong"),
      expiry: (text) => {
        const read = readExpiry(text);
        if (!read) return "wrong";
        // The server's month: the browser's clock and zone refuse no card.
        return `${read[0]}-${twoDigits(read[1])}` < form.dataset.month ? "past" : "";
      },
      cvv: (text) => {
        const isAmex = brandOf(readNumber(field("number").value)) === "amex";
        if (/^[0-9]+$/.test(text) && text.length === (isAmex ? 4 : 3)) return "";
        return isAmex ? "amex" : "wrong";
      },
    };
    const check = (name) => {
      const input = field(name);
      const what = input.value.trim() ? wrong[name](input.value) : "empty";
      if (what) input.setAttribute("aria-invalid", "true");
      else input.removeAttribute("aria-invalid");
      document.getElementById(`${input.id}-error`).textContent = what ? input.dataset[what] : "";
      return !what;
    };
    for (const name of Object.keys(wrong)) {
      field(name).addEventListener("input", () => {
        rewrite(field(name), formats[name](field(name).value));
        draw();
        if (field(name).getAttribute("aria-invalid")) check(name);
      });
      field(name).addEventListener("blur", () => field(name).value && check(name));
    }
    field("cvv").addEventListener("focus", () => drawn && drawn.classList.add("flipped"));
    field("cvv").addEventListener("blur", () => drawn && drawn.classList.remove("flipped"));
    for (const card of document.querySelectorAll("[data-fill]")) {
      const fill = Object.assign(document.createElement("button"), { type: "button", className: "test-card" });
      fill.setAttribute("aria-label", card.dataset.fill);
      card.replaceWith(fill);
      fill.append(card);
      fill.addEventListener("click", () => {
        for (const name of Object.keys(wrong)) {
          field(name).value = card.dataset[name];
          field(name).dispatchEvent(new Event("input"));
        }
        button.focus();
      });
    }

    const state = form.querySelector("[data-under-way]");
    const say = (...sentences) => {
      state.replaceChildren(...sentences.map((text) => Object.assign(document.createElement("p"), { textContent: text })));
      state.parentElement.hidden = !sentences.length;
    };
    let sent = false;
    reset = () => {
      sent = false;
      button.removeAttribute("aria-busy");
      button.querySelector("[data-label]").textContent = button.dataset.ready;
      draw();
    };
    // By the page's own key: null where the shop never heard of it.
    const findOrder = async () => {
      const answer = await fetch(`/attempts/${field("attempt").value}`, { headers: { accept: "application/json" } });
      if (answer.status === 404) return null;
      if (!answer.ok) throw new Error(answer.status);
      return answer.json();
    };
    const pause = () => new Promise((done) => setTimeout(done, 1000));
    const tell = async (clickedAt) => {
      for (let tries = 1; sent && form.isConnected; await pause()) {
        const seconds = Math.floor((performance.now() - clickedAt) / 1000);
        if (seconds >= 1) {
          tries = (await findOrder().catch(() => null))?.tries || tries;
          if (!sent) return;
          const { first, again, since, next } = state.dataset;
          say(`${tries === 1 ? first : again.replace("{count}", tries)} · ${since.replace("{seconds}", seconds)}`, next);
        }
      }
    };
    // The answer was lost on its way, or the shop cannot answer now: what became of the order is asked for by its key.
    const askWhatBecame = async () => {
      sent = false;
      say(state.dataset.lost);
      for (let missing = 0; missing < 2; await pause()) {
        try {
          const order = await findOrder();
          if (order) return location.assign(order.location);
          missing += 1;
        } catch {
          missing = 0;
        }
      }
      reset();
      say(state.dataset.never);
    };
    const send = async () => {
      const clickedAt = performance.now();
      sent = true;
      button.setAttribute("aria-busy", "true");
      button.querySelector("[data-label]").textContent = button.dataset.busy;
      say();
      tell(clickedAt);
      try {
        const body = new URLSearchParams(new FormData(form));
        const answer = await fetch(form.action, { method: "POST", body, headers: { accept: "text/html" } });
        if (answer.redirected) return location.assign(answer.url);
        if (answer.status >= 500) throw new Error(answer.status);
        sent = false;
        window.redraw(await answer.text());
      } catch {
        await askWhatBecame();
      }
    };
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (button.getAttribute("aria-busy")) return;
      const names = Object.keys(wrong).filter((name) => !check(name));
      if (names.length) field(names[0]).focus();
      else send();
    });
    draw();
    // Drawn anew in another language; what the server says of a field stays.
    const silent = Object.keys(wrong).filter((name) => field(name).value && !field(name).getAttribute("aria-invalid"));
    if (isDrawnAnew) silent.forEach(check);
  };
  start(false);
  document.addEventListener("page:drawn", () => start(true));
  // The back button shows the page as it was left; the form may be sent again, its key keeps it from paying twice.
  window.addEventListener("pageshow", () => reset());
})();

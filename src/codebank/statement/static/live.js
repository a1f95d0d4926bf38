// Keeps the statement up to date: server-sent events first, asking every few seconds where they do not come through.
(() => {
  const region = document.querySelector("[data-live-url]");
  if (!region || !window.fetch) return;
  const announcer = document.getElementById("announcer");
  const askEverySeconds = 4;
  const failuresMax = 3;
  const asksBeforeListening = 15;
  let last = region.dataset.liveAfter;
  let failures = 0;
  let asked = 0;

  const say = (state) => {
    for (const mark of document.querySelectorAll(".live-mark")) mark.dataset.live = state;
  };

  // Replaces a piece by its successor; what the reader had opened or stood on stays so.
  const replace = (old, piece) => {
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    for (const details of old.parentElement.querySelectorAll("details[open][id]")) {
      const next = details === old ? piece : piece.querySelector(`#${CSS.escape(details.id)}`);
      if (next && old.contains(details)) next.open = true;
    }
    if (old.matches("details[open]") && piece.matches("details")) piece.open = true;
    old.replaceWith(piece);
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };
  const apply = (html) => {
    const box = document.createElement("template");
    box.innerHTML = html;
    for (const piece of [...box.content.querySelectorAll("[data-replace]")]) {
      const old = document.getElementById(piece.id);
      const home = document.getElementById(piece.dataset.into || "");
      if (old) {
        replace(old, piece);
      } else if (home) {
        piece.classList.add("fresh");
        home.prepend(piece);
      }
    }
    const words = [...box.content.querySelectorAll("[data-announce]")].map((piece) => piece.dataset.announce);
    if (words.length && announcer) announcer.textContent = words.join(" ");
  };

  const listen = () => {
    const source = new EventSource(`${region.dataset.liveUrl}&after=${last}`);
    source.onopen = () => { failures = 0; say("on"); };
    source.addEventListener("lines", (event) => { last = event.lastEventId || last; apply(event.data); });
    source.addEventListener("bye", () => { source.close(); say("over"); });
    source.onerror = () => {
      say("off");
      failures += 1;
      if (source.readyState !== EventSource.CLOSED && failures < failuresMax) return;
      source.close();
      asked = 0;
      ask();
    };
  };
  const ask = async () => {
    try {
      const answer = await fetch(`${region.dataset.changesUrl}&after=${last}`, { headers: { accept: "application/json" } });
      if (answer.status === 401) return say("over");
      if (!answer.ok) throw new Error(String(answer.status));
      const { after, html } = await answer.json();
      last = after;
      if (html) apply(html);
      say("poll");
      asked += 1;
    } catch { say("off"); }
    // Once asking has worked for a minute, being told is tried again.
    if (window.EventSource && asked >= asksBeforeListening) { failures = 0; return listen(); }
    setTimeout(ask, askEverySeconds * 1000);
  };
  if (window.EventSource) listen(); else ask();
})();

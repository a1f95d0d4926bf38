// Keeps the statement up to date. Of all tabs of a browser one listens to the server, since a browser has six
// connections to a site and no more; it tells the others when an account moved, and each asks for what it lacks.
// Where being told does not come through, tabs ask every few seconds.
(() => {
  const region = document.querySelector("[data-live-url]");
  if (!region || !window.fetch) return;
  const { account, liveUrl, changesUrl } = region.dataset;
  const announcer = document.getElementById("announcer");
  const beatMs = Number(region.dataset.beatSeconds) * 1000;
  const askEveryMs = 4000;
  const asksBeforeListening = 15;
  const channel = window.BroadcastChannel && new BroadcastChannel("statement");
  let last = region.dataset.liveAfter;
  let source = null;
  let leads = false;
  let isOver = false;
  let isOwing = false;
  let release = () => {};
  let asking = null;
  let timer = 0;
  let silence = 0;
  let asked = 0;
  // After a stream that worked, one good answer is enough to try the next.
  let patience = asksBeforeListening;

  const tell = (kind, words = {}) => { if (leads && channel) channel.postMessage({ kind, ...words }); };
  const say = (state) => {
    for (const mark of document.querySelectorAll(".live-mark")) mark.dataset.live = state;
  };

  // Replaces a piece by its successor; what the reader had opened or stood on stays so.
  const replace = (old, piece) => {
    const focused = old.contains(document.activeElement) ? document.activeElement.id : "";
    for (const details of old.querySelectorAll("details[open][id]")) {
      const next = piece.querySelector(`#${CSS.escape(details.id)}`);
      if (next) next.open = true;
    }
    old.replaceWith(piece);
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
  };
  const apply = (html) => {
    const box = document.createElement("template");
    box.innerHTML = html;
    for (const piece of [...box.content.querySelectorAll("[data-replace]")]) {
      const old = document.getElementById(piece.id);
      if (old) replace(old, piece);
    }
    const words = [...box.content.querySelectorAll("[data-announce]")].map((piece) => piece.dataset.announce);
    if (words.length && announcer) announcer.textContent = words.join(" ");
  };

  const close = () => {
    clearTimeout(timer);
    clearTimeout(silence);
    if (source) source.close();
    source = null;
  };
  // Nothing of the account stays in view once its reader is signed out.
  const end = () => {
    if (isOver) return;
    isOver = true;
    close();
    tell("over");
    leads = false;
    release();
    const over = document.getElementById("session-over");
    document.title = over.dataset.title;
    document.getElementById("content").replaceChildren(over.content.cloneNode(true));
    if (announcer) announcer.textContent = over.dataset.title;
  };

  // Between two beats there is no silence: whoever hears nothing for one and a half of them is not connected.
  const hear = () => {
    clearTimeout(silence);
    silence = setTimeout(doubt, beatMs * 1.5);
  };
  const doubt = () => {
    say("off");
    tell("off");
    close();
    askAgain(0);
  };

  const listen = () => {
    close();
    asked = 0;
    patience = asksBeforeListening;
    source = new EventSource(`${liveUrl}&after=${last}`);
    const alive = () => { patience = 1; hear(); say("on"); tell("on"); };
    source.addEventListener("beat", alive);
    source.addEventListener("lines", (event) => { last = event.lastEventId || last; apply(event.data); alive(); });
    source.addEventListener("moved", (event) => {
      const [moved, position] = event.data.split(" ");
      tell("moved", { account: moved, position });
    });
    source.addEventListener("bye", end);
    // The server stops or cannot be reached; not everybody comes back at once.
    source.onerror = () => { say("off"); tell("off"); close(); askAgain(500 + Math.random() * 1500); };
    hear();
  };

  const fetchChanges = async () => {
    const answer = await fetch(`${changesUrl}&after=${last}`, {
      headers: { accept: "application/json" }, signal: AbortSignal.timeout?.(beatMs),
    });
    if (answer.status === 401) return end();
    if (!answer.ok) throw new Error(String(answer.status));
    const { after, html } = await answer.json();
    last = after;
    if (html && !isOver) apply(html);
  };
  // One question at a time; whoever is woken meanwhile asks once more.
  const ask = () => {
    asking = (asking || Promise.resolve()).catch(() => {}).then(fetchChanges);
    return asking;
  };
  // A tab that nobody looks at asks once it is looked at.
  const askWhenSeen = () => {
    isOwing = document.hidden;
    if (!isOwing) ask().catch(doubt);
  };
  document.addEventListener("visibilitychange", () => { if (isOwing && !isOver) askWhenSeen(); });
  const askAgain = (delayMs) => {
    clearTimeout(timer);
    timer = setTimeout(async () => {
      try {
        await ask();
        if (isOver) return;
        say("poll");
        tell("poll");
        asked += 1;
      } catch { say("off"); tell("off"); }
      if (leads && window.EventSource && asked >= patience) listen();
      else askAgain(askEveryMs);
    }, delayMs);
  };

  // What the tab that listens tells the others.
  const follow = ({ data }) => {
    if (isOver || leads) {
      if (leads && data.kind === "hello" && source && patience === 1) tell("on");
      return;
    }
    if (data.kind === "on") { close(); say("on"); hear(); }
    if (data.kind === "off") { say("off"); hear(); }
    if (data.kind === "poll") { close(); say("poll"); hear(); askWhenSeen(); }
    if (data.kind === "over") ask().catch(doubt);
    if (data.kind === "moved" && data.account === account && data.position !== last) askWhenSeen();
  };
  const lead = () => {
    leads = true;
    if (window.EventSource) listen(); else askAgain(0);
  };
  const start = () => {
    if (navigator.locks && channel) {
      channel.onmessage = follow;
      channel.postMessage({ kind: "hello" });
      hear();
      // Held for as long as this tab is open; then the next in line leads.
      navigator.locks.request("statement", () => {
        if (isOver) return null;
        lead();
        return new Promise((resolve) => { release = resolve; });
      });
      return;
    }
    // Tabs that cannot agree on who listens: those that are seen do.
    const show = () => { if (document.hidden) { close(); say(""); } else lead(); };
    document.addEventListener("visibilitychange", show);
    show();
  };
  // A page that the back button brings back has missed what came meanwhile.
  window.addEventListener("pageshow", (event) => { if (event.persisted) ask().catch(doubt); });
  start();
})();

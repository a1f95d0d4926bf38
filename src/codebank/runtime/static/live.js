// Keeps the statement up to date: server-sent events first, asking every few seconds where they do not come through.
(() => {
  const region = document.querySelector("[data-live-url]");
  if (!region || !window.fetch) return;
  const mark = document.querySelector(".live-mark");
  const announcer = document.getElementById("announcer");
  let last = region.dataset.liveAfter;
  let failures = 0;
  let timer = 0;

  const say = (state) => mark && mark.setAttribute("data-live", state);
  const apply = (html) => {
    const box = document.createElement("template");
    box.innerHTML = html;
    for (const piece of box.content.querySelectorAll("[data-replace]")) {
      const old = document.getElementById(piece.id);
      if (old) old.replaceWith(piece);
    }
    const word = box.content.querySelector("[data-announce]");
    if (word && announcer) announcer.textContent = word.dataset.announce;
  };

  const listen = () => {
    const source = new EventSource(`${region.dataset.liveUrl}&after=${last}`);
    source.onopen = () => { failures = 0; say("on"); };
    source.addEventListener("lines", (event) => { last = event.lastEventId || last; apply(event.data); });
    source.addEventListener("bye", () => { source.close(); say("off"); });
    source.onerror = () => {
      say("off");
      failures += 1;
      if (source.readyState === EventSource.CLOSED || failures >= 3) {
        source.close();
        ask();
      }
    };
  };
  const ask = async () => {
    try {
      const answer = await fetch(`${region.dataset.changesUrl}&after=${last}`, { headers: { accept: "application/json" } });
      if (answer.status === 401) return say("off");
      const { sequence, html } = await answer.json();
      last = sequence;
      if (html) apply(html);
      say("poll");
    } catch { say("off"); }
    clearTimeout(timer);
    timer = setTimeout(ask, 4000);
  };
  if (window.EventSource) listen(); else ask();
})();

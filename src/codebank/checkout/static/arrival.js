// Lights up the last step of an order's journey when the cardholder's statement really shows it.
(() => {
  const language = document.documentElement.lang;
  const seconds = (milliseconds) => (Math.floor(milliseconds / 100) / 10).toLocaleString(language, { minimumFractionDigits: 1 });
  const after = (milliseconds) => (milliseconds < 1000 ? `+${milliseconds} ms` : `+${seconds(milliseconds)} s`);
  const ask = async (step) => {
    try {
      const answer = await fetch(step.dataset.arrival, { credentials: "omit" });
      const { arrived, milliseconds_after_commit: late } = await answer.json();
      if (!arrived) return false;
      step.classList.remove("now");
      step.classList.add("done");
      // The statement counts from the bank's decision, this page from the buyer's click.
      step.querySelector(".time").textContent = after(Number(step.dataset.zero) + late);
      return true;
    } catch { return false; }
  };
  let tries = 0;
  const again = async () => {
    const step = document.querySelector("[data-arrival]");
    if (step?.classList.contains("done")) return;
    // Only what is asked about turns: without this script nothing does.
    step?.classList.add("now");
    if (step) tries += 1;
    if (step && (await ask(step))) return;
    if (tries < 120) setTimeout(again, tries < 20 ? 250 : 1000);
    else {
      step.classList.remove("now");
      step.querySelector(".time").textContent = step.dataset.late;
    }
  };
  again();
})();

// Lights up the last step of an order's journey when the cardholder's statement really shows it.
(() => {
  const ask = async () => {
    const step = document.querySelector("[data-arrival]");
    if (!step || step.classList.contains("done")) return Boolean(step);
    try {
      const answer = await fetch(step.dataset.arrival, { credentials: "omit" });
      const { arrived, milliseconds_after_commit: late } = await answer.json();
      if (!arrived) return false;
      step.classList.add("done");
      step.querySelector(".time").textContent = `+${late} ms`;
      return true;
    } catch { return false; }
  };
  let tries = 0;
  const again = async () => {
    tries += 1;
    if (!(await ask()) && tries < 120) setTimeout(again, tries < 20 ? 250 : 1000);
  };
  again();
})();

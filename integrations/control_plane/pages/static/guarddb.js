// Spares reloading; every page works without it.
"use strict";

// The editor: judge the statement while one types.
for (const form of document.querySelectorAll("form[data-evaluate]")) {
  const verdict = form.querySelector("#verdict");
  let timer = 0;
  let latest = 0;
  const evaluate = async () => {
    const mine = ++latest;
    const body = new URLSearchParams(new FormData(form));
    try {
      const answer = await fetch(form.dataset.evaluate, { method: "POST", body });
      const html = await answer.text();
      // An answer that was overtaken by a later question is not shown.
      if (mine === latest && answer.ok && !answer.redirected) verdict.innerHTML = html;
    } catch {
      verdict.textContent = "The server does not answer.";
    }
  };
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(evaluate, 250);
  });
}

// Rows of rules: one more.
for (const more of document.querySelectorAll("button.more")) {
  more.hidden = false;
  more.addEventListener("click", () => {
    const rows = more.parentElement.querySelectorAll(".row");
    const row = rows[rows.length - 1].cloneNode(true);
    for (const field of row.querySelectorAll("input")) field.value = "";
    more.before(row);
    row.querySelector("input").focus();
  });
}

// The queue: follow what happens, and leave alone what somebody is writing in.
for (const queue of document.querySelectorAll("[data-live]")) {
  const news = document.getElementById("news");
  const show = async () => {
    const answer = await fetch(queue.dataset.part);
    if (!answer.ok || answer.redirected) return;
    const fresh = document.createElement("div");
    fresh.innerHTML = await answer.text();
    const before = new Set([...queue.querySelectorAll("article")].map((card) => card.id));
    for (const card of queue.querySelectorAll("article")) {
      const again = fresh.querySelector(`#${CSS.escape(card.id)}`);
      // The card itself moves over, with what was typed into it and the focus that is in it.
      if (again) again.replaceWith(card);
    }
    const focused = document.activeElement;
    const added = [...fresh.querySelectorAll("article")].filter((card) => !before.has(card.id)).length;
    queue.replaceChildren(...fresh.childNodes);
    if (focused && focused.isConnected) focused.focus();
    if (added) news.textContent = added === 1 ? "One more statement waits." : `${added} more statements wait.`;
  };
  // One answer at a time, so that an older one never takes the place of a newer one.
  let asked = false;
  let asking = false;
  const refresh = async () => {
    asked = true;
    if (asking) return;
    asking = true;
    try {
      while (asked) {
        asked = false;
        await show();
      }
    } catch {
      news.textContent = "The server does not answer.";
    } finally {
      asking = false;
    }
  };
  const events = new EventSource(queue.dataset.live);
  // What happened before the stream was open (while the page was on its way, or the server was away) is not in it.
  events.addEventListener("open", refresh);
  for (const kind of ["requested", "decided", "executed", "failed"]) {
    events.addEventListener(`approval_${kind}`, refresh);
  }
}

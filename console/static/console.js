// Live figures, countdowns and local times. Every page works without this file.
"use strict";
(() => {
  const main = document.getElementById("main");
  const all = (selector, from = document) => from.querySelectorAll(selector);
  // The shopper's clock may be wrong: countdowns follow the server's.
  let skew = Date.parse(document.body.dataset.now) - Date.now();

  for (const t of all("time[data-local]")) {
    const d = new Date(t.dateTime);
    t.title = t.textContent;
    t.textContent = d.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
  }

  const two = (n) => String(n).padStart(2, "0");
  const left = (ms) => {
    const s = Math.max(0, Math.ceil(ms / 1000));
    const days = Math.floor(s / 86400);
    const clock = two(Math.floor(s / 3600) % 24) + ":" + two(Math.floor(s / 60) % 60) + ":" + two(s % 60);
    return days > 0 ? days + " d " + clock : clock;
  };
  const tick = () => {
    for (const e of all("[data-until]")) {
      e.textContent = left(Date.parse(e.dataset.until) - Date.now() - skew);
    }
  };
  tick();
  setInterval(tick, 250);

  // A form is sent once a click; the server sees the same key if it comes twice nevertheless.
  for (const form of all("form[data-once]")) {
    form.addEventListener("submit", (e) => {
      if (form.dataset.sent) e.preventDefault();
      form.dataset.sent = "1";
    });
  }
  window.addEventListener("pageshow", () => {
    for (const form of all("form[data-once]")) delete form.dataset.sent;
  });

  const more = document.querySelector("[data-more]");
  if (more) {
    more.addEventListener("click", (e) => {
      e.preventDefault();
      const rows = document.querySelector("[data-rows]");
      if (rows.children.length >= 50) return;
      const row = rows.lastElementChild.cloneNode(true);
      for (const input of all("input", row)) input.value = "";
      rows.append(row);
      row.querySelector("input").focus();
    });
  }

  if (!main.dataset.poll) return;

  // The last minute of each item, for the burn-down.
  const trace = new Map();
  const burn = (card, item, now) => {
    const at = card.querySelector("[data-burn]");
    if (!at || !item.known) return;
    const seen = (trace.get(item.sku) || []).filter((p) => p.t > now - 60000);
    seen.push({ t: now, n: item.available });
    trace.set(item.sku, seen);
    const first = seen[0];
    const span = (now - first.t) / 1000;
    if (span < 2) return;
    at.hidden = false;
    const top = Math.max(1, ...seen.map((p) => p.n));
    at.querySelector("polyline").setAttribute("points",
      seen.map((p) => ((p.t - first.t) / (now - first.t) * 120).toFixed(1) + "," + (23 - p.n / top * 22).toFixed(1)).join(" "));
    const rate = (first.n - item.available) / span;
    const seconds = Math.round(span);
    at.querySelector("[data-rate]").textContent = rate <= 0 ? "no units fewer in " + seconds + " s" :
      rate.toFixed(1) + " units fewer a second" + (item.available > 0 ? ", gone in " + left(item.available / rate * 1000) : "");
  };

  const show = (data) => {
    const chip = document.querySelector("[data-phase]");
    chip.className = "chip " + data.phase;
    if (chip.textContent !== data.label) chip.textContent = data.label;
    document.querySelector("[data-word]").textContent = data.word;
    const countdown = document.querySelector("[data-countdown]");
    if (data.until) countdown.dataset.until = data.until;
    else { delete countdown.dataset.until; countdown.textContent = ""; }
    for (const item of data.items) {
      const card = document.querySelector('[data-item="' + CSS.escape(item.sku) + '"]');
      if (!card) continue;
      for (const n of all("[data-n]", card)) {
        const s = String(item[n.dataset.n]);
        if (n.textContent !== s) n.textContent = s;
      }
      const part = (n) => item.total > 0 ? (100 * n / item.total).toFixed(1) : "0";
      const sold = card.querySelector('[data-bar="sold"]');
      const held = card.querySelector('[data-bar="held"]');
      sold.setAttribute("width", part(item.sold));
      held.setAttribute("x", part(item.sold));
      held.setAttribute("width", part(item.held));
      for (const b of all("[data-buy]", card)) b.disabled = !item.buyable;
      for (const h of all("[data-hint]", card)) h.hidden = !(item.known && item.sold >= item.total);
      burn(card, item, Date.parse(data.now));
    }
  };

  const every = 1000;
  let wait = every;
  let timer = 0;
  let asking = false;
  const again = () => location.replace(main.dataset.self);
  const ask = async () => {
    clearTimeout(timer);
    if (document.hidden || asking) return;
    asking = true;
    const stale = document.querySelector("[data-stale]");
    try {
      const answer = await fetch(main.dataset.poll, { cache: "no-store", signal: AbortSignal.timeout(10000) });
      if (answer.status === 401) return again();
      if (!answer.ok) throw new Error(String(answer.status));
      const data = await answer.json();
      skew = Date.parse(data.now) - Date.now();
      if (main.dataset.state && data.state !== main.dataset.state) return again();
      if (data.items) show(data);
      stale.hidden = true;
      wait = every;
    } catch {
      stale.hidden = false;
      wait = Math.min(2 * wait, 15000);
    } finally {
      asking = false;
    }
    // A little apart, so that a thousand pages opened at once do not ask at once for ever.
    timer = setTimeout(ask, wait + Math.random() * 100);
  };
  document.addEventListener("visibilitychange", ask);
  timer = setTimeout(ask, every);
})();

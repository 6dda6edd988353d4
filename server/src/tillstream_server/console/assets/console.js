// Keeps the live page up to date, and draws charts from the tables beside them. Every page is complete without it.
"use strict";
(() => {
  document.documentElement.classList.add("has-script");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const charts = new Map();

  const read = (table) => {
    const rows = [...table.tBodies[0].rows];
    const columns = table.tHead.rows[0].cells.length - 1;
    const values = Array.from({ length: columns }, (_, i) => rows.map((row) => {
      const { value } = row.cells[i + 1].dataset;
      return value === undefined ? null : Number(value);
    }));
    return {
      names: [...table.tHead.rows[0].cells].map((cell) => cell.textContent),
      labels: rows.map((row) => row.cells[0].textContent),
      data: [rows.map((_, i) => i), ...values],
    };
  };

  const options = (place, { names, labels }) => {
    const axis = { stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 } };
    const stroke = ["--one", "--two", "--three"].map(colour);
    return {
      width: place.clientWidth - 20,
      height: 240,
      scales: { x: { time: false } },
      axes: [{ ...axis, values: (_, ticks) => ticks.map((tick) => labels[tick] ?? "") }, { ...axis, size: 70 }],
      series: [
        { label: names[0], value: (_, index) => labels[index] ?? "" },
        ...names.slice(1).map((label, i) => ({
          label, stroke: stroke[i], width: i ? 1.5 : 2.5, dash: [[], [6, 4], [2, 3]][i], points: { show: false },
        })),
      ],
    };
  };

  const draw = (root) => {
    if (typeof uPlot === "undefined") return;
    for (const place of root.querySelectorAll("[data-chart]")) {
      const table = document.getElementById(place.dataset.table);
      if (!table || !place.clientWidth) continue;
      const shown = read(table);
      place.classList.add("drawn");
      charts.set(place, new uPlot(options(place, shown), shown.data, place));
    }
  };

  const forget = () => {
    for (const [place, chart] of charts) {
      if (!place.isConnected) {
        chart.destroy();
        charts.delete(place);
      }
    }
  };

  const redraw = () => {
    for (const [place, chart] of charts) {
      chart.destroy();
      charts.delete(place);
    }
    draw(document);
  };

  // What is open stays open and what has the focus keeps it when the figures are exchanged.
  const exchange = (live, html) => {
    const open = [...live.querySelectorAll("details")].map((details) => details.open);
    const focused = live.contains(document.activeElement) ? [...live.querySelectorAll("a, summary, [tabindex]")].indexOf(document.activeElement) : -1;
    live.innerHTML = html;
    live.querySelectorAll("details").forEach((details, i) => { if (i < open.length) details.open = open[i]; });
    if (focused >= 0) live.querySelectorAll("a, summary, [tabindex]")[focused]?.focus({ preventScroll: true });
    forget();
    draw(live);
  };

  const follow = (live) => {
    const line = document.getElementById("line");
    const pause = document.getElementById("pause");
    let source = null;
    let later = 0;
    // A browser gives up for good on any answer that is no stream: a proxy's while the server restarts, or the sign-in page.
    const tryAgain = async () => {
      try {
        const answer = await fetch(location.href, { redirect: "manual" });
        if (answer.type === "opaqueredirect") location.reload();
      } catch { /* nobody answers: the next attempt will tell */ }
      if (pause.getAttribute("aria-pressed") !== "true") listen();
    };
    const listen = () => {
      source = new EventSource(live.dataset.stream);
      source.onmessage = (event) => {
        line.textContent = "";
        exchange(live, event.data);
      };
      source.addEventListener("as-of", (event) => {
        line.textContent = "";
        for (const moment of live.querySelectorAll(".as-of")) moment.innerHTML = event.data;
      });
      source.onerror = () => {
        line.textContent = line.dataset.lost;
        if (source.readyState === EventSource.CLOSED) later = setTimeout(tryAgain, 5000);
      };
    };
    pause.addEventListener("click", () => {
      const paused = pause.getAttribute("aria-pressed") !== "true";
      pause.setAttribute("aria-pressed", String(paused));
      line.textContent = "";
      source.close();
      clearTimeout(later);
      if (!paused) listen();
    });
    addEventListener("pagehide", () => { source.close(); clearTimeout(later); });
    addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
    listen();
  };

  draw(document);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 200);
  });
  const live = document.getElementById("live");
  if (live) follow(live);
})();

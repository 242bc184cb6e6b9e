(function () {
  const isDark = window.matchMedia && matchMedia("(prefers-color-scheme: dark)").matches;
  document.querySelectorAll("input[data-plot]").forEach((box) => {
    if (box.dataset.ready) return;
    box.dataset.ready = "1";
    const plot = document.getElementById(box.dataset.plot);
    if (!plot || !window.Plotly) return;
    const color = isDark ? "#e6e6e6" : "#1a1a1a";
    Plotly.relayout(plot, { "font.color": color }).then(() => Plotly.Plots.resize(plot));
    box.addEventListener("input", () => {
      const words = box.value.toLowerCase().split(/[\s,]+/).filter(Boolean);
      const fits = (name) => !words.length || words.some((word) => name.toLowerCase().includes(word));
      const shown = plot.data.map((trace) => (trace.meta === undefined ? true : fits(String(trace.meta))));
      Plotly.restyle(plot, { visible: shown });
      document.querySelectorAll("table[data-policies] tbody tr").forEach((row) => {
        row.hidden = !fits(row.cells[0].textContent);
      });
    });
  });
})();

// Draws the figures. Colours are tokens ("$ink") that are read from the style sheet, so one figure serves light, dark and print.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const root = document.documentElement;
  const narrow = matchMedia("(max-width: 640px)");

  const isPlain = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

  // Only keys that name a colour are read as tokens: a label that begins with "$" stays a label.
  function painted(value, key, styles) {
    if (Array.isArray(value)) return value.map((entry) => painted(entry, key, styles));
    if (isPlain(value)) {
      return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, painted(entry, name, styles)]));
    }
    const token = typeof value === "string" && value[0] === "$" && /color$/.test(key);
    return token ? styles.getPropertyValue("--" + value.slice(1)).trim() : value;
  }

  function laidOver(below, above) {
    const result = { ...below };
    for (const [key, value] of Object.entries(above || {})) {
      result[key] = isPlain(value) && isPlain(result[key]) ? laidOver(result[key], value) : value;
    }
    return result;
  }

  function draw() {
    const styles = getComputedStyle(root);
    for (const place of document.querySelectorAll("[data-figure]")) {
      const figure = figures[place.dataset.figure];
      const changes = narrow.matches ? figure.narrow : {};
      const layout = laidOver(figure.layout, changes.layout);
      place.style.height = `${layout.height}px`; // plotly fits itself to its place when the window changes
      const data = figure.data.map((trace, i) => laidOver(trace, (changes.data || {})[i]));
      Plotly.react(place, painted(data, "", styles), painted(layout, "", styles), {
        responsive: true,
        displayModeBar: false,
        showTips: false,
      });
    }
  }

  if (Object.keys(figures).length === 0) return;
  draw();
  narrow.addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => { root.classList.add("print"); draw(); });
  addEventListener("afterprint", () => { root.classList.remove("print"); draw(); });
})();

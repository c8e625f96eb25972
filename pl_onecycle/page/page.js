(async () => {
  "use strict";
  const palettes = {
    light: { text: "#1b1f24", line: "#d0d7de", paper: "#ffffff", grey: "#6e7781", blue: "#0072b2", orange: "#e69f00",
      green: "#009e73", red: "#d55e00", purple: "#aa4499", sky: "#56b4e9", yellow: "#b8a500" },
    dark: { text: "#e6edf3", line: "#343c46", paper: "#171d25", grey: "#9da7b3", blue: "#56b4e9", orange: "#e69f00",
      green: "#2fcf9f", red: "#ff8c42", purple: "#cc79a7", sky: "#a5d8ff", yellow: "#f0e442" },
  };
  const asked = window.matchMedia("(prefers-color-scheme: dark)");

  const colour = (text, palette) => {
    const [name, alpha] = text.slice(1).split(":");
    if (!(name in palette)) return text;
    if (alpha === undefined) return palette[name];
    const parts = [1, 3, 5].map((k) => parseInt(palette[name].slice(k, k + 2), 16));
    return `rgba(${parts.join(",")},${alpha})`;
  };
  const coloured = (value, palette) => {
    if (Array.isArray(value)) return value.map((item) => coloured(item, palette));
    if (value !== null && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [
        key, (key === "color" || key === "fillcolor") && typeof item === "string" && item[0] === "@"
          ? colour(item, palette) : (key === "x" || key === "y" || key === "customdata") ? item : coloured(item, palette),
      ]));
    return value;
  };
  const axis = (own, palette) => ({
    ...own, automargin: true, gridcolor: palette.line, zeroline: false, linecolor: palette.line,
    title: { ...own.title, standoff: 8 },
  });
  const layoutOf = (own, palette) => {
    const layout = {
      ...own, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: palette.paper, font: { color: palette.text, size: 13 },
      margin: { l: 10, r: 14, t: 30, b: 10 }, hovermode: "closest", showlegend: true,
      modebar: { bgcolor: "rgba(0,0,0,0)", color: palette.grey, activecolor: palette.text },
      legend: { orientation: "h", yref: "container", y: 0, yanchor: "bottom", x: 0 },
      hoverlabel: { bgcolor: palette.paper, bordercolor: palette.text, font: { color: palette.text } },
    };
    for (const key of Object.keys(own).filter((name) => /^[xy]axis/.test(name))) layout[key] = axis(own[key], palette);
    return layout;
  };

  const library = async () => {
    const packed = Uint8Array.from(atob(document.getElementById("library").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };
  const draw = async () => {
    const palette = palettes[asked.matches ? "dark" : "light"];
    const charts = JSON.parse(document.getElementById("charts").textContent);
    for (const [k, { data, layout }] of charts.entries())
      await Plotly.react(`chart-${k}`, coloured(data, palette), layoutOf(coloured(layout, palette), palette),
        { responsive: true, displaylogo: false,
          modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]] });
  };

  if (typeof DecompressionStream === "undefined") return; // the static pictures stay
  await library();
  document.documentElement.classList.add("interactive");
  await draw();
  asked.addEventListener("change", draw);
  document.documentElement.dataset.drawn = "yes";
})();

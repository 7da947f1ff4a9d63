"use strict";
// What the page does besides showing: light and dark, sorting, drawing. Without it all is readable.
(() => {
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";

  // A colour of a chart is the name of a CSS variable: {css: "--ink"}.
  const painted = (value, style) => {
    if (Array.isArray(value)) return value.map((item) => painted(item, style));
    if (value === null || typeof value !== "object") return value;
    if (typeof value.css === "string") return style.getPropertyValue(value.css).trim();
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, painted(v, style)]));
  };

  const drawn = [];
  const draw = ({ plot, figure, shown }) => {
    const view = painted(figure.views[shown], getComputedStyle(root));
    Plotly.react(plot, view.data, view.layout, { responsive: true, displayModeBar: false });
  };

  const prepare = (figure) => {
    const frame = document.getElementById(figure.id);
    const chart = { plot: frame.querySelector(".plot"), figure, shown: 0 };
    frame.classList.add("drawn");
    if (figure.views.length > 1) {
      const buttons = figure.views.map((view, place) => {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "quiet";
        button.textContent = view.name;
        button.setAttribute("aria-pressed", String(place === 0));
        button.addEventListener("click", () => {
          chart.shown = place;
          buttons.forEach((other, i) => other.setAttribute("aria-pressed", String(i === place)));
          draw(chart);
        });
        return button;
      });
      frame.querySelector(".views").append(...buttons);
    }
    drawn.push(chart);
    draw(chart);
  };

  // Plotly's script lies in the page compressed, at two fifths of its size.
  const unpack = async () => {
    const text = document.getElementById("plotly").textContent;
    const bytes = Uint8Array.from(atob(text.trim()), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  };

  const drawAll = async () => {
    const figures = document.getElementById("figures");
    if (!figures) return;
    try {
      await unpack();
      JSON.parse(figures.textContent).forEach(prepare);
    } catch (error) {
      document.getElementById("no-charts").hidden = false;
      throw error;
    }
    root.dataset.charts = String(drawn.length);
  };

  const toggle = document.getElementById("theme");
  const sayTheme = () => { toggle.textContent = isDark() ? "Light" : "Dark"; };
  const repaint = () => { sayTheme(); drawn.forEach(draw); };
  toggle.hidden = false;
  toggle.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    // A page opened from a disk may not be allowed to keep anything.
    try { localStorage.setItem("edge-theme", root.dataset.theme); } catch { /* not kept */ }
    repaint();
  });
  dark.addEventListener("change", repaint);
  sayTheme();

  const key = (row, column) => {
    const cell = row.cells[column];
    if (column === 0 && !cell.dataset.order) return cell.textContent;
    return cell.dataset.order === undefined ? null : Number(cell.dataset.order);
  };
  const sort = (table, column, ascending) => {
    const body = table.tBodies[0];
    const before = (a, b) => {
      const [x, y] = [key(a, column), key(b, column)];
      if (x === null || y === null) return (x === null) - (y === null);
      const order = typeof x === "number" ? x - y : x.localeCompare(y);
      return ascending ? order : -order;
    };
    body.append(...[...body.rows].sort(before));
    [...table.tHead.rows[0].cells].forEach((head, place) => {
      if (place === column) head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
  };

  document.querySelectorAll("table.levels").forEach((table) => {
    if (table.tBodies[0].rows.length < 2) return;
    const heads = [...table.tHead.rows[0].cells];
    const select = document.createElement("select");
    heads.forEach((head, column) => {
      const usual = head.dataset.ascending === "1";
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sortable";
      button.append(...head.childNodes);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        sort(table, column, now ? now === "descending" : usual);
      });
      head.append(button);
      select.add(new Option(head.querySelector(".title").textContent, String(column)));
    });
    select.addEventListener("change", () => {
      const column = Number(select.value);
      sort(table, column, heads[column].dataset.ascending === "1");
    });
    const label = document.createElement("label");
    label.className = "sort";
    label.append("Sort by", select);
    table.parentElement.before(label);
  });

  drawAll();
})();

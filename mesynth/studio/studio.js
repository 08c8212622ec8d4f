// What the page's own parts do by hand: the board of action units, the curve, and everything that is clicked in a list.
window.mesynthStudio = {
  // The board's value is a request as `--au` takes it: "12=0.25,L4=0.1". Its `lowest` says how far below 0 each AU may
  // go on this face, {"12": [left, right]}; what was asked on another face keeps its place, and is refused in words.
  board(element, props, trigger, watch) {
    const letters = [["A", 0.1], ["B", 0.25], ["C", 0.5], ["D", 0.75], ["E", 1]];
    const state = {}, side = {};
    let timer = 0, own = null;
    const rows = () => element.querySelectorAll(".ms-au");
    const code = (row) => row.dataset.code;
    const text = () => [...rows()].map((row) => {
      const [l, r] = state[code(row)] || [0, 0], au = code(row);
      if (l === r) return l ? `${au}=${l}` : "";
      return [l ? `L${au}=${l}` : "", r ? `R${au}=${r}` : ""].filter(Boolean).join(",");
    }).filter(Boolean).join(",");
    const stronger = (l, r) => Math.abs(l) >= Math.abs(r) ? l : r;
    const floor = (row, which, value) => {
      const [l, r] = (props.lowest || {})[code(row)] || [0, 0];
      return Math.min(value, which === "L" ? l : which === "R" ? r : l && r ? Math.min(l, r) : 0);
    };
    const draw = (row) => {
      const [l, r] = state[code(row)] || [0, 0], which = side[code(row)] || "B";
      const value = which === "L" ? l : which === "R" ? r : stronger(l, r);
      const input = row.querySelector("input"), low = floor(row, which, value);
      input.min = low;
      if (low < 0) input.setAttribute("list", "ms-zero");  // a mark where nothing changes
      else input.removeAttribute("list");
      if (document.activeElement !== input || Number(input.value) !== value) input.value = value;
      const size = Math.abs(value), words = value < 0 ? "lowered by" : "intensity";
      const near = size ? letters.reduce((a, b) => Math.abs(b[1] - size) < Math.abs(a[1] - size) ? b : a)[0] : "–";
      row.querySelector(".letter").textContent = value < 0 ? `−${near}` : near;
      row.querySelector(".letter").title = size ? `${words} ${size}: nearest FACS letter ${near}` : "not shown";
      input.setAttribute("aria-valuetext", value < 0 ? `lowered, ${near}, ${value}` : size ? `${near}, ${value}` : "none");
      row.classList.toggle("moved", Boolean(l || r));
      row.querySelectorAll(".sides button").forEach((b) => b.classList.toggle("on", b.dataset.side === which));
    };
    const read = (request) => {
      for (const key in state) delete state[key];
      for (const term of (request || "").split(",")) {
        const match = /^\s*([LR]?)(\d+)=(-?[\d.]+)\s*$/.exec(term);
        if (!match) continue;
        const pair = state[match[2]] || [0, 0], value = Number(match[3]);
        if (match[1] !== "R") pair[0] = value;
        if (match[1] !== "L") pair[1] = value;
        state[match[2]] = pair;
      }
      rows().forEach((row) => {
        const [l, r] = state[code(row)] || [0, 0];
        if (l === r) side[code(row)] = "B";
        else if (!l || !r) side[code(row)] = l ? "L" : "R";
        draw(row);
      });
    };
    const tell = () => {
      clearTimeout(timer);
      timer = setTimeout(() => { own = text(); props.value = own; trigger("input"); }, 90);
    };
    element.addEventListener("input", (event) => {
      const row = event.target.closest(".ms-au");
      if (!row) return;
      event.stopPropagation();
      const value = Math.round(100 * event.target.value) / 100 || 0, which = side[code(row)] || "B", pair = [...(state[code(row)] || [0, 0])];
      if (which !== "R") pair[0] = value;
      if (which !== "L") pair[1] = value;
      state[code(row)] = pair;
      draw(row);
      tell();
    });
    element.addEventListener("click", (event) => {
      const button = event.target.closest(".sides button");
      if (!button) return;
      const row = button.closest(".ms-au"), [l, r] = state[code(row)] || [0, 0], most = stronger(l, r);
      side[code(row)] = button.dataset.side;
      if (most) {
        state[code(row)] = { B: [most, most], L: l === r ? [most, 0] : [l, r], R: l === r ? [0, most] : [l, r] }[button.dataset.side];
        tell();
      }
      draw(row);
    });
    read(props.value);
    watch("lowest", () => rows().forEach(draw));
    watch("value", () => { if (props.value !== own) { own = null; } read(props.value); });
  },

  // Grips at onset, apex and offset; what was dragged to is told in milliseconds when the grip is let go.
  curve(element, props, trigger) {
    let held = null;
    const svg = () => element.querySelector("svg");
    const at = (event) => {
      const box = svg().getBoundingClientRect(), data = svg().dataset;
      const x = (event.clientX - box.left) / box.width * Number(data.width);
      const ms = (x - Number(data.left)) / (Number(data.right) - Number(data.left)) * Number(data.most);
      return Math.round(Math.min(Math.max(ms, 0), Number(data.most)) / 5) * 5;
    };
    element.addEventListener("pointerdown", (event) => {
      const grip = event.target.closest(".grip");
      if (!grip) return;
      held = grip;
      event.preventDefault();
      svg().setPointerCapture(event.pointerId);
    });
    element.addEventListener("pointermove", (event) => {
      if (!held) return;
      const data = svg().dataset, ms = at(event);
      const x = Number(data.left) + ms / Number(data.most) * (Number(data.right) - Number(data.left));
      held.setAttribute("transform", `translate(${x},0)`);
      held.querySelector("text").textContent = `${held.dataset.name} ${ms}`;
    });
    const drop = (event) => {
      if (!held) return;
      const name = held.dataset.name, ms = at(event);
      held = null;
      trigger("select", { index: name, value: ms });
    };
    element.addEventListener("pointerup", drop);
    element.addEventListener("pointercancel", () => { held = null; });
  },

  // Anything with data-do in a list: what it says is told with its data-value.
  list(element, props, trigger) {
    const say = (event) => {
      const target = event.target.closest("[data-do]");
      if (!target || !element.contains(target)) return false;
      trigger("select", { index: target.dataset.do, value: target.dataset.value });
      if (target.dataset.do === "open") {
        setTimeout(() => document.querySelector("#ms-clip")?.scrollIntoView({ behavior: "smooth", block: "nearest" }), 700);
      }
      return true;
    };
    element.addEventListener("click", say);
    element.addEventListener("keydown", (event) => {
      if ((event.key === "Enter" || event.key === " ") && event.target.matches("[data-do]:not(button)") && say(event)) event.preventDefault();
    });
  },
};

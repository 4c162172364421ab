// A measured number opens the runs behind it, a gallery opens in its own size, and words filter what is shown.
{
  const byId = (id) => document.getElementById(id);
  const [opened, whole] = [byId("opened"), byId("opened-picture")];

  const element = (name, text, ...children) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    made.append(...children);
    return made;
  };

  function openCell(cell) {
    const runs = cell.dataset.runs.split(" ").map((id) => byId(id));
    const values = cell.dataset.values.split(" ");
    byId("opened-title").textContent = `${cell.dataset.what}: ${cell.textContent}`;
    const rows = runs.flatMap((run, index) =>
      run ? [element("tr", undefined,
        element("td", run.dataset.seed), element("td", values[index]),
        element("td", run.querySelector(".name").textContent),
        element("td", run.dataset.state), element("td", run.dataset.commit))] : []);
    const head = ["seed", "value, %", "run", "state", "commit"].map((name) => element("th", name));
    const table = element("table", undefined, element("thead", undefined, element("tr", undefined, ...head)), element("tbody", undefined, ...rows));
    table.className = "plain";
    const scroll = element("div", undefined, table);
    scroll.className = "scroll";
    const entries = runs.filter(Boolean).map((run, index) => {
      const copy = run.cloneNode(true);
      copy.removeAttribute("id");
      copy.hidden = false;
      copy.open = index === 0;
      return copy;
    });
    byId("opened-content").replaceChildren(scroll, ...entries);
    opened.showModal();
    opened.scrollTop = 0;
  }

  function openPicture(figure) {
    const picture = figure.querySelector("img").cloneNode();
    byId("opened-caption").textContent = figure.querySelector("figcaption").textContent;
    whole.querySelector(".whole").replaceChildren(picture);
    whole.showModal();
  }

  document.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab, as of any link
    const cell = event.target.closest("a.cell");
    const link = event.target.closest("a.picture");
    const thumb = event.target.closest(".thumb button");
    const figure = thumb ? thumb.closest("figure") : link && byId(link.hash.slice(1));
    if (cell) openCell(cell);
    else if (figure) openPicture(figure);
    else if (event.target instanceof HTMLDialogElement) return event.target.close(); // beside it
    else return;
    event.preventDefault();
  });

  const filter = byId("filter");
  const choices = [...document.querySelectorAll("select[data-by]")];
  const texts = new Map([...document.querySelectorAll("main tbody tr, details.run, figure.thumb")]
    .filter((item) => !item.parentElement.closest("details.run"))
    .map((item) => [item, item.textContent.toLowerCase()]));

  function sift() {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let hits = 0;
    for (const [item, text] of texts) {
      const chosen = !item.matches("details.run") || choices.every((choice) => !choice.value || item.dataset[choice.dataset.by] === choice.value);
      item.hidden = !(chosen && words.every((word) => text.includes(word)));
      if (!item.hidden) hits += 1;
    }
    byId("hits").textContent = words.length ? `${hits} of ${texts.size}` : "";
    // A table without a hit would be a heading, a warning and notes on nothing.
    for (const figure of document.querySelectorAll("main figure.wide")) {
      figure.hidden = words.length > 0 && [...figure.querySelectorAll("tbody tr")].every((row) => row.hidden);
    }
    // What is folded and holds a hit is opened; a run's own entry is a hit as a whole.
    if (words.length) {
      for (const section of document.querySelectorAll("details.section")) {
        section.open = [...section.querySelectorAll("tbody tr")].some((row) => !row.hidden);
      }
    }
  }
  filter.addEventListener("input", sift);
  choices.forEach((choice) => choice.addEventListener("change", sift));
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, select, textarea");
    if (event.key === "/" && !typing && !opened.open && !whole.open) {
      event.preventDefault();
      filter.focus();
    } else if (event.key === "Escape" && event.target === filter) {
      filter.value = "";
      sift();
      filter.blur();
    }
  });

  // A page of a sweep in progress is loaded again, unless somebody reads in a dialog or has filtered it.
  const refresh = document.querySelector("main").dataset.refresh;
  if (refresh) {
    setInterval(() => {
      if (!document.hidden && !opened.open && !whole.open && !filter.value) location.reload();
    }, 1000 * refresh);
  }
}

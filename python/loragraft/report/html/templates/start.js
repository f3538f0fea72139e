// The table first, then the charts one after the other, so that the page answers at once.
const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const places = [...document.querySelectorAll(".chart")];
const PAPER = 680;

async function loadPlotly() {
  const packed = atob(document.getElementById("plotly").textContent);
  const bytes = new Uint8Array(packed.length);
  for (let place = 0; place < packed.length; place += 1) bytes[place] = packed.charCodeAt(place);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(stream).text();
  document.head.append(script);
}

function drawAll(width) {
  places.forEach((place, number) => draw(place, data.charts[number], width ? width(place) : place.clientWidth, data.charts));
}

async function drawFirst() {
  for (const [number, place] of places.entries()) {
    draw(place, data.charts[number], place.clientWidth, data.charts);
    await new Promise((done) => { setTimeout(done); });
  }
}

function follow() {
  let waiting, width = innerWidth;
  addEventListener("resize", () => {
    // Phones resize when their bars slide away; only the width matters.
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(() => drawAll(), 100);
  });
  prefersDark.addEventListener("change", () => drawAll());
  addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    drawAll((place) => (place.closest(".small") ? PAPER / 3 - 14 : PAPER));
  });
  addEventListener("afterprint", () => {
    delete root.dataset.theme;
    drawAll();
  });
}

if (data.rows) makeTable(data);
if (places.length) {
  try {
    await loadPlotly();
    await drawFirst();
    follow();
    root.dataset.charts = "drawn";
  } catch (error) {
    // A browser of before 2023 cannot unpack the charts; the tables have the figures.
    root.dataset.charts = "failed";
    for (const place of places) place.textContent = "This browser cannot draw the charts; the tables have their figures.";
    console.error(error);
  }
}

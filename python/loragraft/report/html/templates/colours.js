// Colours that follow the page's, light or dark. The scales are perceptually uniform: viridis for
// amounts, and for what parts at zero vik on light and berlin on dark ground (F. Crameri, 2018).
const VIRIDIS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
const VIK = ["#001261", "#03397c", "#1e6f9d", "#71a8c4", "#c9dde7", "#eacebd", "#d39774", "#be6533", "#8b2706", "#590008"];
const BERLIN = ["#9eb0ff", "#5ba4db", "#2d7597", "#1a4256", "#11191e", "#280d01", "#501803", "#8a3f2a", "#c4756a", "#ffadad"];

const steps = (colours) => colours.map((colour, place) => [place / (colours.length - 1), colour]);

const prefersDark = matchMedia("(prefers-color-scheme: dark)");

function theme() {
  const root = document.documentElement;
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const dark = prefersDark.matches && root.dataset.theme !== "light";
  return {
    ground: colour("ground"), raised: colour("raised"), ink: colour("ink"), soft: colour("soft"),
    line: colour("line"), accent: colour("accent"), second: colour("second"), band: colour("band"),
    amount: steps(VIRIDIS), aboutZero: steps(dark ? BERLIN : VIK),
  };
}

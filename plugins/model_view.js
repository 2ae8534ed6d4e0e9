// The page of the model as a part of Airflow's UI. Airflow shows other pages in a frame that may not lead out of
// itself; this one leads links through Airflow's own router, and opens the trigger form behind a button.
const TRIGGER = '[data-testid="trigger-dag-button"]';
const PATIENCE_MS = 10000;
const LOOK_MS = 100;

function openForm() {
  const end = Date.now() + PATIENCE_MS;
  const look = setInterval(() => {
    const button = document.querySelector(TRIGGER);
    if (button && !button.disabled) button.click();
    if (button || Date.now() > end) clearInterval(look);
  }, LOOK_MS);
}

function follow(click, navigate) {
  const link = click.target.closest('a[target="_top"]');
  if (!link || click.button !== 0 || click.metaKey || click.ctrlKey || click.shiftKey) return;
  click.preventDefault();
  const base = new URL(document.baseURI).pathname;
  navigate(`/${new URL(link.href).pathname.slice(base.length)}`);
  if ("form" in link.dataset) openForm();
}

globalThis.AirflowPlugin = function ModelView() {
  const navigate = globalThis.ReactRouterDOM.useNavigate();
  return globalThis.React.createElement("iframe", {
    onLoad: (event) =>
      event.currentTarget.contentDocument?.addEventListener("click", (click) => follow(click, navigate)),
    src: new URL("reports/model", document.baseURI).href,
    style: { border: "none", display: "block", height: "100%", width: "100%" },
    title: "Model",
  });
};

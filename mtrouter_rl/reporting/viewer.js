const root = document.currentScript.previousElementSibling;
const part = (role) => root.querySelector(`[data-role="${role}"]`);
const make = (tag, text, kind) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (kind) node.className = kind;
  return node;
};
const fill = (select, names) => {
  const before = select.value;
  select.replaceChildren(...names.map((name) => new Option(name)));
  if (names.includes(before)) select.value = before;
};
const distinct = (values) => [...new Set(values)];
const usd = (value) => `$${Number(value.toPrecision(3))}`;
const color = (model) => COLORS[DATA.model_names.indexOf(model) % COLORS.length] || "#888";

function reason(turn) {
  if (turn.q_values === null) {
    if (turn.probabilities === null) return "";
    return "probabilities: " + DATA.model_names.map((name, i) => `${name} ${(100 * turn.probabilities[i]).toFixed(0)}%`).join(", ");
  }
  const known = DATA.model_names.map((name, i) => [name, turn.q_values[i]]).filter((pair) => pair[1] !== null);
  known.sort((a, b) => b[1] - a[1]);
  const masked = DATA.model_names.filter((name, i) => turn.q_values[i] === null);
  let told = known.length > 1 ? `the router values ${known[0][0]} highest, ${(known[0][1] - known[1][1]).toFixed(3)} above ${known[1][0]}` : "";
  if (masked.length) told += `${told ? "; " : ""}could not be called: ${masked.join(", ")}`;
  return told;
}

function bars(turn) {
  const box = make("div", undefined, "bars");
  const known = turn.q_values.filter((value) => value !== null);
  const low = Math.min(...known), high = Math.max(...known);
  DATA.model_names.forEach((name, i) => {
    const value = turn.q_values[i];
    if (value === null) return;
    const row = make("div", undefined, "bar");
    const bar = make("span", undefined, "fill");
    bar.style.width = `${high > low ? 5 + 95 * (value - low) / (high - low) : 100}%`;
    bar.style.background = color(name);
    const track = make("span", undefined, "track");
    track.append(bar);
    row.append(make("span", name, name === turn.model ? "who called" : "who"), track, make("span", value.toFixed(3), "number"));
    box.append(row);
  });
  return box;
}

function message(label, text) {
  const box = make("details", undefined, "message");
  const first = text.length > 90 ? `${text.slice(0, 90)}...` : text;
  box.append(make("summary", `${label}: ${first.replace(/\s+/g, " ") || "(empty)"}`), make("pre", text));
  return box;
}

function show() {
  const of = (role) => part(role).value;
  fill(part("split"), distinct(DATA.episodes.map((one) => one.split)));
  const ofSplit = DATA.episodes.filter((one) => one.split === of("split"));
  fill(part("policy"), distinct(ofSplit.map((one) => one.policy)));
  const ofPolicy = ofSplit.filter((one) => one.policy === of("policy"));
  fill(part("episode"), ofPolicy.map((one) => one.name));
  const episode = ofPolicy.find((one) => one.name === of("episode"));
  if (!episode) return;
  const head = part("head");
  head.replaceChildren(
    make("p", `score ${episode.score.toFixed(1)}, ${usd(episode.cost_usd)}${DATA.is_simulated ? " (simulated models)" : ""}, ${episode.turns.length} turns; ${episode.ending}`),
    message("task", episode.task_text)
  );
  if (episode.first_observation) head.append(message("shown first", episode.first_observation));
  let spent = 0;
  part("turns").replaceChildren(...episode.turns.map((turn) => {
    spent += turn.cost_usd;
    const item = make("li");
    const line = make("p", undefined, "call");
    const name = make("b", turn.model);
    name.style.borderBottom = `3px solid ${color(turn.model)}`;
    line.append(name, ` ${usd(turn.cost_usd)} (${usd(spent)} so far)`);
    if (turn.served_model !== turn.model) line.append(`; answered by ${turn.served_model}`);
    if (turn.gain) line.append(`; score ${turn.gain > 0 ? "+" : ""}${turn.gain.toFixed(1)}`);
    if (turn.error) line.append(make("span", ` ${turn.error}`, "error"));
    item.append(line);
    const why = reason(turn);
    if (why) item.append(make("p", (DATA.is_logged ? "of this state " : "") + why, "why"));
    if (turn.q_values !== null) item.append(bars(turn));
    item.append(message("wrote", turn.action), message("came back", turn.observation));
    return item;
  }));
}
["split", "policy", "episode"].forEach((role) => part(role).addEventListener("change", show));
show();

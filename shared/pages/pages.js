// What waits for me, what I sign, sign or decline. Everything comes from the public HTTP API.

const byId = (id) => document.getElementById(id);
let signingServices = [];

async function ask(path, options = {}) {
  const answer = await fetch(path, { credentials: "same-origin", ...options });
  const body = await answer.json();
  if (!answer.ok) throw new Error([body.title, body.detail, body.next_step].filter(Boolean).join(" "));
  return body;
}

async function sha256(text) {
  const bytes = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
  return [...new Uint8Array(bytes)].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function coloured(lines) {
  return lines.map((line) => {
    const span = document.createElement("span");
    span.className = line.startsWith("+") ? "added" : line.startsWith("-") ? "removed" : "";
    span.textContent = line + "\n";
    return span;
  });
}

async function item(service, signable) {
  const node = byId("signable").content.firstElementChild.cloneNode(true);
  const same = (await sha256(signable.canonical)) === signable.digest;
  node.querySelector(".title").textContent = signable.title;
  node.querySelector(".what").textContent =
    `${signable.system} · ${service} · your signature will mean: ${signable.meaning}`;
  node.querySelector(".text").textContent = signable.text;
  node.querySelector(".differs").hidden = signable.difference.length === 0;
  node.querySelector(".whole").open = signable.difference.length === 0;
  node.querySelector(".difference").replaceChildren(...coloured(signable.difference));
  node.querySelector(".digest").textContent =
    `SHA-256 ${signable.digest} ${same ? "(your browser computed the same)" : "(YOUR BROWSER COMPUTED ANOTHER: do not sign)"}`;
  const box = node.querySelector("input");
  box.disabled = !same;
  Object.assign(box.dataset, {
    service, record: signable.record, digest: signable.digest, meaning: signable.meaning,
  });
  return node;
}

async function showWaiting() {
  const nodes = [];
  for (const service of signingServices) {
    const { items } = await ask(`/v1/${service}/awaiting-signature`);
    for (const signable of items) nodes.push(await item(service, signable));
  }
  byId("waiting").replaceChildren(...nodes);
  byId("act").hidden = nodes.length === 0;
  byId("waiting-note").textContent = nodes.length
    ? `${nodes.length} ${nodes.length === 1 ? "record waits" : "records wait"} for you. Read, tick, give a reason, sign.`
    : "Nothing waits for you.";
}

async function showSystems() {
  const { items } = await ask("/v1/systems?page_size=200");
  byId("systems").replaceChildren(...items.map((system) => {
    const node = document.createElement("li");
    const name = document.createElement("strong");
    name.textContent = system.name;
    node.append(name, ` (${system.key}) `);
    for (const [words, path] of [["evidence pack", "evidence-pack.html"], ["gaps", "gaps"], ["matrix", "matrix"], ["timeline", "timeline"]]) {
      const link = document.createElement("a");
      link.href = `/v1/systems/${encodeURIComponent(system.key)}/${path}`;
      link.textContent = words;
      node.append(link, " ");
    }
    return node;
  }));
}

async function act(event) {
  event.preventDefault();
  const ticked = [...document.querySelectorAll("#waiting input:checked")].map((box) => ({ ...box.dataset }));
  const outcome = byId("outcome");
  if (ticked.length === 0) {
    outcome.textContent = "Tick what you mean first.";
    return;
  }
  const decision = event.submitter.value;
  try {
    for (const service of new Set(ticked.map((one) => one.service))) {
      const items = ticked.filter((one) => one.service === service)
        .map(({ record, digest, meaning }) => ({ record, digest, meaning }));
      await ask(`/v1/${service}/signatures`, {
        method: "POST",
        headers: { "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID() },
        body: JSON.stringify({ decision, reason: byId("reason").value, items }),
      });
    }
    outcome.className = "done";
    outcome.textContent = `${decision === "sign" ? "Signed" : "Declined"}: ${ticked.map((one) => one.record).join(", ")}`;
    await showWaiting();
  } catch (error) {
    outcome.className = "refused";
    outcome.textContent = error.message;
  }
}

async function start() {
  byId("act").addEventListener("submit", act);
  try {
    const info = await ask("/v1/info");
    signingServices = info.signing;
    byId("mode").textContent = `${info.mode} mode`;
    await showWaiting();
    await showSystems();
  } catch (error) {
    byId("waiting-note").className = "refused";
    byId("waiting-note").textContent = error.message;
  }
}

start();

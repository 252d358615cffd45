// A connection to the daemon: the token that it may ask for, and a WebSocket that is open.

const KEY = "sttd.token";  // for the tab alone

const OPEN_MS = 10_000;  // a network that swallows what goes to it says nothing for minutes
const SENDABLE = /^[\w!#$%&'*+.^`|~-]+$/;  // what a handshake has room for

let told = null;  // where the browser keeps nothing for this page

export const token = () => {
  try { return sessionStorage.getItem(KEY) ?? told; } catch { return told; }
};

export const bearer = () => (token() ? { Authorization: `Bearer ${token()}` } : {});

function open(token, resume) {
  const url = new URL(resume ? "/ws?resume" : "/ws", location.href);  // by which a proxy knows that its cookie counts
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  return new Promise((resolve, reject) => {
    const socket = token ? new WebSocket(url, [`sttd.token.${token}`]) : new WebSocket(url);
    socket.binaryType = "arraybuffer";
    // The daemon's `hello` may come in the same turn as the opening: nothing of it is lost.
    const early = [];
    socket.onmessage = (message) => early.push(message);
    const slow = setTimeout(() => {
      socket.onopen = socket.onerror = null;
      socket.close();
      reject(new Error("The daemon does not answer."));
    }, OPEN_MS);
    socket.onopen = () => { clearTimeout(slow); resolve([socket, early]); };
    socket.onerror = () => { clearTimeout(slow); reject(new Error("The daemon does not answer.")); };
  });
}

let asking = null;  // one dialog for all that want to connect

/** Ask the person for the token; rejects where none is given. */
function ask() {
  const dialog = document.getElementById("ask"), field = document.getElementById("token");
  asking ??= new Promise((resolve, reject) => {
    dialog.returnValue = "";
    dialog.onclose = () => {
      asking = null;
      if (dialog.returnValue !== "ok") return reject(new Error("This daemon asks for its token."));
      const given = field.value.trim();
      field.value = "";
      if (!SENDABLE.test(given)) {
        return reject(new Error("A page cannot send this token: it may have letters, digits and !#$%&'*+-.^_`|~ alone."));
      }
      told = given;
      try { sessionStorage.setItem(KEY, given); } catch { /* for this visit alone */ }
      dispatchEvent(new Event("token"));
      resolve();
    };
    dialog.showModal();
  });
  return asking;
}

/** Why the daemon, or a proxy before several, takes nobody new; null where /ready knows of nothing. */
async function refusal(answer) {
  const said = await answer.json().catch(() => ({}));
  if (answer.ok) return said.admission >= 1 ? new Error("No place is free. Try again later.") : null;
  const why = said.error?.message ?? said.reason;
  return why ? new Error(`Nobody new is taken: ${why}.`) : null;
}

/**
 * An open WebSocket whose messages go to `hear`, parsed; `closed` gets its close event. `quietly`: no person is asked.
 * `resume`: it is for a session that there is.
 *
 * A refused handshake looks like any failure to a page, so it asks over plain HTTP what the matter is.
 */
export async function connect({ hear, closed, quietly = false, resume = false }) {
  let opened;
  try {
    opened = await open(token(), resume);
  } catch (failure) {
    const answer = quietly ? null : await fetch("/ready", { headers: bearer(), signal: AbortSignal.timeout(OPEN_MS) }).catch(() => null);
    if (answer?.status !== 401) throw (answer && await refusal(answer)) ?? failure;
    await ask();
    opened = await open(token(), resume);
  }
  const [socket, early] = opened;
  const take = (message) => hear(JSON.parse(message.data), socket);
  socket.onmessage = take;
  socket.onerror = null;
  socket.onclose = (close) => closed(close, socket);
  early.forEach(take);
  return socket;
}

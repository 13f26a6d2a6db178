// How the page talks to the daemon: requests whose errors are sentences, and streams of server-sent events.

/** The answer to a request, if it is a good one; else raises what the daemon said, with the `status`. */
export async function request(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key && { Authorization: `Bearer ${key}` }) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => null);
  throw Object.assign(new Error(said?.error?.message ?? `${path} answered ${answer.status}`), { status: answer.status });
}

/** The events of a stream: `event` (its name, or nothing) and `data`, or a `comment`. */
export async function* eventsOf(stream) {
  let rest = "";
  let event;
  let data = [];
  for await (const text of textOf(stream)) {
    const lines = (rest + text).split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      if (line.startsWith(":")) yield { comment: line.slice(1).trim() };
      else if (line.startsWith("event:")) event = line.slice(6).trim();
      else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
      else if (line === "" && data.length) {
        yield { event, data: data.join("\n") };
        event = undefined;
        data = [];
      }
    }
  }
}

async function* textOf(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
  }
}

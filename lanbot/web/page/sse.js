// Server-sent events from a body that arrives in reads of any size: a frame may be split anywhere, within a letter too.

const END = /\r\n\r\n|\n\n|\r\r/;

export async function* frames(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let held = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return; // what is held has no end: it is no frame
      held += decoder.decode(value, { stream: true });
      for (let end; (end = END.exec(held)); ) {
        const data = dataOf(held.slice(0, end.index));
        held = held.slice(end.index + end[0].length);
        if (data !== null) yield data;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function dataOf(frame) {
  const lines = frame.split(/\r\n|\n|\r/).filter((line) => line.startsWith("data:"));
  return lines.length ? lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n") : null;
}

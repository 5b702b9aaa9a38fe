// node subscribe.mjs URL POSITION: prints position and event, for every event above the position, and never stops (PROOFTRAIL_TOKEN).
let [url, position] = process.argv.slice(2), coming = position;
for (;; await new Promise((resume) => setTimeout(resume, 1000))) try {
  const headers = { Authorization: `Bearer ${process.env.PROOFTRAIL_TOKEN}`, "Last-Event-ID": position };
  let rest = "", answer = await fetch(url, { headers });
  if (!answer.ok) throw new Error(await answer.text());
  for await (const text of answer.body.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + text).split("\n");
    rest = lines.pop();
    for (const line of lines)
      if (line.startsWith("id: ")) coming = line.slice(4);
      else if (line.startsWith("data: ")) console.log(coming, line.slice(6));
      else if (!line) position = coming; // an empty line: the event is whole, and done with
  }
} catch (error) { console.error(error.message); }

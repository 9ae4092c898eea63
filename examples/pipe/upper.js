#!/usr/bin/env node
// gm-work --pipe upper -- ./upper.js     A job is a text; its result the same in capitals.
const lines = require("readline").createInterface({ input: process.stdin });

async function upper(job) {
  if (job.data === undefined) throw Object.assign(new Error("no text"), { verdict: "dead" });
  return job.data.toUpperCase();
}

(async () => {
  for await (const line of lines) {
    const answer = await upper(JSON.parse(line)).then(
      (result) => ({ ok: true, result }),
      (error) => ({ ok: false, error: error.message, verdict: error.verdict, stderr: error.stack }));
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
})();

// Try again when the network or the server fails, each time after a longer pause, or as long as the
// server's Retry-After says. The openai package does it by itself.
//
// node retry.js ["QUESTION"] [--url URL]

import OpenAI from "openai";
import { connection, model, words } from "./common.js";

const client = new OpenAI({ ...connection, maxRetries: 3, timeout: 30_000 /* ms for each try */ });
try {
  const answer = await client.chat.completions.create({
    model,
    messages: [{ role: "user", content: words[0] ?? "Name three uses of a paper clip." }],
    max_tokens: 1024,
  });
  console.log(answer.choices[0].message.content);
} catch (error) {
  console.error(`Still failing after all tries: ${error.message}`);
  process.exitCode = 1;
}

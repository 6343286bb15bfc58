// A question in words: node text.js ["QUESTION"] [--url URL]

import { client, model, words } from "./common.js";

const answer = await client.chat.completions.create({
  model,
  messages: [{ role: "user", content: words[0] ?? "Write a few lines about spring." }],
  max_tokens: 1024,
  temperature: 0.7,
});
console.log(answer.choices[0].message.content);
